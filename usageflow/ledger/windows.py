"""Windows: counted events per customer, metric and UTC hour, added up exactly in every way that a
metric may aggregate. What they cannot tell, different values, is `values`'s.

Derived: they can be made again from the events at any time (`derived`).
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Text, bindparam, case, delete, select, true, tuple_
from sqlalchemy.dialects import postgresql

from usageflow.db import exact
from usageflow.db.columns import table
from usageflow.db.exact import UtcDateTime
from usageflow.db.session import Tx
from usageflow.db.statements import insert
from usageflow.db.tables import UsageWindowRow
from usageflow.ledger.counted import Counted
from usageflow.ledger.given import Kind, encoded, given, prepared
from usageflow.periods import hour_start

_ZERO: Final = Decimal(0)


class Window(NamedTuple):
    """What one window is about."""

    customer_id: str
    metric: str
    hour: datetime


class Sum(NamedTuple):
    """What it holds: see `UsageWindowRow`."""

    total: Decimal
    events: int
    maximum: Decimal
    last: Decimal
    last_at: datetime
    last_seq: int
    forwarded: Decimal


Sums: TypeAlias = dict[Window, Sum]


class Difference(NamedTuple):
    """A window that is not what its events add up to. None: it is missing, or should be."""

    window: Window
    stored: Sum | None
    expected: Sum | None


_COLUMNS: dict[str, Kind] = {
    "customer_id": "text",
    "metric": "text",
    "hour": "instant",
    "total": "decimal",
    "events": "whole",
    "maximum": "decimal",
    "last": "decimal",
    "last_at": "instant",
    "last_seq": "whole",
    "forwarded": "decimal",
}


def fold(events: Iterable[Counted]) -> Sums:
    """What these events add up to, in whatever order they come."""
    held: dict[Window, list[Any]] = {}
    for event in events:
        window = Window(event.customer_id, event.metric, hour_start(event.occurred_at))
        quantity, at, seq = event.quantity, event.occurred_at, event.seq
        forwarded = _ZERO if event.event_name is None else quantity
        sums = held.get(window)
        if sums is None:
            held[window] = [quantity, 1, quantity, quantity, at, seq, forwarded]
            continue
        sums[0] = exact.add(sums[0], quantity)
        sums[1] += 1
        sums[2] = max(sums[2], quantity)
        if (at, seq) > (sums[4], sums[5]):
            sums[3:6] = quantity, at, seq
        if forwarded:
            sums[6] = exact.add(sums[6], forwarded)
    return {window: Sum(*sums) for window, sums in held.items()}


def add(tx: Tx, organization_id: str, events: Iterable[Counted]) -> None:
    """Add new events to their windows."""
    put(tx, organization_id, fold(events))


def put(tx: Tx, organization_id: str, sums: Sums) -> None:
    """Add to the windows that are there; in one order everywhere, so that two transactions never
    wait for each other in a circle.
    """
    if not sums:
        return
    rows = [(*window, *sums[window]) for window in sorted(sums)]
    new = {"new": encoded(tx, _COLUMNS, rows), "organization": organization_id, "now": tx.now}
    tx.session.execute(_add(tx), new)


@prepared
def _add(tx: Tx) -> postgresql.Insert:
    new = given(tx, "new", _COLUMNS).add_columns(
        bindparam("organization", type_=Text()), bindparam("now", type_=UtcDateTime())
    )
    statement = insert(tx, UsageWindowRow).from_select(
        [*_COLUMNS, "organization_id", "changed_at"], new.where(true())
    )
    stored, more = table(UsageWindowRow).c, statement.excluded
    later = tuple_(more.last_at, more.last_seq) > tuple_(stored.last_at, stored.last_seq)
    return statement.on_conflict_do_update(
        index_elements=["organization_id", *Window._fields],
        set_={
            "total": exact.decimal_add(stored.total, more.total),
            "events": stored.events + more.events,
            "maximum": exact.decimal_greatest(stored.maximum, more.maximum),
            "forwarded": exact.decimal_add(stored.forwarded, more.forwarded),
            "changed_at": more.changed_at,
            **{
                name: case((later, more[name]), else_=stored[name])
                for name in ("last", "last_at", "last_seq")
            },
        },
    )


def totals(tx: Tx, organization_id: str) -> Sums:
    """Every window of the organization."""
    rows = table(UsageWindowRow).c
    result = tx.session.execute(
        select(*(rows[name] for name in (*Window._fields, *Sum._fields))).where(
            rows.organization_id == organization_id
        )
    )
    return {Window(*row[:3]): Sum(*row[3:]) for row in result}


def differences(stored: Sums, expected: Sums) -> list[Difference]:
    """Where the two differ, in order."""
    return [
        Difference(window, stored.get(window), expected.get(window))
        for window in sorted(stored.keys() | expected.keys())
        if stored.get(window) != expected.get(window)
    ]


def clear(tx: Tx, organization_id: str) -> None:
    """Forget every window of the organization, to `put` the right ones."""
    rows = table(UsageWindowRow)
    tx.session.execute(delete(rows).where(rows.c.organization_id == organization_id))
