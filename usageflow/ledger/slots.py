"""Slots: what the units of one Stripe customer, event name and UTC hour carry.

Which slots are to be compared is `unsettled`'s, what they should show, and what follows when they
do not, `usageflow.stripe`'s. Units of a customer that is not known yet are in no slot: no byte of
them was sent.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from usageflow.db.columns import table
from usageflow.db.exact import ExactDecimal, add, decimal_add, decimal_sum
from usageflow.db.session import Tx
from usageflow.db.tables import ErrorReportRow, LaneRow, UnitRow
from usageflow.ledger import lanes
from usageflow.ledger.unit_states import following

COUNTED: Final = ("accepted", "settled")
"""The states of units that Stripe took."""
OVER: Final = ("reissued", "written_off")
"""The states of units that will never be at Stripe."""
UNSURE: Final = ("sending", "ambiguous", "held", "quarantined")
"""The states of units that Stripe may or may not have, if there was an attempt that it did not
answer: one that is quarantined was refused when it was sent once more.
"""

_units, _lanes, _reports = table(UnitRow), table(LaneRow), table(ErrorReportRow)

ACCEPTED: Final = _units.c.state == literal_column("'accepted'")
"""Written out, as the partial index has it."""
SETTLED: Final = _units.c.state == literal_column("'settled'")
"""Stripe was seen to have the unit, last when its row was updated."""


class Series(NamedTuple):
    """One sum at Stripe over time: of an account's customer and event name."""

    organization_id: str
    account_id: str
    stripe_customer_id: str
    event_name: str


