"""The inbox: what needs a human, each with a reason they understand. Reads only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import func
from sqlmodel import col, select

from usageflow.db.session import Tx
from usageflow.db.tables import IngestRejectionRow, LaneRow, UnitRow, UsageEventRow

UNIT_STATES: Final = ("parked", "quarantined", "held")
"""The states of units that need a human; parked ones may still resolve themselves."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to look at.

    `key`: the event's id, the unit's identifier, or what could be read of a refused line's id.
    `subject`: whose it is and of what, as far as known.
    """

    kind: Literal["event", "unit", "rejection"]
    key: str | None
    state: str
    subject: str
    reason: str
    since: datetime


def items(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    """What needs a human: the latest of each kind, at most `limit` of each."""
    return [
        *_events(tx, organization_id, limit),
        *_units(tx, organization_id, limit),
        *_rejections(tx, organization_id, limit),
    ]


def count(tx: Tx, organization_id: str) -> int:
    """How many things need a human."""
    counts = (
        select(func.count())
        .select_from(UsageEventRow)
        .where(col(UsageEventRow.organization_id) == organization_id)
        .where(col(UsageEventRow.state) == "inbox"),
        select(func.count())
        .select_from(UnitRow)
        .where(col(UnitRow.organization_id) == organization_id)
        .where(col(UnitRow.state).in_(UNIT_STATES)),
        select(func.count())
        .select_from(IngestRejectionRow)
        .where(col(IngestRejectionRow.organization_id) == organization_id),
    )
    return sum(tx.session.exec(statement).one() for statement in counts)


def _events(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    rows = tx.session.exec(
        select(UsageEventRow)
        .where(col(UsageEventRow.organization_id) == organization_id)
        .where(col(UsageEventRow.state) == "inbox")
        .order_by(col(UsageEventRow.seq).desc())
        .limit(limit)
    )
    return [
        Item(
            kind="event",
            key=row.id,
            state=row.state,
            subject=f"{row.identity_field} {row.identity_value or 'unknown'}, {row.metric}",
            reason=row.reason or "no reason given",
            since=row.received_at,
        )
        for row in rows
    ]


def _units(tx: Tx, organization_id: str, limit: int) -> list[Item]:
    rows = tx.session.exec(
        select(UnitRow, LaneRow)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .where(col(UnitRow.organization_id) == organization_id)
        .where(col(UnitRow.state).in_(UNIT_STATES))
        .order_by(col(UnitRow.id).desc())
        .limit(limit)
    )
    return [
        Item(
            kind="unit",
            key=unit.identifier,
            state=unit.state,
            subject=f"{lane.identity_field} {lane.identity_value}, {lane.event_name}",
            reason=unit.reason or "no reason given",
            since=unit.updated_at,
        )
        for unit, lane in rows
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
