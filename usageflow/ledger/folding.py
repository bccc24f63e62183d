"""Filling units: each forwarded usage event goes into exactly one unit of its lane.

Events of a `sum` meter are folded together while their lane is busy; for every other meter each
event is a unit of its own. Nothing is assigned while the organization has no Stripe account.
Sending is `units`'.
"""

import hashlib
from base64 import b32encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from sqlalchemy import bindparam, func, insert, select, tuple_, update
from sqlmodel import col

from usageflow.db.exact import add, plain
from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import (
    InstallationRow,
    LaneRow,
    StripeAccountRow,
    StripeMeterRow,
    UnitRow,
    UsageEventRow,
    table,
)
from usageflow.ledger.counted import Counted, select_counted
from usageflow.periods import hour_start

UNIT_DIGITS_MAX: Final = 15
"""Digits of a folded sum. Stripe refuses a value with more, so folding stops before it has more."""


class Lane(NamedTuple):
    """A lane that is locked by this transaction. `folds`: its meter adds up what it gets."""

    id: int
    customer_id: str
    event_name: str
    folds: bool


Slot: TypeAlias = tuple[Lane, datetime]
"""Where units are numbered: a lane and a UTC hour, which a unit never crosses."""


@dataclass(slots=True, kw_only=True)
class Filling:
    """A unit while events are put into it. `id` is None for a new one."""

    slot: Slot
    sequence: int
    occurred_at: datetime
    quantity: Decimal
    state: str
    id: int | None = None
    seqs: list[int] = field(default_factory=list)
    """The events put in now."""


def fill(
    slot: Slot, events: Iterable[Counted], *, last: Filling | None, next_sequence: int
) -> list[Filling]:
    """Put the events of one slot into units: the open one (`last`) first, then new ones.

    Pure. A unit that is not the slot's open one any more comes back sealed.
    """
    lane, _ = slot
    filled = [last] if last else []
    for event in events:
        current = filled[-1] if filled else None
        total = add(current.quantity, event.quantity) if current else event.quantity
        if current and lane.folds and _digits(total) <= UNIT_DIGITS_MAX:
            current.quantity = total
            current.seqs.append(event.seq)
            continue
        if current:
            current.state = "sealed"
        new = Filling(
            slot=slot,
            sequence=next_sequence,
            occurred_at=event.occurred_at,
            quantity=event.quantity,
            state="open" if lane.folds else "sealed",
            seqs=[event.seq],
        )
        next_sequence += 1
        filled.append(new)
    return filled


def identifier(
    installation: str, account_id: str, lane: Lane, hour: datetime, sequence: int
) -> str:
    """What Stripe knows a unit by: 56 characters, never the same for two units."""
    parts = [
        installation,
        account_id,
        lane.customer_id,
        lane.event_name,
        hour.isoformat(),
        sequence,
    ]
    digest = hashlib.sha256(msgspec.json.encode(parts)).digest()
    return "uf1_" + b32encode(digest).decode().rstrip("=").lower()


def assign(tx: Tx, organization_id: str, events: Iterable[Counted]) -> int:
    """Put events into units, those that have an event name; how many. 0 without an account.

    An event must not be in a unit yet; a trigger refuses to move it.
    """
    forwarded = [event for event in events if event.event_name is not None]
    account_id = _account(tx, organization_id) if forwarded else None
    if account_id is None:
        return 0
    lanes = _lanes(tx, organization_id, account_id, forwarded)
    by_slot: dict[Slot, list[Counted]] = {}
    for event in forwarded:
        lane = lanes[event.customer_id, event.event_name or ""]
        by_slot.setdefault((lane, hour_start(event.occurred_at)), []).append(event)
    open_units, sequences = _open_units(tx, by_slot), _sequences(tx, by_slot)
    filled = [
        unit
        for slot, slot_events in by_slot.items()
        for unit in fill(
            slot,
            slot_events,
            last=open_units.get(slot),
            next_sequence=sequences.get(slot, 0) + 1,
        )
    ]
    _store(tx, organization_id, account_id, filled)
    return len(forwarded)


