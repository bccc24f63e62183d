"""Windows: counted events per customer, metric and UTC hour, added up exactly in every way that a
metric may aggregate.

Derived: `rebuild` makes them again from the events at any time, and `verify` shows that this would
change nothing.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Self, TypeAlias

from sqlalchemy import case, delete, select, text, tuple_

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
    """What it holds: see `UsageWindowRow`."""

    total: Decimal
    events: int
    maximum: Decimal
    last: Decimal
    last_at: datetime
    last_seq: int
    forwarded: Decimal

    @classmethod
    def of(cls, event: Counted) -> Self:
        """What one event holds."""
        return cls(
            total=event.quantity,
            events=1,
            maximum=event.quantity,
            last=event.quantity,
            last_at=event.occurred_at,
            last_seq=event.seq,
            forwarded=Decimal(0) if event.event_name is None else event.quantity,
        )

    def plus(self, other: Self) -> Self:
        """What both hold together, in whatever order."""
        latest = max(self, other, key=lambda held: (held.last_at, held.last_seq))
        return latest._replace(
            total=exact.add(self.total, other.total),
            events=self.events + other.events,
            maximum=max(self.maximum, other.maximum),
            forwarded=exact.add(self.forwarded, other.forwarded),
        )


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
        held, new = sums.get(window), Sum.of(event)
        sums[window] = new if held is None else held.plus(new)
    return sums


def add(tx: Tx, organization_id: str, events: Iterable[Counted]) -> None:
    """Add new events to their windows."""
    rows = _rows(tx, organization_id, fold(events))
    if not rows:
        return
    stored = table(UsageWindowRow).c
    statement = insert(tx, UsageWindowRow)
    new = statement.excluded
    later = tuple_(new.last_at, new.last_seq) > tuple_(stored.last_at, stored.last_seq)
    statement = statement.on_conflict_do_update(
        index_elements=["organization_id", *Window._fields],
        set_={
            "total": exact.decimal_add(stored.total, new.total),
            "events": stored.events + new.events,
            "maximum": exact.decimal_greatest(stored.maximum, new.maximum),
            "forwarded": exact.decimal_add(stored.forwarded, new.forwarded),
            "changed_at": new.changed_at,
            **{
                name: case((later, new[name]), else_=stored[name])
                for name in ("last", "last_at", "last_seq")
            },
        },
    )
    tx.session.execute(statement, rows)


def totals(tx: Tx, organization_id: str) -> Sums:
    """Every window of the organization."""
    rows = table(UsageWindowRow).c
    result = tx.session.execute(
        select(*(rows[name] for name in (*Window._fields, *Sum._fields))).where(
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
    rows = _rows(tx, organization_id, fold(_events(tx, organization_id)))
    if rows:
        tx.session.execute(insert(tx, UsageWindowRow), rows)


def _events(tx: Tx, organization_id: str) -> Iterator[Counted]:
    rows = tx.session.execute(select_counted(organization_id).execution_options(yield_per=5_000))
    return (Counted(*row) for row in rows)


def _rows(tx: Tx, organization_id: str, sums: Sums) -> list[dict[str, object]]:
    """In one order everywhere, so that two transactions never wait for each other in a circle."""
    ours = {"organization_id": organization_id, "changed_at": tx.now}
    return [{**ours, **window._asdict(), **sums[window]._asdict()} for window in sorted(sums)]
