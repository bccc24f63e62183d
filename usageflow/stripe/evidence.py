"""What there is to judge a slot by: its units, earlier differences, and Stripe's error reports.

It turns rows into the values of `settlement` and decides nothing. Gathered before Stripe is asked
and again before anything is done, equal evidence means that nothing has changed in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, cast

import msgspec

from usageflow.db.exact import add
from usageflow.db.session import Tx
from usageflow.db.tables import StripeMeterRow
from usageflow.ledger import slots
from usageflow.ledger.slots import Holding, Member, Series
from usageflow.stripe import differences
from usageflow.stripe.meter_events import Meter
from usageflow.stripe.settlement import PAST, Doubt, Formula, Sent, Slot

_NOTHING: Final = Decimal(0)
_ONE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A slot, and how many of its units only wait to be settled."""

    slot: Slot
    accepted: int


@dataclass(frozen=True, slots=True)
class _Reported:
    """Units of one slot that Stripe may have dropped, and the codes it gave."""

    suspects: dict[int, Member]
    codes: set[str]


def meter(tx: Tx, series: Series) -> Meter | None:
    """The meter of a series, as it was listed last; None if it never was."""
    row = tx.session.get(StripeMeterRow, (series.account_id, series.event_name))
    if row is None:
        return None
    return Meter(
        event_name=row.event_name,
        meter_id=row.meter_id,
        formula=row.formula,
        time_window=row.event_time_window,
    )


def gather(
    tx: Tx, series: Series, formula: str, hours: Sequence[datetime]
) -> dict[datetime, Evidence]:
    """The evidence on these hours of a series; at most a hundred."""
    holdings = slots.holdings(tx, series, hours, latest=formula == "last")
    accepted = differences.accepted(tx, series, hours)
    reported = _reported(tx, series, hours)
    return {
        hour: _evidence(
            holdings[hour],
            cast("Formula", formula),
            accepted.get(hour, _NOTHING),
            reported.get(hour, _Reported({}, set())),
        )
        for hour in hours
    }


def _evidence(
    holding: Holding, formula: Formula, accepted: Decimal, reported: _Reported
) -> Evidence:
    expected, expected_at = holding.quantity, None
    if formula == "count":
        expected = Decimal(holding.number)
    elif formula == "last":
        expected_at, expected = holding.latest or (None, _NOTHING)
    unsure = [member for member in holding.members if member.is_unsure]
    gone = [member for member in holding.members if not member.is_unsure]
    slot = Slot(
        formula=formula,
        hour=holding.hour,
        expected=add(expected, accepted),
        expected_at=expected_at,
        accepted_at=holding.accepted_at,
        corrected_at=holding.corrected_at,
        coming=holding.coming,
        doubts=tuple(_doubt(member, formula) for member in unsure),
        gone=tuple(_sent(member, formula) for member in gone),
        suspects=tuple(_sent(member, formula) for member in reported.suspects.values()),
        reports=tuple(sorted(reported.codes)),
    )
    return Evidence(slot, holding.accepted)


def _sent(member: Member, formula: Formula) -> Sent:
    return Sent(
        unit_id=member.unit_id,
        identifier=member.identifier,
        weight=_weight(member, formula),
        sent_at=_sent_at(member),
    )


def _doubt(member: Member, formula: Formula) -> Doubt:
    """A held unit had come to rest before it was held; a refused one is not sent any more."""
    sent_at = _sent_at(member)
    going = {"sending": None, "ambiguous": member.resend_until or sent_at}
    return Doubt(
        unit_id=member.unit_id,
        identifier=member.identifier,
        weight=_weight(member, formula),
        sent_at=sent_at,
        occurred_at=member.occurred_at,
        moved_at=sent_at if member.state == "held" else member.updated_at,
        rests_at=going.get(member.state, sent_at),
        held=member.state not in going,
        correction=member.kind == "correction",
    )


def _weight(member: Member, formula: Formula) -> Decimal:
    return _ONE if formula == "count" else member.quantity


def _sent_at(member: Member) -> datetime:
    assert member.first_attempt_at is not None  # noqa: S101 - others are not in evidence
    return member.first_attempt_at


def _reported(tx: Tx, series: Series, hours: Sequence[datetime]) -> dict[datetime, _Reported]:
    """What Stripe reported without naming every event, by the hour of units it may be about."""
    found: dict[datetime, _Reported] = {}
    for hour, member, codes in slots.suspects(tx, series, hours, since=tx.now - PAST):
        reported = found.setdefault(hour, _Reported({}, set()))
        reported.suspects[member.unit_id] = member
        reported.codes.update(msgspec.json.decode(codes, type=dict[str, int]))
    return found