def assign_unassigned(tx: Tx, organization_id: str, limit: int) -> int:
    """Assign events that were recorded before a Stripe account was connected, oldest first.

    How many were assigned: below `limit` means that none are left. 0 without an account.
    """
    events = table(UsageEventRow)
    unassigned = (
        select_counted(organization_id)
        .where(events.c.event_name.is_not(None), events.c.unit_id.is_(None))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return assign(tx, organization_id, [Counted(*row) for row in tx.session.execute(unassigned)])


def _account(tx: Tx, organization_id: str) -> str | None:
    """The account usage goes to: the first that was connected."""
    return tx.session.scalars(
        select(col(StripeAccountRow.id))
        .where(col(StripeAccountRow.organization_id) == organization_id)
        .order_by(col(StripeAccountRow.created_at), col(StripeAccountRow.id))
        .limit(1)
    ).first()


def _lanes(
    tx: Tx, organization_id: str, account_id: str, events: Sequence[Counted]
) -> dict[tuple[str, str], Lane]:
    """The lanes of these events, made if new, locked in one order, and marked as waiting."""
    first = {(event.customer_id, event.event_name or ""): event for event in reversed(events)}
    _make_lanes(tx, organization_id, account_id, first)
    lanes = table(LaneRow)
    rows = tx.session.execute(
        select(lanes.c.id, lanes.c.customer_id, lanes.c.event_name)
        .where(
            lanes.c.account_id == account_id,
            tuple_(lanes.c.customer_id, lanes.c.event_name).in_(list(first)),
        )
        .order_by(lanes.c.id)
        .with_for_update(key_share=True)
    ).all()
    tx.session.execute(
        update(lanes)
        .where(lanes.c.id.in_([row.id for row in rows]), ~lanes.c.waiting)
        .values(waiting=True)
    )
    folding = _folding(tx, account_id)
    return {
        (row.customer_id, row.event_name): Lane(
            row.id, row.customer_id, row.event_name, row.event_name in folding
        )
        for row in rows
    }


def _make_lanes(
    tx: Tx, organization_id: str, account_id: str, first: Mapping[tuple[str, str], Counted]
) -> None:
    """Make the lanes that do not exist yet; a new one is known as its `first` event has it."""
    insert_new(
        tx,
        LaneRow,
        [
            {
                "organization_id": organization_id,
                "account_id": account_id,
                "customer_id": customer_id,
                "event_name": event_name,
                "identity_field": event.identity_field,
                "identity_value": event.identity_value,
                "leased_until": tx.now,
                "blocked_until": tx.now,
                "failures": 0,
                "waiting": True,
                "oldest_at": event.occurred_at,
                "metered": Decimal(0),
                "settled": Decimal(0),
            }
            for (customer_id, event_name), event in first.items()
        ],
        key=["account_id", "customer_id", "event_name"],
        give="id",
    )


def _folding(tx: Tx, account_id: str) -> set[str]:
    """The event names whose meter adds up all it gets. Unknown meters are not among them."""
    meters = table(StripeMeterRow).c
    return set(
        tx.session.scalars(
            select(meters.event_name).where(
                meters.account_id == account_id,
                meters.formula == "sum",
                meters.event_time_window.is_(None),
            )
        )
    )


def _open_units(tx: Tx, slots: Iterable[Slot]) -> dict[Slot, Filling]:
    units = table(UnitRow).c
    lanes = {lane.id: lane for lane, _ in slots}
    rows = tx.session.execute(
        select(
            units.id, units.lane_id, units.hour, units.sequence, units.occurred_at, units.quantity
        ).where(units.lane_id.in_(lanes), units.state == "open")
    )
    return {
        (lanes[row.lane_id], row.hour): Filling(
            slot=(lanes[row.lane_id], row.hour),
            sequence=row.sequence,
            occurred_at=row.occurred_at,
            quantity=row.quantity,
            state="open",
            id=row.id,
        )
        for row in rows
    }


def _sequences(tx: Tx, slots: Iterable[Slot]) -> dict[Slot, int]:
    """The last number given in each slot."""
    units = table(UnitRow).c
    lanes = {lane.id: lane for lane, _ in slots}
    rows = tx.session.execute(
        select(units.lane_id, units.hour, func.max(units.sequence))
        .where(units.lane_id.in_(lanes), units.hour.in_({hour for _, hour in slots}))
        .group_by(units.lane_id, units.hour)
    )
    return {(lanes[lane_id], hour): last for lane_id, hour, last in rows}


def _store(tx: Tx, organization_id: str, account_id: str, filled: Sequence[Filling]) -> None:
    """Write what was filled. What was open is changed first: a slot has one open unit at a time."""
    units, events = table(UnitRow), table(UsageEventRow)
    if old := [unit for unit in filled if unit.id is not None]:
        tx.session.execute(
            update(units)
            .where(units.c.id == bindparam("unit"))
            .values(
                quantity=bindparam("sum"),
                events=units.c.events + bindparam("more"),
                state=bindparam("now_state"),
                updated_at=tx.now,
            ),
            [
                {
                    "unit": unit.id,
                    "sum": unit.quantity,
                    "more": len(unit.seqs),
                    "now_state": unit.state,
                }
                for unit in old
            ],
        )
    _insert(tx, organization_id, account_id, [unit for unit in filled if unit.id is None])
    tx.session.execute(
        update(events).where(events.c.seq == bindparam("event")).values(unit_id=bindparam("unit")),
        [{"event": seq, "unit": unit.id} for unit in filled for seq in unit.seqs],
    )


def _insert(tx: Tx, organization_id: str, account_id: str, new: Sequence[Filling]) -> None:
    """Store new units and give each its id."""
    if not new:
        return
    units = table(UnitRow)
    installation = tx.session.scalars(select(col(InstallationRow.id))).one()
    named = {identifier(installation, account_id, *unit.slot, unit.sequence): unit for unit in new}
    stored = tx.session.execute(
        insert(units).returning(units.c.identifier, units.c.id),
        [_row(tx, organization_id, name, unit) for name, unit in named.items()],
    )
    for name, unit_id in stored:
        named[name].id = unit_id


def _row(tx: Tx, organization_id: str, name: str, unit: Filling) -> Mapping[str, Any]:
    lane, hour = unit.slot
    return {
        "organization_id": organization_id,
        "lane_id": lane.id,
        "hour": hour,
        "sequence": unit.sequence,
        "kind": "usage",
        "occurred_at": unit.occurred_at,
        "quantity": unit.quantity,
        "events": len(unit.seqs),
        "state": unit.state,
        "identifier": name,
        "attempts": 0,
        "created_at": tx.now,
        "updated_at": tx.now,
    }


def _digits(value: Decimal) -> int:
    """Digits of `value` in plain notation, leading zeros aside."""
    return len(plain(value).replace(".", "").lstrip("0"))
