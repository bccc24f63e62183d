"""Usage as people ask for it: per customer, metric and UTC hour, and how much of it is at Stripe.

Reads only; exact.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy import case, func, literal_column, select

from usageflow.db.columns import table
from usageflow.db.exact import add, decimal_sum, utc_hour
from usageflow.db.session import Tx
from usageflow.db.tables import (
    UNIT_PENDING,
    CustomerIdentityRow,
    CustomerRow,
    LaneRow,
    StripeAccountRow,
    StripeMeterRow,
    UnitRow,
    UsageEventRow,
)
from usageflow.ledger import windows
from usageflow.ledger.customers import EXTERNAL_ID
from usageflow.ledger.windows import Window

_AT_STRIPE: Final = ("accepted", "settled")
_STAGES: Final = ("accepted", "pending", "stuck", "written_off")


class Slot(NamedTuple):
    """Where Stripe adds up: a customer of its own, the event name of a meter and a UTC hour."""

    stripe_customer: str
    event_name: str
    hour: datetime


@dataclass(frozen=True, slots=True)
class Forwarded:
    """How far the usage of one event name has come: at Stripe, on its way, with a human, given up.

    `slots` are where it is at Stripe, or will be; none while nobody knows whose it is there.
    """

    event_name: str
    accepted: Decimal
    pending: Decimal
    stuck: Decimal
    written_off: Decimal
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of one customer and metric in one hour. `field` is how the customer is known."""

    customer: str
    field: str
    metric: str
    hour: datetime
    total: Decimal
    events: int
    forwarded: tuple[Forwarded, ...]


class Fed(NamedTuple):
    """What has come into a slot according to the ledger.

    `feeders` are the lines of usage that it has come from, as (customer, metric, hour). With
    `corrected` there are corrections in it, too, which are no usage.
    """

    accepted: Decimal
    feeders: tuple[tuple[str, str, datetime], ...]
    corrected: bool

    @property
    def single(self) -> bool:
        """Whether all of it is told by one line of usage."""
        return len(self.feeders) == 1 and not self.corrected


NOTHING: Final = Fed(Decimal(0), (), corrected=False)


class _Unit(NamedTuple):
    """The unit that carries a quantity in the end. Without a customer it has no slot."""

    state: str
    hour: datetime
    stripe_customer_id: str | None


class _Part(NamedTuple):
    """Usage of one line and event name that went one way."""

    window: Window
    event_name: str
    unit: _Unit
    quantity: Decimal


def totals(tx: Tx, organization_id: str) -> list[Usage]:
    """All usage of the organization, in order of customer, metric and hour."""
    names, progress = _names(tx, organization_id), _progress(tx, organization_id)
    found = [
        Usage(
            *names[window.customer_id],
            *window[1:],
            held.total,
            held.events,
            tuple(progress.get(window, ())),
        )
        for window, held in windows.totals(tx, organization_id).items()
    ]
    return sorted(found, key=lambda usage: (usage.customer, usage.metric, usage.hour))


def by_slot(tx: Tx, organization_id: str, rows: Iterable[Usage]) -> dict[Slot, Fed]:
    """The same usage as Stripe sees it: several customers and metrics may feed one slot."""
    feeders: dict[Slot, list[tuple[str, str, datetime]]] = defaultdict(list)
    for row in rows:
        for slot in dict.fromkeys(slot for part in row.forwarded for slot in part.slots):
            feeders[slot].append((row.customer, row.metric, row.hour))
    units, lanes = table(UnitRow).c, table(LaneRow).c
    key = (units.stripe_customer_id, lanes.event_name, units.hour, units.state, units.kind)
    sums: dict[Slot, Decimal] = dict.fromkeys(feeders, Decimal(0))
    corrected = set()
    for *place, state, kind, quantity in tx.session.execute(
        select(*key, decimal_sum(units.quantity))
        .join_from(units.id.table, lanes.id.table, lanes.id == units.lane_id)
        .where(units.organization_id == organization_id, units.stripe_customer_id.is_not(None))
        .group_by(*key)
    ):
        slot = Slot(*place)
        if state in _AT_STRIPE:
            sums[slot] = add(sums.get(slot, Decimal(0)), quantity)
        if kind == "correction":
            corrected.add(slot)
    return {
        slot: Fed(accepted, tuple(feeders.get(slot, ())), corrected=slot in corrected)
        for slot, accepted in sums.items()
    }


