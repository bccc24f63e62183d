"""What usage comes to over an interval, as its metric aggregates it. Reads only.

Whole UTC hours are read from windows and values, the parts of hours at the ends from the events
themselves: exact for every interval, and independent of how many events lie in its hours. However
many questions are asked at once, the number of statements stays the same.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, distinct, func, literal, select, union_all

from usageflow.db import exact
from usageflow.db.columns import Row, table
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, UsageEventRow, UsageValueRow, UsageWindowRow
from usageflow.ledger.given import Kind, given
from usageflow.periods import HOUR, hour_start

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


class _Span(NamedTuple):
    """A part of the ask of this number: whole hours, or less than one."""

    ask: int
    customer_id: str | None
    metric: str
    start_at: datetime
    end_at: datetime


_KINDS: Final[dict[str, Kind]] = {
    "ask": "whole",
    "customer_id": "text",
    "metric": "text",
    "start_at": "instant",
    "end_at": "instant",
}


class _Sums(NamedTuple):
    total: Decimal
    events: int
    forwarded: Decimal


_NOTHING: Final = _Sums(_ZERO, 0, _ZERO)


def quantities(tx: Tx, organization_id: str, asks: Collection[Ask]) -> dict[Ask, Quantity]:
    """The answer to each."""
    numbered = list(dict.fromkeys(asks))
    spans = [span for number, ask in enumerate(numbered) for span in _spans(number, ask)]
    hours = [span for span in spans if _is_whole(span)]
    parts = [span for span in spans if not _is_whole(span)]

    def of(aggregation: str) -> "_Sources":
        wanted = {n for n, ask in enumerate(numbered) if ask.aggregation == aggregation}
        return _Sources(
            tx,
            organization_id,
            [span for span in hours if span.ask in wanted],
            [span for span in parts if span.ask in wanted],
        )

    sums = _sums(_Sources(tx, organization_id, hours, parts))
    others = {
        "MAX": _maxima(of("MAX")),
        "LAST": _latest(of("LAST")),
        "UNIQUE_COUNT": _differing(of("UNIQUE_COUNT")),
    }
    answers = {}
    for number, ask in enumerate(numbered):
        held = sums.get(number, _NOTHING)
        quantity = {"SUM": held.total, "COUNT": Decimal(held.events)}.get(ask.aggregation)
        if quantity is None:
            quantity = others[ask.aggregation].get(number, _ZERO)
        answers[ask] = Quantity(quantity, held.events, held.forwarded)
    return answers


def changed_since(tx: Tx, organization_id: str, asks: Collection[Ask], since: datetime) -> set[Ask]:
    """Those to which something was added by a transaction that began at `since` or later.

    By whole hours: what was added in the same hour as an end of the interval counts as well.
    """
    numbered = list(dict.fromkeys(asks))
    hours = [
        _Span(number, ask.customer_id, ask.metric, hour_start(ask.start), ask.end)
        for number, ask in enumerate(numbered)
        if ask.start < ask.end
    ]
    changed = set()
    for windows in _Sources(tx, organization_id, hours, []).windows():
        added = windows.rows.c.changed_at >= since
        changed |= {
            numbered[number]
            for (number,) in tx.session.execute(windows.select().where(added).distinct())
        }
    return changed


def watermark(tx: Tx, organization_id: str) -> int:
    """The place of the organization's newest event in the ledger; 0 without any."""
    events = table(UsageEventRow).c
    newest = select(func.max(events.seq)).where(events.organization_id == organization_id)
    return tx.session.execute(newest).scalar() or 0


def _spans(number: int, ask: Ask) -> Iterator[_Span]:
    """The hours that lie wholly in the interval, and what is left at its ends."""
    first, last = _next_hour(ask.start), hour_start(ask.end)
    ends = (
        [(ask.start, ask.end)]
        if first > last
        else [
            (ask.start, first),
            (first, last),
            (last, ask.end),
        ]
    )
    for start, end in ends:
        if start < end:
            yield _Span(number, ask.customer_id, ask.metric, start, end)


def _next_hour(instant: datetime) -> datetime:
    """The first moment of an hour that is not before this one."""
    start = hour_start(instant)
    return start if start == instant else start + HOUR


def _is_whole(span: _Span) -> bool:
    return span.end_at - span.start_at >= HOUR and hour_start(span.start_at) == span.start_at