class Member(NamedTuple):
    """A unit of a slot, as it was read."""

    unit_id: int
    lane_id: int
    identifier: str
    kind: str
    state: str
    quantity: Decimal
    occurred_at: datetime
    first_attempt_at: datetime | None
    resend_until: datetime | None
    accepted_at: datetime | None
    attempts: int
    updated_at: datetime

    @property
    def is_unsure(self) -> bool:
        """Whether Stripe may or may not have it; else it should not have it any more."""
        return self.state in UNSURE and self.accepted_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one slot holds. Two that are equal hold the same units in the same states.

    `quantity` and `number` are of usage that Stripe took, `latest` is the newest by its time.
    `accepted` units are to be settled; `accepted_at` and `corrected_at` are of the last unit and
    the last correction that Stripe took. `coming`: corrections that it has not, None without one.
    `members`: units that were sent, and are there or not, or should not be.
    """

    hour: datetime
    quantity: Decimal = Decimal(0)
    number: int = 0
    latest: tuple[datetime, Decimal] | None = None
    accepted: int = 0
    accepted_at: datetime | None = None
    corrected_at: datetime | None = None
    coming: Decimal | None = None
    members: tuple[Member, ...] = ()


def holdings(
    tx: Tx, series: Series, hours: Sequence[datetime], *, latest: bool
) -> dict[datetime, Holding]:
    """What each of these hours holds, at most a hundred; the `latest` unit only on request."""
    groups: dict[datetime, list[Any]] = defaultdict(list)
    for row in tx.session.execute(_grouped(series, hours)):
        groups[row.hour].append(row)
    members: dict[datetime, list[Member]] = defaultdict(list)
    unclear = _of_members(series, hours).where(
        _units.c.state.in_((*UNSURE, "reissued")), _units.c.first_attempt_at.is_not(None)
    )
    for hour, *values in tx.session.execute(unclear):
        members[hour].append(Member(*values))
    newest: dict[datetime, tuple[datetime, Decimal]] = {}
    if latest:
        newest = {row[0]: (row[1], row[2]) for row in tx.session.execute(_newest(series, hours))}
    return {
        hour: _holding(hour, groups[hour], newest.get(hour), tuple(members[hour])) for hour in hours
    }


def lock(tx: Tx, series: Series, hour: datetime) -> list[int]:
    """Lock the lanes of a slot, whose units then stay as they are; their ids, in order."""
    found = _joined(select(_units.c.lane_id), series, [hour])
    lane_ids = sorted(set(tx.session.scalars(found)))
    lanes.lock(tx, lane_ids)
    return lane_ids


def settle(tx: Tx, series: Series, hour: datetime, lane_ids: Sequence[int]) -> None:
    """Stripe was seen to have every accepted unit of this slot, whose lanes are locked.

    As `resolution.settled`, but for any number of units: a meter that does not add up may have a
    hundred thousand in an hour.
    """
    locked = _units.c.lane_id.in_(lane_ids)
    ours = _joined(select(_units.c.id), series, [hour]).where(ACCEPTED, locked)
    sums = select(_units.c.lane_id, decimal_sum(_units.c.quantity)).where(
        _units.c.id.in_(ours), _units.c.kind != "correction"
    )
    for lane_id, usage in tx.session.execute(sums.group_by(_units.c.lane_id)).all():
        tx.session.execute(
            update(_lanes)
            .where(_lanes.c.id == lane_id)
            .values(settled=decimal_add(_lanes.c.settled, literal(usage, ExactDecimal())))
        )
    tx.session.execute(
        update(_units)
        .where(_units.c.id.in_(ours))
        .values(state=following("accepted", "settle"), reason=None, updated_at=tx.now)
    )


def confirm(tx: Tx, series: Series, hour: datetime, lane_ids: Sequence[int]) -> None:
    """Stripe was seen to have every settled unit still of this slot, whose lanes are locked."""
    locked = _units.c.lane_id.in_(lane_ids)
    ours = _joined(select(_units.c.id), series, [hour]).where(SETTLED, locked)
    tx.session.execute(update(_units).where(_units.c.id.in_(ours)).values(updated_at=tx.now))


def suspects(
    tx: Tx, series: Series, hours: Sequence[datetime], *, since: datetime
) -> list[tuple[datetime, Member, str]]:
    """The units of these hours that Stripe may have dropped by a report that does not name all, but
    for those that it was seen to have afterwards: each with its hour and the report's codes.

    Only reports of what was dropped after `since`.
    """
    span = select(func.min(_units.c.first_attempt_at), func.max(_units.c.accepted_at))
    taken = _units.c.state.in_(COUNTED)
    first, last = tx.session.execute(_joined(span, series, hours).where(taken)).one()
    if last is None:
        return []
    is_about = (
        _reports.c.account_id == series.account_id,
        _reports.c.explained < _reports.c.error_count,
        _reports.c.window_end >= max(first, since),
        _reports.c.window_start <= last,
        or_(_reports.c.event_name.is_(None), _reports.c.event_name == series.event_name),
    )
    found = _of_members(series, hours).join(_reports, and_(*is_about))
    rows = tx.session.execute(found.add_columns(_reports.c.codes).where(is_suspect()))
    return [(hour, Member(*values), codes) for hour, *values, codes in rows]


def is_suspect() -> ColumnElement[bool]:
    """Whether Stripe took a unit in the window of a report, and was not seen to have it since."""
    return and_(
        or_(ACCEPTED, and_(SETTLED, _units.c.updated_at < _reports.c.received_at)),
        _units.c.accepted_at >= _reports.c.window_start,
        _units.c.first_attempt_at <= _reports.c.window_end,
    )


def unanswered() -> ColumnElement[bool]:
    """Whether a unit was sent and never accepted."""
    return _units.c.first_attempt_at.is_not(None) & _units.c.accepted_at.is_(None)


def first_usage(tx: Tx, series: Series, hour: datetime) -> datetime:
    """The earliest time in this slot that Stripe was told."""
    earliest = _joined(select(func.min(_units.c.occurred_at)), series, [hour])
    moment: datetime = tx.session.execute(earliest).scalar_one()
    return moment


def _joined(statement: Select[Any], series: Series, hours: Sequence[datetime]) -> Select[Any]:
    """The statement, of units in these slots."""
    return statement.join_from(_units, _lanes, _lanes.c.id == _units.c.lane_id).where(
        _units.c.organization_id == series.organization_id,
        _units.c.stripe_customer_id == series.stripe_customer_id,
        _units.c.hour.in_(hours),
        _lanes.c.account_id == series.account_id,
        _lanes.c.event_name == series.event_name,
    )


def _grouped(series: Series, hours: Sequence[datetime]) -> Select[Any]:
    """Sums over all units of each hour, apart by what they mean for it."""
    keys = (
        _units.c.hour,
        _units.c.kind,
        _units.c.state,
        unanswered().label("unanswered"),
    )
    sums = (
        decimal_sum(_units.c.quantity).label("quantity"),
        func.count().label("number"),
        func.max(_units.c.accepted_at).label("accepted_at"),
    )
    return _joined(select(*keys, *sums), series, hours).group_by(*keys)


def _of_members(series: Series, hours: Sequence[datetime]) -> Select[Any]:
    names = ("id", *Member._fields[1:])
    columns = [_units.c.hour, *(_units.c[name] for name in names)]
    return _joined(select(*columns), series, hours).order_by(_units.c.id)


def _newest(series: Series, hours: Sequence[datetime]) -> Select[Any]:
    """The last usage of each hour that Stripe took."""
    place = func.row_number().over(
        partition_by=_units.c.hour, order_by=(_units.c.occurred_at.desc(), _units.c.id.desc())
    )
    columns = (_units.c.hour, _units.c.occurred_at, _units.c.quantity, place.label("place"))
    ranked = (
        _joined(select(*columns), series, hours)
        .where(_units.c.state.in_(COUNTED), _units.c.kind != "correction")
        .subquery()
    )
    return select(ranked.c.hour, ranked.c.occurred_at, ranked.c.quantity).where(ranked.c.place == 1)


def _holding(
    hour: datetime,
    groups: Sequence[Any],
    latest: tuple[datetime, Decimal] | None,
    members: tuple[Member, ...],
) -> Holding:
    counted = [row for row in groups if row.state in COUNTED]
    usage = [row for row in counted if row.kind != "correction"]
    corrections = [row for row in counted if row.kind == "correction"]
    coming = [row for row in groups if row.kind == "correction" and _is_coming(row)]
    return Holding(
        hour=hour,
        quantity=_sum(usage),
        number=sum(row.number for row in usage),
        latest=latest,
        accepted=sum(row.number for row in counted if row.state == "accepted"),
        accepted_at=_newest_of(counted),
        corrected_at=_newest_of(corrections),
        coming=_sum(coming) if coming else None,
        members=members,
    )


def _is_coming(row: Any) -> bool:
    """Whether these units are certainly not at Stripe, and may still be."""
    unsure = row.state in UNSURE and row.unanswered
    return row.state not in (*COUNTED, *OVER) and not unsure


def _sum(rows: Sequence[Any]) -> Decimal:
    return reduce(add, (row.quantity for row in rows), Decimal(0))


def _newest_of(rows: Sequence[Any]) -> datetime | None:
    return max((row.accepted_at for row in rows if row.accepted_at), default=None)
