"""Intervals cut at UTC hours, and the rows that lie in the pieces.

Whole hours are found in windows and values, the parts of hours at the ends among the events. What
is made of the rows is `aggregation`'s.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, Subquery, and_, select

from usageflow.db.columns import Row, table
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, UsageEventRow, UsageValueRow, UsageWindowRow
from usageflow.ledger.given import Kind, given
from usageflow.periods import HOUR, hour_start


class Span(NamedTuple):
    """A piece of what is asked under a number: whole hours, or less than one.

    Of all customers if `customer_id` is None.
    """

    ask: int
    customer_id: str | None
    metric: str
    start_at: datetime
    end_at: datetime

    def cut(self) -> "Iterator[Span]":
        """The hours that lie wholly in it, and what is left at its ends."""
        first, last = next_hour(self.start_at), hour_start(self.end_at)
        moments = [self.start_at, first, last, self.end_at]
        if first > last:
            moments = [self.start_at, self.end_at]
        for start, end in pairwise(moments):
            if start < end:
                yield self._replace(start_at=start, end_at=end)

    @property
    def is_whole(self) -> bool:
        """Whether it consists of whole hours; one that was cut is so, or less than an hour."""
        return hour_start(self.start_at) == self.start_at and self.end_at - self.start_at >= HOUR


def next_hour(instant: datetime) -> datetime:
    """The first moment of an hour that is not before this one."""
    start = hour_start(instant)
    return start if start == instant else start + HOUR


_KINDS: Final[dict[str, Kind]] = {
    "organization_id": "text",
    "ask": "whole",
    "customer_id": "text",
    "metric": "text",
    "start_at": "instant",
    "end_at": "instant",
}


class Source:
    """The rows of one table that lie in spans, either of one customer each or all of everyone."""

    def __init__(
        self, tx: Tx, organization_id: str, row: type[Row], at: str, spans: Sequence[Span]
    ) -> None:
        self.organization_id = organization_id
        self.rows = table(row)
        self.at: ColumnElement[Any] = self.rows.c[at]
        everyone = spans[0].customer_id is None
        asked = [(organization_id, *span) for span in spans]
        name = f"{self.rows.name}_of_{'everyone' if everyone else 'each'}"
        self.span = given(tx, name, _KINDS, asked).subquery()
        if everyone:
            self.span = _of_everyone(self.span)
        rows, span = self.rows.c, self.span.c
        self._on = and_(
            rows.organization_id == span.organization_id,
            rows.customer_id == span.customer_id,
            rows.metric == span.metric,
            self.at >= span.start_at,
            self.at < span.end_at,
            *self.counted,
        )

    @property
    def counted(self) -> list[ColumnElement[bool]]:
        """The condition that a row counts: of events, not all do."""
        return [self.rows.c.state == "counted"] if "state" in self.rows.c else []

    def select(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """The number of the ask, and these columns, of each row."""
        return select(self.span.c.ask, *columns).select_from(self.span.join(self.rows, self._on))


def _of_everyone(span: Subquery) -> Subquery:
    """Each span once for every customer of the organization.

    The id is an expression, so that SQLite looks for the rows of a customer, never the other way.
    """
    customers = table(CustomerRow)
    columns = [column for column in span.c if column.name != "customer_id"]
    return (
        select(*columns, customers.c.id.concat("").label("customer_id"))
        .join_from(span, customers, customers.c.organization_id == span.c.organization_id)
        .subquery()
    )


class Sources:
    """Where the answer to some asks is found."""

    def __init__(self, tx: Tx, organization_id: str, spans: Sequence[Span]) -> None:
        pieces = [piece for span in spans for piece in span.cut()]
        self._tx = tx
        self._organization_id = organization_id
        self._hours = [piece for piece in pieces if piece.is_whole]
        self._parts = [piece for piece in pieces if not piece.is_whole]

    def windows(self) -> list[Source]:
        """Windows of whole hours."""
        return self._of(UsageWindowRow, "hour", self._hours)

    def values(self) -> list[Source]:
        """Values of whole hours."""
        return self._of(UsageValueRow, "hour", self._hours)

    def events(self) -> list[Source]:
        """Counted events of parts of hours."""
        return self._of(UsageEventRow, "occurred_at", self._parts)

    def _of(self, row: type[Row], at: str, spans: Sequence[Span]) -> list[Source]:
        """One for spans of one customer each, one for those of everyone; none without any."""
        of_one = [span for span in spans if span.customer_id is not None]
        of_all = [span for span in spans if span.customer_id is None]
        return [
            Source(self._tx, self._organization_id, row, at, some)
            for some in (of_one, of_all)
            if some
        ]