class _Source:
    """The rows of one table that lie in spans."""

    def __init__(
        self, tx: Tx, organization_id: str, row: type[Row], at: str, spans: Sequence[_Span]
    ) -> None:
        self.rows = table(row)
        asked: Any = given(tx, "asked", _KINDS, spans)
        if spans[0].customer_id is None:
            asked = _of_everyone(organization_id, asked)
        self.span = asked.subquery("span")
        rows, span = self.rows.c, self.span.c
        self._on = and_(
            rows.organization_id == organization_id,
            rows.customer_id == span.customer_id,
            rows.metric == span.metric,
            rows[at] >= span.start_at,
            rows[at] < span.end_at,
        )

    def select(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """The number of the ask, and these columns, of each row."""
        return select(self.span.c.ask, *columns).select_from(self.span.join(self.rows, self._on))


def _of_everyone(organization_id: str, asked: Select[Any]) -> Select[Any]:
    """Each span once for every customer of the organization."""
    span, customers = asked.subquery("everyone"), table(CustomerRow)
    columns = [span.c[name] for name in _KINDS if name != "customer_id"]
    return (
        select(*columns, customers.c.id.label("customer_id"))
        .select_from(span.join(customers, literal(value=True)))
        .where(customers.c.organization_id == organization_id)
    )


class _Sources:
    """Where the answer to some asks is found: whole hours here, parts of hours there."""

    def __init__(
        self, tx: Tx, organization_id: str, hours: Sequence[_Span], parts: Sequence[_Span]
    ) -> None:
        self.tx = tx
        self._organization_id = organization_id
        self._hours = hours
        self._parts = parts

    def windows(self) -> list[_Source]:
        """Windows of whole hours."""
        return self._of(UsageWindowRow, "hour", self._hours)

    def values(self) -> list[_Source]:
        """Values of whole hours."""
        return self._of(UsageValueRow, "hour", self._hours)

    def events(self) -> list[_Source]:
        """Events of parts of hours."""
        return self._of(UsageEventRow, "occurred_at", self._parts)

    def _of(self, row: type[Row], at: str, spans: Sequence[_Span]) -> list[_Source]:
        """One for spans of one customer each, one for those of everyone; none without any."""
        of_one = [span for span in spans if span.customer_id is not None]
        of_all = [span for span in spans if span.customer_id is None]
        return [
            _Source(self.tx, self._organization_id, row, at, some)
            for some in (of_one, of_all)
            if some
        ]


def _sums(sources: _Sources) -> dict[int, _Sums]:
    found: dict[int, _Sums] = {}
    for statement in (
        *(_window_sums(windows) for windows in sources.windows()),
        *(_event_sums(events) for events in sources.events()),
    ):
        for number, total, events, forwarded in sources.tx.session.execute(statement):
            held = found.get(number, _NOTHING)
            found[number] = _Sums(
                exact.add(held.total, total),
                held.events + int(events),
                exact.add(held.forwarded, forwarded or _ZERO),
            )
    return found


def _window_sums(windows: _Source) -> Select[Any]:
    rows = windows.rows.c
    return windows.select(
        exact.decimal_sum(rows.total),
        func.sum(rows.events),
        exact.decimal_sum(rows.forwarded).filter(rows.forwarded != _ZERO),
    ).group_by(windows.span.c.ask)


def _event_sums(events: _Source) -> Select[Any]:
    rows = events.rows.c
    return (
        events.select(
            exact.decimal_sum(rows.quantity),
            func.count(),
            exact.decimal_sum(rows.quantity).filter(rows.event_name.is_not(None)),
        )
        .where(rows.state == "counted")
        .group_by(events.span.c.ask)
    )


def _maxima(sources: _Sources) -> dict[int, Decimal]:
    found: dict[int, Decimal] = {}
    for statement in (
        *(windows.select(windows.rows.c.maximum) for windows in sources.windows()),
        *(
            events.select(events.rows.c.quantity).where(events.rows.c.state == "counted")
            for events in sources.events()
        ),
    ):
        # distinct, so that the maximum is chosen here, exactly, among few
        for number, quantity in sources.tx.session.execute(statement.distinct()):
            found[number] = max(found.get(number, _ZERO), quantity)
    return found


def _latest(sources: _Sources) -> dict[int, Decimal]:
    found: dict[int, tuple[datetime, int, Decimal]] = {}
    for source, latest in (
        *((windows, ("last_at", "last_seq", "last")) for windows in sources.windows()),
        *((events, ("occurred_at", "seq", "quantity")) for events in sources.events()),
    ):
        for number, *last in sources.tx.session.execute(_last_rows(source, latest)):
            known = found.get(number)
            found[number] = tuple(last) if known is None else max(known, tuple(last))
    return {number: quantity for number, (*_, quantity) in found.items()}


def _last_rows(source: _Source, columns: Sequence[str]) -> Select[Any]:
    """The rows of the latest time per ask and customer: one, or a few at the same moment."""
    rows = source.rows
    at = rows.c.hour if "hour" in rows.c else rows.c.occurred_at
    counted = [rows.c.state == "counted"] if "state" in rows.c else []
    key = (rows.c.customer_id, rows.c.metric)
    latest = (
        source.select(*key, func.max(at).label("at"))
        .where(*counted)
        .group_by(source.span.c.ask, *key)
        .subquery("latest")
    )
    same = and_(*(rows.c[column.name] == latest.c[column.name] for column in key))
    return select(latest.c.ask, *(rows.c[name] for name in columns)).join_from(
        latest, rows, and_(same, at == latest.c.at, *counted)
    )


def _differing(sources: _Sources) -> Mapping[int, Decimal]:
    parts = [
        *(values.select(values.rows.c.value) for values in sources.values()),
        *(
            events.select(events.rows.c.unique_value).where(events.rows.c.state == "counted")
            for events in sources.events()
        ),
    ]
    if not parts:
        return {}
    told = union_all(*parts).subquery("told")
    number, value = told.c
    counts = select(number, func.count(distinct(value))).group_by(number)
    return {number: Decimal(count) for number, count in sources.tx.session.execute(counts)}
