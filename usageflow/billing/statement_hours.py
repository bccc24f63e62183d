"""The usage of one customer and metric, hour by hour, as the ledger had it at a watermark.

Hours that have not changed since are read from windows; the others, and the parts of hours at the
ends, are added up anew from the events up to the watermark. Exact, for every aggregation.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, Subquery, distinct, func, select, union

from usageflow.db import exact
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import UsageEventRow, UsageValueRow, UsageWindowRow
from usageflow.ledger.given import given
from usageflow.periods import HOUR, hour_start

_ZERO: Final = Decimal(0)


class Span(NamedTuple):
    """Usage of `[start, end)`, counting events up to the watermark.

    Windows changed at `recount_since` or later may hold younger ones; None: none does.
    """

    organization_id: str
    customer_id: str
    metric: str
    aggregation: str
    start: datetime
    end: datetime
    watermark: int
    recount_since: datetime | None


class Hour(NamedTuple):
    """The usage of an hour, or of the part of it that lies in the span."""

    start: datetime
    end: datetime
    quantity: Decimal
    events: int


class _Sum(NamedTuple):
    """What the events of an hour hold, in every way that a metric may aggregate."""

    total: Decimal
    events: int
    maximum: Decimal
    last: Decimal

    def plus(self, later: "_Sum") -> "_Sum":
        """With what came after it in time."""
        return _Sum(
            exact.add(self.total, later.total),
            self.events + later.events,
            max(self.maximum, later.maximum),
            later.last,
        )


def hours_of(tx: Tx, span: Span) -> tuple[list[Hour], Decimal]:
    """The hours with usage, in order, and what the span comes to in all."""
    parts = [
        *_edges(span),
        *((hour, hour + HOUR) for hour in _changed(tx, span)),
    ]
    sums = {**_windows(tx, span, {start for start, _ in parts}), **_counted(tx, span, parts)}
    ordered = [(hour, sums[hour]) for hour in sorted(sums)]
    if span.aggregation == "UNIQUE_COUNT":
        values = _values(tx, span, parts)
        found, total = _unique_hours(tx, values), _unique(tx, values)
    else:
        found = {hour: _aggregated(held, span.aggregation) for hour, held in ordered}
        total = _total([held for _, held in ordered], span.aggregation)
    return [
        Hour(
            max(hour, span.start),
            min(hour + HOUR, span.end),
            found.get(hour, _ZERO),
            held.events,
        )
        for hour, held in ordered
    ], total


def _edges(span: Span) -> Iterator[tuple[datetime, datetime]]:
    """The parts of hours at the ends, at most two."""
    first, last = hour_start(span.start), hour_start(span.end)
    if first < span.start:
        yield span.start, min(first + HOUR, span.end)
    if last < span.end and last >= span.start:
        yield last, span.end


def _whole(span: Span, rows: Any) -> tuple[ColumnElement[bool], ...]:
    """The condition that a window or value is of a whole hour of the span."""
    first = hour_start(span.start)
    return (
        rows.organization_id == span.organization_id,
        rows.customer_id == span.customer_id,
        rows.metric == span.metric,
        rows.hour >= (first if first == span.start else first + HOUR),
        rows.hour < hour_start(span.end),
    )


def _changed(tx: Tx, span: Span) -> Sequence[datetime]:
    """The whole hours whose windows may hold events beyond the watermark."""
    if span.recount_since is None:
        return []
    rows = table(UsageWindowRow).c
    return tx.session.scalars(
        select(rows.hour).where(*_whole(span, rows), rows.changed_at >= span.recount_since)
    ).all()


def _windows(tx: Tx, span: Span, but: set[datetime]) -> dict[datetime, _Sum]:
    rows = table(UsageWindowRow).c
    found = tx.session.execute(
        select(rows.hour, *(rows[name] for name in _Sum._fields)).where(*_whole(span, rows))
    )
    return {hour: _Sum(*held) for hour, *held in found if hour not in but}


def _counted(
    tx: Tx, span: Span, parts: Sequence[tuple[datetime, datetime]]
) -> dict[datetime, _Sum]:
    """The hours of these parts, added up from their events."""
    sums: dict[datetime, _Sum] = {}
    if parts:
        events = table(UsageEventRow).c
        listed = _parts(tx, parts)
        rows = tx.session.execute(
            select(events.occurred_at, events.quantity)
            .join_from(listed, events.seq.table, _inside(span, events, listed))
            .order_by(events.occurred_at, events.seq)
        )
        for occurred_at, quantity in rows:
            hour, one = hour_start(occurred_at), _Sum(quantity, 1, quantity, quantity)
            sums[hour] = sums[hour].plus(one) if hour in sums else one
    return sums


def _parts(tx: Tx, parts: Sequence[tuple[datetime, datetime]]) -> Subquery:
    return given(tx, "part", {"start_at": "instant", "end_at": "instant"}, parts).subquery("parts")


def _inside(span: Span, events: Any, listed: Subquery) -> ColumnElement[bool]:
    """The condition that an event counts, and lies in one of the parts."""
    condition: ColumnElement[bool] = (
        (events.organization_id == span.organization_id)
        & (events.customer_id == span.customer_id)
        & (events.metric == span.metric)
        & (events.state == "counted")
        & (events.seq <= span.watermark)
        & (events.occurred_at >= listed.c.start_at)
        & (events.occurred_at < listed.c.end_at)
    )
    return condition


def _aggregated(held: _Sum, aggregation: str) -> Decimal:
    match aggregation:
        case "COUNT":
            return Decimal(held.events)
        case "MAX":
            return held.maximum
        case "LAST":
            return held.last
        case _:
            return held.total


def _total(sums: Iterable[_Sum], aggregation: str) -> Decimal:
    """In order of time."""
    whole: _Sum | None = None
    for held in sums:
        whole = held if whole is None else whole.plus(held)
    return _ZERO if whole is None else _aggregated(whole, aggregation)


def _values(tx: Tx, span: Span, parts: Sequence[tuple[datetime, datetime]]) -> Subquery:
    """(hour, value): each value that was seen in an hour, once."""
    stored = table(UsageValueRow).c
    whole = select(stored.hour, stored.value).where(*_whole(span, stored))
    if not parts:
        return whole.subquery()
    events, listed = table(UsageEventRow).c, _parts(tx, parts)
    counted: Select[Any] = select(
        exact.utc_hour(events.occurred_at).label("hour"), events.unique_value
    ).join_from(listed, events.seq.table, _inside(span, events, listed))
    begun = select(exact.utc_hour(listed.c.start_at))
    return union(
        whole.where(stored.hour.not_in(begun)),
        counted.where(events.unique_value.is_not(None)),
    ).subquery()


def _unique_hours(tx: Tx, values: Subquery) -> dict[datetime, Decimal]:
    rows = tx.session.execute(select(values.c.hour, func.count()).group_by(values.c.hour))
    return {hour: Decimal(count) for hour, count in rows}


def _unique(tx: Tx, values: Subquery) -> Decimal:
    return Decimal(tx.session.scalar(select(func.count(distinct(values.c.value)))) or 0)
