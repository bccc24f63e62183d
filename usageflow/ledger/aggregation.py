"""What usage comes to over an interval, as its metric aggregates it. Reads only.

Whole UTC hours are read from windows and values, the parts of hours at the ends from the events
themselves (`spans`): exact for every interval, and independent of how many events lie in its hours.
However many questions are asked at once, the number of statements stays the same.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, and_, distinct, func, select, union_all

from usageflow.db import exact
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import UsageEventRow
from usageflow.ledger.spans import Source, Sources, Span, next_hour
from usageflow.periods import hour_start

_ZERO: Final = Decimal(0)


class Ask(NamedTuple):
    """What is asked: usage in `[start, end)`, of all customers together if `customer_id` is None.

    `metric` is its key, `aggregation` one of `db.tables.AGGREGATIONS`.
    """

    customer_id: str | None
    metric: str
    aggregation: str
    start: datetime
    end: datetime


class Quantity(NamedTuple):
    """What it comes to, from how many events; `forwarded` is the sum of what goes to Stripe.

    No events come to 0, whatever the aggregation.
    """

    quantity: Decimal
    events: int
    forwarded: Decimal


class _Sums(NamedTuple):
    total: Decimal
    events: int
    forwarded: Decimal


_NOTHING: Final = _Sums(_ZERO, 0, _ZERO)


def quantities(tx: Tx, organization_id: str, asks: Collection[Ask]) -> dict[Ask, Quantity]:
    """The answer to each."""
    numbered = list(dict.fromkeys(asks))

    def of(*aggregations: str) -> Sources:
        spans = [
            span
            for span, ask in zip(_spans(numbered), numbered, strict=True)
            if ask.aggregation in aggregations or not aggregations
        ]
        return Sources(tx, organization_id, spans)

    sums = _sums(tx, of())
    others = {
        "MAX": _maxima(tx, of("MAX")),
        "LAST": _latest(tx, of("LAST")),
        "UNIQUE_COUNT": _values(tx, of("UNIQUE_COUNT")),
    }
    answers = {}
    for number, ask in enumerate(numbered):
        held = sums.get(number, _NOTHING)
        quantity = {"SUM": held.total, "COUNT": Decimal(held.events)}.get(ask.aggregation)
        if quantity is None:
            quantity = others[ask.aggregation].get(number, _ZERO)
        answers[ask] = Quantity(quantity, held.events, held.forwarded)
    return answers


def customers(tx: Tx, organization_id: str, asks: Collection[Ask]) -> dict[Ask, int]:
    """How many customers have events in each."""
    numbered = list(dict.fromkeys(asks))
    sources = Sources(tx, organization_id, _spans(numbered))
    found = _different(
        tx,
        [
            source.select(source.rows.c.customer_id)
            for source in (*sources.windows(), *sources.events())
        ],
    )
    return {ask: found.get(number, 0) for number, ask in enumerate(numbered)}


def changed_since(tx: Tx, organization_id: str, asks: Collection[Ask], since: datetime) -> set[Ask]:
    """Those to which something was added by a transaction that began at `since` or later.

    By whole hours: what was added in the same hour as an end of the interval counts as well.
    """
    numbered = [ask for ask in dict.fromkeys(asks) if ask.start < ask.end]
    hours = [
        span._replace(start_at=hour_start(span.start_at), end_at=next_hour(span.end_at))
        for span in _spans(numbered)
    ]
    changed = set()
    for windows in Sources(tx, organization_id, hours).windows():
        added = windows.select().where(windows.rows.c.changed_at >= since).distinct()
        changed |= {numbered[number] for (number,) in tx.session.execute(added)}
    return changed


def watermark(tx: Tx, organization_id: str) -> int:  # noqa: ARG001 - as every reading function
    """Up to which place of the ledger everything is known now; 0 without events.

    Organizations share one series of places, whose end is found at once however long it is.
    """
    return tx.session.execute(select(func.max(table(UsageEventRow).c.seq))).scalar() or 0


def _spans(asks: Sequence[Ask]) -> list[Span]:
    return [
        Span(number, ask.customer_id, ask.metric, ask.start, ask.end)
        for number, ask in enumerate(asks)
    ]


def _sums(tx: Tx, sources: Sources) -> dict[int, _Sums]:
    found: dict[int, _Sums] = {}
    for statement in (
        *(_window_sums(windows) for windows in sources.windows()),
        *(_event_sums(events) for events in sources.events()),
    ):
        for number, total, events, forwarded in tx.session.execute(statement):
            held = found.get(number, _NOTHING)
            found[number] = _Sums(
                exact.add(held.total, total),
                held.events + int(events),
                exact.add(held.forwarded, forwarded or _ZERO),
            )
    return found


def _window_sums(windows: Source) -> Select[Any]:
    rows = windows.rows.c
    return windows.select(
        exact.decimal_sum(rows.total),
        func.sum(rows.events),
        exact.decimal_sum(rows.forwarded).filter(rows.forwarded != _ZERO),
    ).group_by(windows.span.c.ask)


def _event_sums(events: Source) -> Select[Any]:
    rows = events.rows.c
    return events.select(
        exact.decimal_sum(rows.quantity),
        func.count(),
        exact.decimal_sum(rows.quantity).filter(rows.event_name.is_not(None)),
    ).group_by(events.span.c.ask)


def _maxima(tx: Tx, sources: Sources) -> dict[int, Decimal]:
    found: dict[int, Decimal] = {}
    for statement in (
        *(windows.select(windows.rows.c.maximum) for windows in sources.windows()),
        *(events.select(events.rows.c.quantity) for events in sources.events()),
    ):
        # the largest is chosen here: to SQLite these are texts
        for number, quantity in tx.session.execute(statement.distinct()):
            found[number] = max(found.get(number, _ZERO), quantity)
    return found


def _latest(tx: Tx, sources: Sources) -> dict[int, Decimal]:
    found: dict[int, tuple[datetime, int, Decimal]] = {}
    for statement in (
        *(_last(windows, ("last_at", "last_seq", "last")) for windows in sources.windows()),
        *(_last(events, ("occurred_at", "seq", "quantity")) for events in sources.events()),
    ):
        for number, *row in tx.session.execute(statement):
            at, seq, quantity = row
            found[number] = max(found.get(number, (at, seq, quantity)), (at, seq, quantity))
    return {number: quantity for number, (*_, quantity) in found.items()}


def _last(source: Source, columns: Iterable[str]) -> Select[Any]:
    """The rows of the latest time per ask and customer: one, or the few of one moment."""
    rows = source.rows.c
    latest = (
        source.select(rows.customer_id, rows.metric, func.max(source.at).label("at"))
        .group_by(source.span.c.ask, rows.customer_id, rows.metric)
        .subquery("latest")
    )
    same = and_(
        rows.organization_id == source.organization_id,
        rows.customer_id == latest.c.customer_id,
        rows.metric == latest.c.metric,
        source.at == latest.c.at,
        *source.counted,
    )
    return select(latest.c.ask, *(rows[name] for name in columns)).join_from(
        latest, source.rows, same
    )


def _values(tx: Tx, sources: Sources) -> dict[int, Decimal]:
    parts = [
        *(values.select(values.rows.c.value) for values in sources.values()),
        *(events.select(events.rows.c.unique_value) for events in sources.events()),
    ]
    return {number: Decimal(count) for number, count in _different(tx, parts).items()}


def _different(tx: Tx, parts: Sequence[Select[Any]]) -> dict[int, int]:
    """How many different values all parts together have for each ask."""
    if not parts:
        return {}
    number, value = union_all(*parts).subquery("told").c
    counts = select(number, func.count(distinct(value))).group_by(number)
    return {row[0]: row[1] for row in tx.session.execute(counts)}