def not_summed(tx: Tx, organization_id: str) -> set[str]:
    """The event names whose meter does not add up: its value is no sum of quantities."""
    meters, accounts = table(StripeMeterRow).c, table(StripeAccountRow).c
    return set(
        tx.session.scalars(
            select(meters.event_name)
            .join_from(meters.account_id.table, accounts.id.table)
            .where(accounts.organization_id == organization_id, meters.formula != "sum")
        )
    )


def _names(tx: Tx, organization_id: str) -> dict[str, tuple[str, str]]:
    """`external_id` and identity field of each customer; the first field in order, of several."""
    payers, known = table(CustomerRow).c, table(CustomerIdentityRow).c
    rows = tx.session.execute(
        select(payers.id, payers.external_id, func.coalesce(func.min(known.field), EXTERNAL_ID))
        .outerjoin_from(payers.id.table, known.field.table, known.customer_id == payers.id)
        .where(payers.organization_id == organization_id)
        .group_by(payers.id, payers.external_id)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _progress(tx: Tx, organization_id: str) -> dict[Window, list[Forwarded]]:
    sums: dict[tuple[Window, str], dict[str, Decimal]] = {}
    slots: dict[tuple[Window, str], set[Slot]] = defaultdict(set)
    for part in (*_in_units(tx, organization_id), *_unassigned(tx, organization_id)):
        key, stage = (part.window, part.event_name), _stage(part.unit.state)
        stages = sums.setdefault(key, {})
        stages[stage] = add(stages.get(stage, Decimal(0)), part.quantity)
        if part.unit.stripe_customer_id is not None:
            slots[key].add(Slot(part.unit.stripe_customer_id, part.event_name, part.unit.hour))
    progress: dict[Window, list[Forwarded]] = {}
    for (window, event_name), stages in sorted(sums.items()):
        told = dict.fromkeys(_STAGES, Decimal(0)) | stages
        where = tuple(sorted(slots[window, event_name]))
        progress.setdefault(window, []).append(Forwarded(event_name, **told, slots=where))
    return progress


def _stage(state: str) -> str:
    if state in _AT_STRIPE:
        return "accepted"
    if state in UNIT_PENDING:
        return "pending"
    return "written_off" if state == "written_off" else "stuck"


def _in_units(tx: Tx, organization_id: str) -> Iterator[_Part]:
    """Of a unit that was reissued, another one carries the quantity, perhaps in another hour."""
    events, units = table(UsageEventRow), table(UnitRow)
    reissued = case((units.c.state == literal_column("'reissued'"), units.c.id))
    key = (
        *(events.c.customer_id, events.c.metric, units.c.hour, events.c.event_name),
        *(units.c.state, units.c.stripe_customer_id, reissued),
    )
    rows = tx.session.execute(
        select(*key, decimal_sum(events.c.quantity))
        .join_from(events, units, units.c.id == events.c.unit_id)
        .where(events.c.organization_id == organization_id)
        .group_by(*key)
    )
    carriers = _carriers(tx, organization_id)
    for customer_id, metric, hour, event_name, state, payer, unit_id, quantity in rows:
        unit = _Unit(state, hour, payer) if unit_id is None else carriers[unit_id]
        yield _Part(Window(customer_id, metric, hour), event_name, unit, quantity)


def _carriers(tx: Tx, organization_id: str) -> dict[int, _Unit]:
    """By the id of a unit that was reissued: the one that carries its quantity now."""
    units = table(UnitRow).c
    rows = tx.session.execute(
        select(units.parent_id, units.id, units.state, units.hour, units.stripe_customer_id)
        .where(units.organization_id == organization_id, units.kind == "reissue")
        .order_by(units.id.desc())
    )
    carriers: dict[int, _Unit] = {}
    for parent_id, unit_id, *unit in rows:  # the younger before the one that it replaces
        carriers[parent_id] = carriers.get(unit_id) or _Unit(*unit)
    return carriers


def _unassigned(tx: Tx, organization_id: str) -> Iterator[_Part]:
    """Events to be forwarded that are in no unit, because no account is connected yet."""
    events = table(UsageEventRow).c
    key = (events.customer_id, events.metric, utc_hour(events.occurred_at), events.event_name)
    rows = tx.session.execute(
        select(*key, decimal_sum(events.quantity))
        .where(
            events.organization_id == organization_id,
            events.state == literal_column("'counted'"),  # written out: the index has it so
            events.event_name.is_not(None),
            events.unit_id.is_(None),
        )
        .group_by(*key)
    )
    for customer_id, metric, hour, event_name, quantity in rows:
        unit = _Unit("open", hour, None)
        yield _Part(Window(customer_id, metric, hour), event_name, unit, quantity)
