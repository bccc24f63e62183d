"""The statement: all metered usage of an event name, and where it is; the parts add up, exactly.

`metered` comes from what was recorded and the parts from what became of it, on two ways, so a
mistake on one of them shows. Corrections are no usage, and of a unit that was reissued the new one
carries the quantity: neither is counted. What to do about a difference is a person's to decide.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from sqlalchemy import ColumnElement, Select, func, literal, literal_column, select, union_all

from usageflow.db.columns import table
from usageflow.db.exact import add, decimal_sum, plain
from usageflow.db.session import Database, Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import (
    CustomerRow,
    LaneRow,
    OrganizationRow,
    StatementRow,
    StripeAccountRow,
    UnitRow,
    UsageEventRow,
)
from usageflow.periods import hour_start

_PARTS: Final[Mapping[str, str]] = {
    "open": "in_flight",
    "sealed": "in_flight",
    "sending": "in_flight",
    "ambiguous": "in_flight",
    "accepted": "in_flight",
    "parked": "parked",
    "quarantined": "quarantined",
    "held": "held",
    "written_off": "written_off",
}
"""Where a unit of a state stands. Settled ones are not read: their lanes have the sum."""
_UNASSIGNED: Final = "unassigned"

RunningSum: TypeAlias = Literal["metered", "settled", "units"]

logger = logging.getLogger("usageflow.statement")


class Line(NamedTuple):
    """The usage of one event name at one moment. `in_flight`: on its way, or taken and not yet
    seen to be counted.
    """

    event_name: str
    metered: Decimal = Decimal(0)
    settled: Decimal = Decimal(0)
    in_flight: Decimal = Decimal(0)
    parked: Decimal = Decimal(0)
    quarantined: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    written_off: Decimal = Decimal(0)

    @property
    def difference(self) -> Decimal:
        """What is metered and nowhere; below 0, what is somewhere and not metered."""
        _, metered, *parts = self
        return add(metered, reduce(add, parts).copy_negate())


class Difference(NamedTuple):
    """A lane whose running sum `of` what it metered or settled is not what it is made of.

    `units`: all its units together do not carry what it metered.
    """

    customer: str
    event_name: str
    of: RunningSum
    kept: Decimal
    found: Decimal


def statement(tx: Tx, organization_id: str) -> list[Line]:
    """A line for each event name the organization forwards, in order, all of one moment.

    One statement of the database, so that any transaction sees one state of all its parts. What it
    costs grows with the lanes and with what is not settled, never with what is.
    """
    parts = (
        _of_lanes(organization_id, "metered"),
        _of_lanes(organization_id, "settled"),
        _of_units(organization_id),
        _of_unassigned(organization_id),
    )
    sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for event_name, part, quantity in tx.session.execute(union_all(*parts)):
        places = ("metered", "in_flight") if part == _UNASSIGNED else (_PARTS.get(part, part),)
        for place in places:
            sums[event_name][place] = add(sums[event_name][place], quantity)
    return [Line(event_name, **sums[event_name]) for event_name in sorted(sums)]


def stored(tx: Tx, organization_id: str, at: datetime) -> list[Line]:
    """The statement that was stored for this full hour; empty if none was."""
    rows = table(StatementRow).c
    found = tx.session.execute(
        select(*(rows[name] for name in Line._fields))
        .where(rows.organization_id == organization_id, rows.at == at)
        .order_by(rows.event_name)
    )
    return [Line(*row) for row in found]


def latest(tx: Tx, organization_id: str) -> datetime | None:
    """The hour of the newest stored statement."""
    rows = table(StatementRow).c
    newest = select(func.max(rows.at)).where(rows.organization_id == organization_id)
    return cast("datetime | None", tx.session.scalar(newest))


def store(tx: Tx, organization_id: str, at: datetime, lines: Sequence[Line]) -> list[Line]:
    """Keep the statement of this full hour, once, whoever comes first; the lines that were new.

    A line that does not add up is logged as an error.
    """
    rows = [{"organization_id": organization_id, "at": at, **line._asdict()} for line in lines]
    key = ["organization_id", "at", "event_name"]
    new = {row.event_name for row in insert_new(tx, StatementRow, rows, key=key, give="metered")}
    kept = [line for line in lines if line.event_name in new]
    for line in kept:
        if line.difference:
            logger.error(
                "the statement of %s UTC does not add up: event name %r differs by %s; "
                "`usageflow statement --verify` finds where",
                *(f"{at:%Y-%m-%d %H:%M}", line.event_name, plain(line.difference)),
            )
    return kept


ON_TIME: Final = timedelta(minutes=10)
"""How long after an hour has begun its statement may be made: later it would be no longer that."""


def store_hourly(db: Database) -> int:
    """Keep every organization's statement of this hour, where it is not kept yet; lines stored.

    For a worker to do again and again. It reads beside ingestion and writes only the lines.
    """
    done = 0
    with db.reading() as tx:
        at = hour_start(tx.now)
        if tx.now >= at + ON_TIME:
            return 0  # it would be no statement of that hour
        organizations = tx.session.scalars(select(table(OrganizationRow).c.id)).all()
        due = {
            organization_id: statement(tx, organization_id)
            for organization_id in organizations
            if not stored(tx, organization_id, at)
        }
    for organization_id, lines in due.items():
        if lines:
            with db.transaction() as tx:
                done += len(store(tx, organization_id, at, lines))
    return done


def verify(tx: Tx, organization_id: str) -> list[Difference]:
    """The lanes whose running sums are not those of their events and units; none if all is well.

    Reads every event and unit there is; in a `reading` transaction, all of one moment.
    """
    events, states = _events_by_lane(tx, organization_id), _units_by_lane(tx, organization_id)
    found = []
    for lane in _lanes(tx, organization_id):
        units = states.get(lane.id, {})
        metered = events.get(lane.id, Decimal(0))
        pairs: tuple[tuple[RunningSum, Decimal, Decimal], ...] = (
            ("metered", lane.metered, metered),
            ("settled", lane.settled, units.get("settled", Decimal(0))),
            ("units", metered, reduce(add, units.values(), Decimal(0))),
        )
        found += [
            Difference(lane.external_id, lane.event_name, of, kept, made)
            for of, kept, made in pairs
            if kept != made
        ]
    return found


def _of_lanes(organization_id: str, sum_of: str) -> Select[Any]:
    """The running sums; through the accounts, by whose index the lanes are found."""
    lanes, accounts = table(LaneRow), table(StripeAccountRow)
    return (
        select(lanes.c.event_name, _named(sum_of), decimal_sum(lanes.c[sum_of]))
        .join_from(accounts, lanes, lanes.c.account_id == accounts.c.id)
        .where(accounts.c.organization_id == organization_id)
        .group_by(lanes.c.event_name)
    )


def _of_units(organization_id: str) -> Select[Any]:
    """What is in units, by their state. The condition is spelt as the partial index has it."""
    units, lanes = table(UnitRow), table(LaneRow)
    return (
        select(lanes.c.event_name, units.c.state, decimal_sum(units.c.quantity))
        .join_from(units, lanes, lanes.c.id == units.c.lane_id)
        .where(
            units.c.organization_id == organization_id,
            units.c.state != literal_column("'settled'"),
            units.c.state.in_(_PARTS),
            units.c.kind != "correction",
        )
        .group_by(lanes.c.event_name, units.c.state)
    )


def _of_unassigned(organization_id: str) -> Select[Any]:
    """Events to be forwarded that are in no unit yet."""
    events = table(UsageEventRow).c
    return (
        select(events.event_name, _named(_UNASSIGNED), decimal_sum(events.quantity))
        .where(
            events.organization_id == organization_id,
            events.state == literal_column("'counted'"),
            events.event_name.is_not(None),
            events.unit_id.is_(None),
        )
        .group_by(events.event_name)
    )


def _named(part: str) -> ColumnElement[str]:
    return literal(part, literal_execute=True)


def _lanes(tx: Tx, organization_id: str) -> Sequence[Any]:
    lanes, payers = table(LaneRow), table(CustomerRow)
    return tx.session.execute(
        select(
            *(lanes.c[name] for name in ("id", "event_name", "metered", "settled")),
            payers.c.external_id,
        )
        .join_from(lanes, payers, payers.c.id == lanes.c.customer_id)
        .where(lanes.c.organization_id == organization_id)
        .order_by(payers.c.external_id, lanes.c.event_name, lanes.c.id)
    ).all()


def _events_by_lane(tx: Tx, organization_id: str) -> dict[int, Decimal]:
    events, units = table(UsageEventRow), table(UnitRow)
    rows = tx.session.execute(
        select(units.c.lane_id, decimal_sum(events.c.quantity))
        .join_from(events, units, units.c.id == events.c.unit_id)
        .where(events.c.organization_id == organization_id)
        .group_by(units.c.lane_id)
    )
    return {row[0]: row[1] for row in rows}


def _units_by_lane(tx: Tx, organization_id: str) -> dict[int, dict[str, Decimal]]:
    """What the units of each state carry of the lane's usage."""
    units = table(UnitRow).c
    rows = tx.session.execute(
        select(units.lane_id, units.state, decimal_sum(units.quantity))
        .where(
            units.organization_id == organization_id,
            units.kind != "correction",
            units.state != "reissued",
        )
        .group_by(units.lane_id, units.state)
    )
    found: dict[int, dict[str, Decimal]] = defaultdict(dict)
    for lane_id, state, quantity in rows:
        found[lane_id][state] = quantity
    return found
