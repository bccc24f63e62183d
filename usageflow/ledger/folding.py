"""Filling units: each forwarded usage event goes into exactly one unit of its lane.

Events of a `sum` meter are folded together while their lane is busy, but never across an hour or a
boundary of the lane; for every other meter each event is a unit of its own. A quantity of more
digits than Stripe takes is carried on by `part` units. Nothing is assigned while the organization
has no Stripe account. Sending is `units`'.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import and_, bindparam, case, insert, select, tuple_, update
from sqlmodel import col

from usageflow.db.columns import table
from usageflow.db.exact import add, decimal_add
from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import (
    InstallationRow,
    LaneRow,
    StripeAccountRow,
    StripeMeterRow,
    UnitRow,
    UsageEventRow,
)
from usageflow.ledger import boundaries
from usageflow.ledger.counted import Counted, select_counted
from usageflow.ledger.identifiers import identifier
from usageflow.ledger.splitting import UNIT_DIGITS_MAX, digits, split
from usageflow.periods import hour_start

ALL: Final = "all"
"""`stripe_account.folding` where everything adds up."""


class Lane(NamedTuple):
    """A lane that is locked by this transaction. `folds`: its meter adds up what it gets.

    `last_sequence`: the number of its last unit. `boundaries`: moments that no unit may cross.
    """

    id: int
    customer_id: str
    event_name: str
    folds: bool
    last_sequence: int = 0
    boundaries: tuple[datetime, ...] = ()

    def divides(self, one: datetime, other: datetime) -> bool:
        """Whether a boundary lies between two moments."""
        early, late = min(one, other), max(one, other)
        return any(early < at <= late for at in self.boundaries)


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
    part_of: "Filling | None" = None
    seqs: list[int] = field(default_factory=list)
    """The events put in now."""


def fill(
    slot: Slot, events: Iterable[Counted], *, last: Filling | None, next_sequence: int
) -> list[Filling]:
    """Put the events of one slot into units: the open one (`last`) first, then new ones.

    Pure. A unit that is not the slot's open one any more comes back sealed.
    """
    filled = [last] if last else []
    for event in events:
        if filled and _joins(slot[0], filled[-1], event):
            filled[-1].quantity = add(filled[-1].quantity, event.quantity)
            filled[-1].seqs.append(event.seq)
            continue
        if filled:
            filled[-1].state = "sealed"
        filled += _begun(slot, event, next_sequence + sum(unit is not last for unit in filled))
    return filled


def _joins(lane: Lane, unit: Filling, event: Counted) -> bool:
    return (
        lane.folds
        and unit.state == "open"
        and not lane.divides(unit.occurred_at, event.occurred_at)
        and digits(add(unit.quantity, event.quantity)) <= UNIT_DIGITS_MAX
    )


def _begun(slot: Slot, event: Counted, sequence: int) -> list[Filling]:
    """The new unit of an event; several if its quantity is too large for one and may be split."""
    lane = slot[0]
    amounts = split(event.quantity) if lane.folds else [event.quantity]
    units = [
        Filling(
            slot=slot,
            sequence=sequence + place,
            occurred_at=event.occurred_at,
            quantity=amount,
            state="open" if lane.folds and len(amounts) == 1 else "sealed",
        )
        for place, amount in enumerate(amounts)
    ]
    units[0].seqs.append(event.seq)
    for part in units[1:]:
        part.part_of = units[0]
    return units


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
    filled = _filled(by_slot, _open_units(tx, by_slot))
    _store(tx, organization_id, account_id, filled)
    _take_in(tx, lanes, forwarded, filled)
    return len(forwarded)


def _filled(
    by_slot: Mapping[Slot, Sequence[Counted]], open_units: Mapping[Slot, Filling]
) -> list[Filling]:
    """The units that the events come into; those of a lane are numbered on, whatever the hour."""
    filled: list[Filling] = []
    numbers = {lane.id: lane.last_sequence for lane, _ in by_slot}
    for slot, events in by_slot.items():
        number = numbers[slot[0].id]
        units = fill(slot, events, last=open_units.get(slot), next_sequence=number + 1)
        numbers[slot[0].id] = max(number, units[-1].sequence)
        filled += units
    return filled


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
    """The account usage goes to; none while the only one there was is withdrawn: usage waits."""
    return tx.session.scalars(
        select(col(StripeAccountRow.id))
        .where(
            col(StripeAccountRow.organization_id) == organization_id,
            col(StripeAccountRow.state) != "deauthorized",
        )
        .order_by(col(StripeAccountRow.created_at), col(StripeAccountRow.id))
        .limit(1)
    ).first()


def _lanes(
    tx: Tx, organization_id: str, account_id: str, events: Sequence[Counted]
) -> dict[tuple[str, str], Lane]:
    """The lanes of these events, made if new, and locked in one order."""
    first = {(event.customer_id, event.event_name or ""): event for event in reversed(events)}
    _make_lanes(tx, organization_id, account_id, first)
    lanes = table(LaneRow)
    rows = tx.session.execute(
        select(lanes.c.id, lanes.c.customer_id, lanes.c.event_name, lanes.c.last_sequence)
        .where(
            lanes.c.account_id == account_id,
            tuple_(lanes.c.customer_id, lanes.c.event_name).in_(list(first)),
        )
        .order_by(lanes.c.id)
        .with_for_update(key_share=True)
    ).all()
    folding, limits = _folding(tx, account_id), boundaries.of(tx, [row.id for row in rows])
    return {
        (row.customer_id, row.event_name): Lane(
            row.id,
            row.customer_id,
            row.event_name,
            folding is None or row.event_name in folding,
            row.last_sequence,
            limits.get(row.id, ()),
        )
        for row in rows
    }


def _take_in(
    tx: Tx,
    by_name: Mapping[tuple[str, str], Lane],
    events: Sequence[Counted],
    filled: Sequence[Filling],
) -> None:
    """Note in each lane what it was given: how much, in how many units, and since when it waits."""
    numbers = {lane.id: lane.last_sequence for lane in by_name.values()}
    for unit in filled:
        numbers[unit.slot[0].id] = max(numbers[unit.slot[0].id], unit.sequence)
    sums: dict[int, tuple[Decimal, datetime]] = {}
    for event in events:
        lane_id = by_name[event.customer_id, event.event_name or ""].id
        total, oldest = sums.get(lane_id, (Decimal(0), event.occurred_at))
        sums[lane_id] = add(total, event.quantity), min(oldest, event.occurred_at)
    lanes = table(LaneRow)
    more = bindparam("more", type_=lanes.c.metered.type)
    at = bindparam("oldest", type_=lanes.c.oldest_at.type)
    waits_longer = and_(lanes.c.waiting, lanes.c.oldest_at <= at)
    statement = (
        update(lanes)
        .where(lanes.c.id == bindparam("lane"))
        .values(
            metered=decimal_add(lanes.c.metered, more),
            oldest_at=case((waits_longer, lanes.c.oldest_at), else_=at),
            waiting=True,
            last_sequence=bindparam("last"),
        )
    )
    tx.session.execute(
        statement,
        [
            {"lane": lane_id, "more": total, "oldest": oldest, "last": numbers[lane_id]}
            for lane_id, (total, oldest) in sums.items()
        ],
    )


def _make_lanes(
    tx: Tx, organization_id: str, account_id: str, first: Mapping[tuple[str, str], Counted]
) -> None:
    """Make the lanes that do not exist yet; a new one is known as its `first` event has it."""
    made = insert_new(
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
                "last_sequence": 0,
            }
            for (customer_id, event_name), event in first.items()
        ],
        key=["account_id", "customer_id", "event_name"],
        give="id",
    )
    boundaries.for_new_lanes(tx, account_id, [row.id for row in made])


def _folding(tx: Tx, account_id: str) -> set[str] | None:
    """The event names whose meter adds up all it gets; None: all do.

    Meters that are not known are not among them.
    """
    if tx.session.get_one(StripeAccountRow, account_id).folding == ALL:
        return None
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
    """Store new units and give each its id; the parts of others after these."""
    installation = tx.session.scalars(select(col(InstallationRow.id))).one()
    for some in ([u for u in new if u.part_of is None], [u for u in new if u.part_of is not None]):
        named = {_identifier(installation, account_id, unit): unit for unit in some}
        if named:
            units = table(UnitRow)
            stored = tx.session.execute(
                insert(units).returning(units.c.identifier, units.c.id),
                [_row(tx, organization_id, name, unit) for name, unit in named.items()],
            )
            for name, unit_id in stored:
                named[name].id = unit_id


def _identifier(installation: str, account_id: str, unit: Filling) -> str:
    lane, hour = unit.slot
    return identifier(
        installation,
        account_id,
        customer_id=lane.customer_id,
        event_name=lane.event_name,
        hour=hour,
        sequence=unit.sequence,
    )


def _row(tx: Tx, organization_id: str, name: str, unit: Filling) -> Mapping[str, Any]:
    lane, hour = unit.slot
    return {
        "organization_id": organization_id,
        "lane_id": lane.id,
        "hour": hour,
        "sequence": unit.sequence,
        "kind": "usage" if unit.part_of is None else "part",
        "parent_id": None if unit.part_of is None else unit.part_of.id,
        "occurred_at": unit.occurred_at,
        "quantity": unit.quantity,
        "events": len(unit.seqs),
        "state": unit.state,
        "identifier": name,
        "attempts": 0,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
