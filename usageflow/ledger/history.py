"""Single events as people look them up: a list with filters, and the whole story of one.

Reads only. What needs a human is `inbox`'s, sums are `reading`'s.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, literal
from sqlmodel import col, select

from usageflow.db.exact import ExactDecimal, decimal_greatest
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, LaneRow, UnitRow, UsageEventRow, UsageWindowRow
from usageflow.periods import hour_start


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events are looked for; None: whatever they have there. Times are of the usage."""

    metric: str | None = None
    customer_id: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    quantity_min: Decimal | None = None


class Story(NamedTuple):
    """An event, whose it is, the window that it was added to, and the unit that carries it."""

    event: UsageEventRow
    customer: CustomerRow | None
    window: UsageWindowRow | None
    unit: UnitRow | None
    lane: LaneRow | None


def listing(
    tx: Tx, organization_id: str, wanted: Wanted, *, before: int | None = None, limit: int
) -> list[UsageEventRow]:
    """At most `limit` events, the latest to come in first, from before this place of the ledger."""
    statement = (
        select(UsageEventRow)
        .where(*_conditions(tx, organization_id, wanted))
        .order_by(col(UsageEventRow.seq).desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(col(UsageEventRow.seq) < before)
    return list(tx.session.exec(statement))


def page(
    tx: Tx, organization_id: str, wanted: Wanted, *, offset: int, limit: int
) -> tuple[list[UsageEventRow], int]:
    """Some of the events, the latest to come in first, and how many there are in all."""
    conditions = _conditions(tx, organization_id, wanted)
    total = tx.session.exec(select(func.count()).where(*conditions)).one()
    statement = select(UsageEventRow).where(*conditions).order_by(col(UsageEventRow.seq).desc())
    return list(tx.session.exec(statement.offset(offset).limit(limit))), total


def story(tx: Tx, organization_id: str, event_id: str) -> Story | None:
    """What became of one event."""
    event = tx.session.exec(
        select(UsageEventRow).where(
            col(UsageEventRow.organization_id) == organization_id,
            col(UsageEventRow.id) == event_id,
        )
    ).one_or_none()
    if event is None:
        return None
    customer = window = unit = lane = None
    if event.customer_id is not None:
        customer = tx.session.get(CustomerRow, event.customer_id)
        hour = hour_start(event.occurred_at)
        key = (organization_id, event.customer_id, event.metric, hour)
        window = tx.session.get(UsageWindowRow, key) if event.state == "counted" else None
    if event.unit_id is not None:
        unit = tx.session.get_one(UnitRow, event.unit_id)
        lane = tx.session.get_one(LaneRow, unit.lane_id)
    return Story(event, customer, window, unit, lane)


def _conditions(tx: Tx, organization_id: str, wanted: Wanted) -> list[ColumnElement[bool]]:
    event = UsageEventRow
    found = [col(event.organization_id) == organization_id]
    for column, value in (
        (col(event.metric), wanted.metric),
        (col(event.customer_id), wanted.customer_id),
        (col(event.state), wanted.state),
    ):
        if value is not None:
            found.append(column == value)
    if wanted.since is not None:
        found.append(col(event.occurred_at) >= wanted.since)
    if wanted.until is not None:
        found.append(col(event.occurred_at) < wanted.until)
    if wanted.quantity_min is not None:
        found.append(_at_least(tx, wanted.quantity_min))
    return found


def _at_least(tx: Tx, quantity: Decimal) -> ColumnElement[bool]:
    """SQLite's texts are compared by the function that windows find their maximum with."""
    stored = col(UsageEventRow.quantity)
    if tx.dialect == "postgresql":
        return stored >= quantity
    least, nothing = literal(quantity, ExactDecimal()), literal(Decimal(-1), ExactDecimal())
    return decimal_greatest(func.coalesce(stored, nothing), least) == stored
