"""The inbox: what needs a human, each with a reason they understand. Reads only."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from sqlalchemy import ColumnElement, bindparam, func
from sqlalchemy import select as select_columns
from sqlmodel import col, select

from usageflow.db.exact import decimal_sum
from usageflow.db.session import Tx
from usageflow.db.tables import (
    EVENT_FOR_HUMAN,
    UNIT_PENDING,
    IngestRejectionRow,
    LaneRow,
    ReconciliationRow,
    StripeAccountRow,
    UnitRow,
    UsageEventRow,
)

UNIT_STATES: Final = ("parked", "quarantined", "held")
"""The states of units that need a human; parked ones may still resolve themselves."""
WITHDRAWN: Final = "its Stripe account was disconnected; it is sent when that is connected again"
"""Why units that are only waiting need a human all the same."""

_NO_REASON: Final = "no reason given"

# Written out in the statement, so that the partial index of the same condition is used.
_FOR_HUMAN = col(UsageEventRow.state).in_(
    bindparam("for_human", EVENT_FOR_HUMAN, expanding=True, literal_execute=True)
)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to look at.

    `key`: the event's id, the unit's identifier, the difference's number, or what could be read of
    a refused line's id.
    `subject`: whose it is and of what, as far as known.
    """

    kind: Literal["event", "unit", "difference", "rejection"]
    key: str | None
    state: str
    subject: str
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """Usage that was not recorded one by one, and so is in no total. `reason` tells how many
    requests it was.

    `value` is None if nobody knows whose; `events` counts the gap events that say the same;
    `quantity` is None if nothing could be measured.
    """

    field: str
    value: str | None
    metric: str
    reason: str
    events: int
    quantity: Decimal | None


def items(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    """What needs a human: the latest of each kind, at most `limit` of each."""
    return [
        *_events(tx, organization_id, limit),
        *_units(tx, organization_id, limit),
        *_differences(tx, organization_id, limit),
        *_rejections(tx, organization_id, limit),
    ]


def count(tx: Tx, organization_id: str) -> int:
    """How many things need a human."""
    counts = (
        select(func.count())
        .select_from(UnitRow)
        .where(col(UnitRow.organization_id) == organization_id)
        .where(_needs_a_human(organization_id)),
        select(func.count())
        .select_from(ReconciliationRow)
        .where(col(ReconciliationRow.organization_id) == organization_id)
        .where(col(ReconciliationRow.state) == "open"),
        select(func.count())
        .select_from(IngestRejectionRow)
        .where(col(IngestRejectionRow.organization_id) == organization_id),
    )
    others = sum(tx.session.exec(statement).one() for statement in counts)
    return unknown(tx, organization_id) + others


def unknown(tx: Tx, organization_id: str) -> int:
    """How many events are in no sum, because nobody knows whose they are or how much."""
    return tx.session.exec(
        select(func.count())
        .select_from(UsageEventRow)
        .where(col(UsageEventRow.organization_id) == organization_id)
        .where(_FOR_HUMAN)
    ).one()


def gaps(tx: Tx, organization_id: str) -> list[Gap]:
    """Every gap of the organization, the oldest first, equal ones added up."""
    what = (
        col(UsageEventRow.identity_field),
        col(UsageEventRow.identity_value),
        col(UsageEventRow.metric),
        func.coalesce(col(UsageEventRow.reason), _NO_REASON),
    )
    rows = tx.session.execute(
        select_columns(*what, func.count(), decimal_sum(col(UsageEventRow.quantity)))
        .where(col(UsageEventRow.organization_id) == organization_id)
        .where(_FOR_HUMAN, col(UsageEventRow.state) == "gap")
        .group_by(col(UsageEventRow.reason), *what[:3])
        .order_by(func.min(col(UsageEventRow.seq)))
    )
    return [Gap(*row) for row in rows]


def _events(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    rows = tx.session.exec(
        select(UsageEventRow)
        .where(col(UsageEventRow.organization_id) == organization_id)
        .where(_FOR_HUMAN)
        .order_by(col(UsageEventRow.seq).desc())
        .limit(limit)
    )
    return [
        Item(
            kind="event",
            key=row.id,
            state=row.state,
            subject=f"{row.identity_field} {row.identity_value or 'unknown'}, {row.metric}",
            reason=row.reason or _NO_REASON,
            since=row.received_at,
        )
        for row in rows
    ]


def _needs_a_human(organization_id: str) -> ColumnElement[bool]:
    """Units that do not go on by themselves."""
    withdrawn = (
        select_columns(col(LaneRow.id))
        .join(StripeAccountRow, col(StripeAccountRow.id) == col(LaneRow.account_id))
        .where(
            col(StripeAccountRow.organization_id) == organization_id,
            col(StripeAccountRow.state) == "deauthorized",
        )
    )
    waiting = col(UnitRow.state).in_(UNIT_PENDING) & col(UnitRow.lane_id).in_(withdrawn)
    return col(UnitRow.state).in_(UNIT_STATES) | waiting


def _units(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    rows = tx.session.exec(
        select(UnitRow, LaneRow)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .where(col(UnitRow.organization_id) == organization_id)
        .where(_needs_a_human(organization_id))
        .order_by(col(UnitRow.id).desc())
        .limit(limit)
    )
    return [
        Item(
            kind="unit",
            key=unit.identifier,
            state=unit.state,
            subject=f"{lane.identity_field} {lane.identity_value}, {lane.event_name}",
            reason=unit.reason or (_NO_REASON if unit.state in UNIT_STATES else WITHDRAWN),
            since=unit.updated_at,
        )
        for unit, lane in rows
    ]


def _differences(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    rows = tx.session.exec(
        select(ReconciliationRow)
        .where(col(ReconciliationRow.organization_id) == organization_id)
        .where(col(ReconciliationRow.state) == "open")
        .order_by(col(ReconciliationRow.id).desc())
        .limit(limit)
    )
    return [
        Item(
            kind="difference",
            key=str(row.id),
            state=row.classification,
            subject=f"{row.stripe_customer_id}, {row.event_name}, {row.hour:%Y-%m-%d %H:00}",
            reason=row.reason,
            since=row.first_seen_at,
        )
        for row in rows
    ]


def _rejections(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    rows = tx.session.exec(
        select(IngestRejectionRow)
        .where(col(IngestRejectionRow.organization_id) == organization_id)
        .order_by(col(IngestRejectionRow.seq).desc())
        .limit(limit)
    )
    return [
        Item(
            kind="rejection",
            key=row.event_key,
            state="rejected",
            subject=row.body,
            reason=row.reason,
            since=row.received_at,
        )
        for row in rows
    ]
