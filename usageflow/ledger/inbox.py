"""The inbox: what needs a human, each with a reason they understand. Reads only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import ColumnElement, Select, bindparam, func, literal, union_all
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

Kind: TypeAlias = Literal["event", "unit", "difference", "rejection"]

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

    kind: Kind
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
        item
        for kind, conditions in _conditions(organization_id).items()
        for item in _READERS[kind](tx, limit, *conditions)
    ]


def listing(
    tx: Tx,
    organization_id: str,
    *,
    kind: Kind | None = None,
    state: str | None = None,
    offset: int,
    limit: int,
) -> tuple[list[Item], int]:
    """What needs a human, the latest first whatever it is, and how much there is."""
    conditions = _conditions(organization_id)
    kinds = [one for one in conditions if kind in (None, one)]
    waiting = union_all(*(_waiting(one, *conditions[one]) for one in kinds)).subquery()
    wanted = select_columns(waiting).where(*[waiting.c.state == state] if state else [])
    total: int = tx.session.execute(
        select_columns(func.count()).select_from(wanted.subquery())
    ).scalar_one()
    latest = wanted.order_by(waiting.c.since.desc(), waiting.c.kind, waiting.c.seq.desc())
    page = tx.session.execute(latest.offset(offset).limit(limit)).all()
    found = [
        item
        for one in sorted(kinds)
        for item in _READERS[one](
            tx,
            limit,
            *conditions[one],
            _COLUMNS[one][0].in_([row.seq for row in page if row.kind == one]),
        )
    ]
    return sorted(found, key=lambda item: item.since, reverse=True), total


def count(tx: Tx, organization_id: str) -> int:
    """How many things need a human."""
    counts: list[int] = [
        tx.session.execute(
            select_columns(func.count(_COLUMNS[kind][0])).where(*conditions)
        ).scalar_one()
        for kind, conditions in _conditions(organization_id).items()
    ]
    return sum(counts)


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


def _events(tx: Tx, limit: int, *wanted: ColumnElement[bool]) -> list[Item]:
    rows = tx.session.exec(
        select(UsageEventRow).where(*wanted).order_by(col(UsageEventRow.seq).desc()).limit(limit)
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


def _units(tx: Tx, limit: int, *wanted: ColumnElement[bool]) -> list[Item]:
    rows = tx.session.exec(
        select(UnitRow, LaneRow)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .where(*wanted)
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


def _differences(tx: Tx, limit: int, *wanted: ColumnElement[bool]) -> list[Item]:
    rows = tx.session.exec(
        select(ReconciliationRow)
        .where(*wanted)
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


def _rejections(tx: Tx, limit: int, *wanted: ColumnElement[bool]) -> list[Item]:
    rows = tx.session.exec(
        select(IngestRejectionRow)
        .where(*wanted)
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


_READERS: Final[Mapping[Kind, Callable[..., list[Item]]]] = {
    "event": _events,
    "unit": _units,
    "difference": _differences,
    "rejection": _rejections,
}
_COLUMNS: Final[Mapping[Kind, tuple[Any, Any, Any]]] = {
    "event": (col(UsageEventRow.seq), col(UsageEventRow.state), col(UsageEventRow.received_at)),
    "unit": (col(UnitRow.id), col(UnitRow.state), col(UnitRow.updated_at)),
    "difference": (
        col(ReconciliationRow.id),
        col(ReconciliationRow.classification),
        col(ReconciliationRow.first_seen_at),
    ),
    "rejection": (
        col(IngestRejectionRow.seq),
        literal("rejected"),
        col(IngestRejectionRow.received_at),
    ),
}
"""Of each kind what its item has as number, `state` and `since`."""


def _conditions(organization_id: str) -> dict[Kind, tuple[ColumnElement[bool], ...]]:
    """Which rows of each kind need a human."""
    return {
        "event": (col(UsageEventRow.organization_id) == organization_id, _FOR_HUMAN),
        "unit": (
            col(UnitRow.organization_id) == organization_id,
            _needs_a_human(organization_id),
        ),
        "difference": (
            col(ReconciliationRow.organization_id) == organization_id,
            col(ReconciliationRow.state) == "open",
        ),
        "rejection": (col(IngestRejectionRow.organization_id) == organization_id,),
    }


def _waiting(kind: Kind, *conditions: ColumnElement[bool]) -> Select[Any]:
    """These rows as what all kinds have."""
    seq, state, since = _COLUMNS[kind]
    return select_columns(
        literal(kind).label("kind"), seq.label("seq"), state.label("state"), since.label("since")
    ).where(*conditions)
