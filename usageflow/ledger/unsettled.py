"""Which slots are to be compared with Stripe: those with something to learn from it, and no others.

Queries only. A slot whose units are all settled is not looked at again and costs nothing, unless
Stripe tells that it dropped some, or there is still a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import ErrorReportRow, LaneRow, ReconciliationRow, UnitRow
from usageflow.ledger.slots import ACCEPTED, OVER, Series, is_suspect, unanswered

EXPIRED: Final = 2
"""Rank of a unit that nobody may send again: its lane waits for the comparison."""
SUSPECT: Final = 1
"""Rank of units of which Stripe told that it dropped some, but not which."""
CLOSED: Final = 0
"""Rank of slots of which Stripe's sum should stand: their hour is over, and what came last too."""

_AGE_MAX: Final = timedelta(days=36)
"""No unit is accepted that much later than its hour: Stripe takes 35 days, trying not one more."""

_units, _lanes = table(UnitRow), table(LaneRow)
_SLOT: Final = (_units.c.stripe_customer_id, _lanes.c.event_name, _units.c.hour)
_reports, _differences = table(ErrorReportRow), table(ReconciliationRow)
# Written out in the statement, so that the partial index of the same condition is used.
_CURRENT: Final = _differences.c.state.in_(
    bindparam("current", ("open", "applied", "dismissed"), expanding=True, literal_execute=True)
)
_LEFT: Final = (*OVER, "quarantined")
"""The states of units that their slot is not expected to show any more."""
_FOR_PERSON: Final = or_(
    _differences.c.classification.in_(("foreign", "rejected")),
    _differences.c.proposal.is_not(None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is looked for: slots of one account, of hours before `closed`, and from `since` on.

    A slot of which Stripe took a unit after `quiet` must wait. `now`: undecided units whose window
    is over then. A difference that waits for a person, and was looked at after `patience`, is left
    alone.
    """

    organization_id: str
    account_id: str
    now: datetime
    closed: datetime
    quiet: datetime
    patience: datetime
    since: datetime | None = None


class Due(NamedTuple):
    """A series with slots to compare, the highest rank and the oldest hour of them."""

    series: Series
    rank: int
    first: datetime


def due(tx: Tx, scope: Scope, limit: int) -> list[Due]:
    """At most `limit` series with something to compare: by rank, then the oldest hour first."""
    found = _slots(tx, scope)
    rank, first = func.max(found.c.rank), func.min(found.c.hour)
    rows = tx.session.execute(
        select(found.c.stripe_customer_id, found.c.event_name, rank, first)
        .group_by(found.c.stripe_customer_id, found.c.event_name)
        .order_by(rank.desc(), first, found.c.stripe_customer_id, found.c.event_name)
        .limit(limit)
    )
    return [
        Due(Series(scope.organization_id, scope.account_id, *row[:2]), *row[2:]) for row in rows
    ]


def due_hours(tx: Tx, scope: Scope, series: Series) -> Sequence[datetime]:
    """The hours of a series that are to be compared, in order."""
    found = _slots(tx, scope, series)
    return tx.session.scalars(select(found.c.hour).distinct().order_by(found.c.hour)).all()


def is_suspected(tx: Tx, scope: Scope, report_id: str) -> bool:
    """Whether a slot that this open report may be about was not compared since it came."""
    found = _suspects(tx, scope, _reports.c.event_id == report_id)
    return found is not None and tx.session.execute(found.limit(1)).first() is not None


def _slots(tx: Tx, scope: Scope, series: Series | None = None) -> Subquery:
    """Slots to compare, with repeats: stripe_customer_id, event_name, hour and rank."""
    expired = _unsettled(scope, EXPIRED).where(
        _units.c.state == "ambiguous", _units.c.resend_until <= scope.now
    )
    suspects = _suspects(tx, scope)
    parts = (expired,) if suspects is None else (expired, suspects)
    pressing = [_within(part, scope, series) for part in parts]
    return union_all(_quiet(scope, series), *pressing).subquery()


def _quiet(scope: Scope, series: Series | None) -> Select[Any]:
    """Slots whose sum should stand, and of which something is to be settled, or is open."""
    recent = _differences.c.checked_at > scope.patience
    closed = _unsettled(scope, CLOSED).where(
        ACCEPTED, _units.c.hour < scope.closed, ~_has_difference(recent, _FOR_PERSON)
    )
    seen_twice = _differences.c.checked_at > _differences.c.observed_at
    stuck = _unsettled(scope, CLOSED).where(
        _units.c.state.in_(("held", "quarantined")),
        unanswered(),
        _units.c.updated_at <= scope.quiet,
        ~_has_difference(recent, seen_twice),
    )
    parts = (closed, stuck, _differing(scope, ~recent))
    found = union_all(*(_within(part, scope, series) for part in parts)).subquery()
    fresh = _unsettled(scope, CLOSED).where(ACCEPTED, _units.c.accepted_at > scope.quiet)
    fresh = _within(fresh, scope, series).with_only_columns(*_SLOT)
    slot = tuple_(found.c.stripe_customer_id, found.c.event_name, found.c.hour)
    return select(found).where(slot.not_in(fresh))


def _differing(scope: Scope, is_due: ColumnElement[bool]) -> Select[Any]:
    """Slots with a difference, whatever their units are by now: those of which something went
    since they were compared, and now and then all that are open.
    """
    went = exists().where(
        _units.c.stripe_customer_id == _differences.c.stripe_customer_id,
        _units.c.hour == _differences.c.hour,
        _units.c.state.in_(_LEFT),
        _units.c.updated_at >= _differences.c.checked_at,
        _units.c.lane_id == _lanes.c.id,
        _lanes.c.account_id == _differences.c.account_id,
        _lanes.c.event_name == _differences.c.event_name,
    )
    return select(
        _differences.c.stripe_customer_id,
        _differences.c.event_name,
        _differences.c.hour,
        literal_column(str(CLOSED)).label("rank"),
    ).where(
        _differences.c.account_id == scope.account_id,
        _differences.c.organization_id == scope.organization_id,
        _differences.c.hour < scope.closed,
        _CURRENT,
        or_((_differences.c.state != "dismissed") & is_due, went),
    )


def _unsettled(scope: Scope, rank: int) -> Select[Any]:
    """Units that were bound to a customer and are not settled; each one's slot."""
    # as the partial index has it
    return _units_of(scope, rank).where(_units.c.state != literal_column("'settled'"))


def _units_of(scope: Scope, rank: int) -> Select[Any]:
    """Units that were bound to a customer; each one's slot."""
    return (
        select(*_SLOT, literal_column(str(rank)).label("rank"))
        .join_from(_lanes, _units, _units.c.lane_id == _lanes.c.id)
        .where(
            _lanes.c.account_id == scope.account_id,
            _units.c.organization_id == scope.organization_id,
            _units.c.stripe_customer_id.is_not(None),
        )
    )


def _suspects(tx: Tx, scope: Scope, *of: ColumnElement[bool]) -> Select[Any] | None:
    """Units that Stripe may have taken in the window of an open report and was not seen to have
    since, nor that it lacks something. None if there is no such report: this looks at every unit of
    a month.
    """
    is_open = (_reports.c.account_id == scope.account_id, _reports.c.state == "open", *of)
    first = tx.session.scalar(select(func.min(_reports.c.window_start)).where(*is_open))
    if first is None:
        return None
    may_be_meant = or_(
        _reports.c.event_name.is_(None), _reports.c.event_name == _lanes.c.event_name
    )
    return (
        _units_of(scope, SUSPECT)
        .join(_reports, may_be_meant)
        .where(
            *is_open,
            _units.c.hour >= first - _AGE_MAX,
            is_suspect(),
            ~_has_difference(_differences.c.checked_at >= _reports.c.received_at),
        )
    )


def _within(part: Select[Any], scope: Scope, series: Series | None) -> Select[Any]:
    customer, event_name, hour, _ = part.selected_columns
    if scope.since is not None:
        part = part.where(hour >= scope.since)
    if series is not None:
        part = part.where(customer == series.stripe_customer_id, event_name == series.event_name)
    return part


def _has_difference(*of: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the unit's slot has an open difference of this kind."""
    return exists().where(
        _differences.c.account_id == _lanes.c.account_id,
        _differences.c.stripe_customer_id == _units.c.stripe_customer_id,
        _differences.c.event_name == _lanes.c.event_name,
        _differences.c.hour == _units.c.hour,
        _CURRENT,
        _differences.c.state == "open",
        *of,
    )
