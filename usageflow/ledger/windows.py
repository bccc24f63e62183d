"""Windows: the exact sum of counted events per customer, metric and UTC hour.

Derived: `rebuild` makes them again from the events at any time, and `verify` shows that this would
change nothing.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from sqlalchemy import delete, select, text

from usageflow.db import exact
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import insert
from usageflow.db.tables import UsageWindowRow
from usageflow.ledger.counted import Counted, select_counted
from usageflow.periods import hour_start


class Window(NamedTuple):
    """What one window is about."""

    customer_id: str
    metric: str
    hour: datetime


class Sum(NamedTuple):
    """What it holds."""

    total: Decimal
    events: int


Sums: TypeAlias = dict[Window, Sum]


class Difference(NamedTuple):
    """A window that is not what its events add up to. None: it is missing, or should be."""

    window: Window
    stored: Sum | None
    expected: Sum | None


def fold(events: Iterable[Counted]) -> Sums:
    """What these events add up to."""
    sums: Sums = {}
    for event in events:
        window = Window(event.customer_id, event.metric, hour_start(event.occurred_at))
        total, count = sums.get(window, Sum(Decimal(0), 0))
        sums[window] = Sum(exact.add(total, event.quantity), count + 1)
    return sums


def add(tx: Tx, organization_id: str, events: Iterable[Counted]) -> None:
    """Add new events to their windows."""
    rows = _rows(organization_id, fold(events))
    if not rows:
        return
    stored = table(UsageWindowRow).c
    statement = insert(tx, UsageWindowRow)
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["organization_id", *Window._fields],
        set_={
            "total": exact.decimal_add(stored.total, new.total),
            "events": stored.events + new.events,
        },
    )
    tx.session.execute(statement, rows)


def totals(tx: Tx, organization_id: str) -> Sums:
    """Every window of the organization."""
    rows = table(UsageWindowRow).c
    result = tx.session.execute(
        select(rows.customer_id, rows.metric, rows.hour, rows.total, rows.events).where(
            rows.organization_id == organization_id
        )
    )
    return {Window(*row[:3]): Sum(*row[3:]) for row in result}


def verify(tx: Tx, organization_id: str) -> list[Difference]:
    """The windows that differ from their events; none if all is well."""
    stored, expected = totals(tx, organization_id), fold(_events(tx, organization_id))
    return [
        Difference(window, stored.get(window), expected.get(window))
        for window in sorted(stored.keys() | expected.keys())
        if stored.get(window) != expected.get(window)
    ]


def rebuild(tx: Tx, organization_id: str) -> None:
    """Make every window of the organization again from its events. Ingest waits meanwhile."""
    if tx.dialect == "postgresql":
        # After this, every other transaction has either added its events to the windows and is
        # committed, or will add them after us.
        tx.session.execute(text("LOCK TABLE usage_window IN SHARE ROW EXCLUSIVE MODE"))
    windows = table(UsageWindowRow)
    tx.session.execute(delete(windows).where(windows.c.organization_id == organization_id))
    rows = _rows(organization_id, fold(_events(tx, organization_id)))
    if rows:
        tx.session.execute(insert(tx, UsageWindowRow), rows)


def _events(tx: Tx, organization_id: str) -> Iterator[Counted]:
    rows = tx.session.execute(select_counted(organization_id).execution_options(yield_per=5_000))
    return (Counted(*row) for row in rows)


def _rows(organization_id: str, sums: Sums) -> list[dict[str, object]]:
    """In one order everywhere, so that two transactions never wait for each other in a circle."""
    return [
        {"organization_id": organization_id, **window._asdict(), **sums[window]._asdict()}
        for window in sorted(sums)
    ]
