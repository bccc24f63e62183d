"""Usage as people ask for it: per customer, metric and UTC hour, and how much of it is at Stripe.

Reads only; exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy import func, literal_column, select

from usageflow.db.exact import add, decimal_sum, utc_hour
from usageflow.db.session import Tx
from usageflow.db.tables import (
    UNIT_PENDING,
    CustomerIdentityRow,
    CustomerRow,
    StripeAccountRow,
    StripeMeterRow,
    UnitRow,
    UsageEventRow,
    table,
)
from usageflow.ledger import windows
from usageflow.ledger.windows import Window

_AT_STRIPE: Final = ("accepted", "settled")


@dataclass(frozen=True, slots=True)
class Forwarded:
    """How far the usage of one event name has come: at Stripe, on its way, or with a human."""

    event_name: str
    accepted: Decimal
    pending: Decimal
    stuck: Decimal


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


class Slot(NamedTuple):
    """Where Stripe adds up: a customer, the event name of a meter and a UTC hour."""

    customer: str
    event_name: str
    hour: datetime


class Fed(NamedTuple):
    """What has come into a slot according to the ledger, and of how many metrics."""

    accepted: Decimal
    metrics: int


NOTHING: Final = Fed(Decimal(0), 0)


def totals(tx: Tx, organization_id: str) -> list[Usage]:
    """All usage of the organization, in order of customer, metric and hour."""
    names, progress = _names(tx, organization_id), _progress(tx, organization_id)
    found = [
        Usage(*names[window.customer_id], *window[1:], *held, tuple(progress.get(window, ())))
        for window, held in windows.totals(tx, organization_id).items()
    ]
    return sorted(found, key=lambda usage: (usage.customer, usage.metric, usage.hour))


def by_slot(rows: Iterable[Usage]) -> dict[Slot, Fed]:
    """The same usage as Stripe sees it: a meter may be fed by several metrics."""
    slots: dict[Slot, Fed] = {}
    for row in rows:
        for part in row.forwarded:
            slot = Slot(row.customer, part.event_name, row.hour)
            fed = slots.get(slot, NOTHING)
            slots[slot] = Fed(add(fed.accepted, part.accepted), fed.metrics + 1)
    return slots


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
        select(payers.id, payers.external_id, func.min(known.field))
        .join_from(payers.id.table, known.field.table, known.customer_id == payers.id)
        .where(payers.organization_id == organization_id)
        .group_by(payers.id, payers.external_id)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _progress(tx: Tx, organization_id: str) -> dict[Window, list[Forwarded]]:
    sums: dict[tuple[Window, str], dict[str, Decimal]] = {}
    for window, event_name, state, quantity in [
        *_in_units(tx, organization_id),
        *_unassigned(tx, organization_id),
    ]:
        stage = (
            "accepted" if state in _AT_STRIPE else "pending" if state in UNIT_PENDING else "stuck"
        )
        stages = sums.setdefault((window, event_name), {})
        stages[stage] = add(stages.get(stage, Decimal(0)), quantity)
    progress: dict[Window, list[Forwarded]] = {}
    for (window, event_name), stages in sorted(sums.items()):
        parts = (stages.get(stage, Decimal(0)) for stage in ("accepted", "pending", "stuck"))
        progress.setdefault(window, []).append(Forwarded(event_name, *parts))
    return progress


def _in_units(tx: Tx, organization_id: str) -> list[tuple[Window, str, str, Decimal]]:
    events, units = table(UsageEventRow), table(UnitRow)
    key = (events.c.customer_id, events.c.metric, units.c.hour, events.c.event_name, units.c.state)
    rows = tx.session.execute(
        select(*key, decimal_sum(events.c.quantity))
        .join_from(events, units, units.c.id == events.c.unit_id)
        .where(events.c.organization_id == organization_id)
        .group_by(*key)
    )
    return [(Window(*row[:3]), row[3], row[4], row[5]) for row in rows]


def _unassigned(tx: Tx, organization_id: str) -> list[tuple[Window, str, str, Decimal]]:
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
    return [(Window(*row[:3]), row[3], "open", row[4]) for row in rows]
