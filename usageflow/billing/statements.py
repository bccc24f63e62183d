"""Usage statements: what a customer used, hour by hour or event by event, to hold against a bill.

A statement is frozen: that of an invoice counts the events that its lines know (its watermark) and
no later ones, so its totals are the invoiced quantities; that of a customer counts what was there
when it was asked for. How it is written down is `statement_files`'s.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, TypeAlias

import msgspec
from sqlalchemy import literal, select, tuple_
from sqlmodel import col
from sqlmodel import select as select_rows

from usageflow.billing.late import IN_FLIGHT
from usageflow.billing.statement_hours import Span, hours_of
from usageflow.catalog import customers
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.columns import table
from usageflow.db.exact import UtcDateTime
from usageflow.db.session import Database, Tx
from usageflow.db.tables import CustomerRow, MetricRow, UsageEventRow, UsageWindowRow
from usageflow.ledger.aggregation import watermark
from usageflow.periods import hour_start

Detail: TypeAlias = Literal["hours", "events"]

DAYS_MAX: Final = 400
"""Of the interval that one statement is about: a year and a month, so that every period fits."""
EVENTS_AT_ONCE: Final = 2_000
"""Events read in one transaction: a slow reader keeps none open."""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a statement: an hour, an event, or the total of a metric over an interval.

    `quantity` is as the metric aggregates; `invoiced` what the invoice's line says it is.
    """

    row: Literal["hour", "event", "total"]
    metric: str
    unit: str
    aggregation: str
    start: datetime | None = None
    end: datetime | None = None
    quantity: Decimal
    events: int | None = None
    invoiced: Decimal | None = None
    occurred_at: datetime | None = None
    event_id: str | None = None
    idempotency_key: str | None = None
    value: str | None = None
    """What a metric of aggregation UNIQUE_COUNT tells apart."""
    method: str | None = None
    route: str | None = None
    status: int | None = None


class Part(msgspec.Struct, frozen=True):
    """The usage of one metric over an interval: its hours, and what they come to."""

    span: Span
    hours: tuple[Row, ...]
    total: Row


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement, complete but for its events, which may be millions."""

    customer: str
    """As its owner calls it."""
    name: str
    """What a file of it is called, without an ending."""
    watermark: int
    parts: tuple[Part, ...]


def of_customer(
    tx: Tx, organization_id: str, customer: str, start: datetime, end: datetime
) -> Statement | Refused:
    """All that a customer, by id or external id, used in `[start, end)`."""
    if problem := _interval_problem(start, end):
        return Refused("invalid", problem, "end")
    row = customers.find(tx, organization_id, customer)
    if row is None:
        return Refused("not_found", f"there is no customer {customer[:50]!r}")
    newest = watermark(tx, organization_id)
    metrics = _metrics(tx, organization_id)
    used = _used(tx, organization_id, row.id, start, end)
    return Statement(
        customer=row.external_id,
        name=f"usage-{start:%Y-%m-%d}-{end:%Y-%m-%d}",
        watermark=newest,
        parts=tuple(
            _part(
                tx,
                metrics[key],
                Span(
                    organization_id=organization_id,
                    customer_id=row.id,
                    metric=key,
                    aggregation=metrics[key].aggregation,
                    start=start,
                    end=end,
                    watermark=newest,
                    recount_since=None,
                ),
            )
            for key in used
        ),
    )


def of_invoice(tx: Tx, organization_id: str, invoice_id: str) -> Statement | Refused:
    """The usage that an invoice's lines bill: of its period, and of earlier ones billed late."""
    row = tx.session.get(InvoiceRow, invoice_id)
    if row is None or row.organization_id != organization_id:
        return Refused("not_found", f"there is no invoice {invoice_id[:50]!r}")
    metrics = _metrics(tx, organization_id)
    return Statement(
        customer=tx.session.get_one(CustomerRow, row.customer_id).external_id,
        name=f"{row.number or row.id}-usage",
        watermark=row.watermark or 0,
        parts=tuple(
            _part(
                tx,
                metrics[metric],
                Span(
                    organization_id=organization_id,
                    customer_id=row.customer_id,
                    metric=metric,
                    aggregation=metrics[metric].aggregation,
                    start=start,
                    end=end,
                    watermark=row.watermark or 0,
                    recount_since=row.created_at - IN_FLIGHT,
                ),
                quantity,
            )
            for (metric, start, end), quantity in _billed(tx, row).items()
        ),
    )


def rows(db: Database, statement: Statement, detail: Detail) -> Iterator[Row]:
    """The lines of a statement: hours or events of each metric, and its total below them."""
    for part in statement.parts:
        yield from part.hours if detail == "hours" else _events(db, part)
        yield part.total


def _interval_problem(start: datetime, end: datetime) -> str | None:
    if start >= end:
        return "the end must come after the start"
    if end - start > timedelta(days=DAYS_MAX):
        return f"a statement is about at most {DAYS_MAX} days; ask for several"
    return None


def _metrics(tx: Tx, organization_id: str) -> dict[str, MetricRow]:
    found = tx.session.exec(
        select_rows(MetricRow).where(MetricRow.organization_id == organization_id)
    )
    return {row.key: row for row in found}


def _used(
    tx: Tx, organization_id: str, customer_id: str, start: datetime, end: datetime
) -> Sequence[str]:
    """The metrics under which the customer used something in these hours."""
    windows = table(UsageWindowRow).c
    return tx.session.scalars(
        select(windows.metric)
        .distinct()
        .where(
            windows.organization_id == organization_id,
            windows.customer_id == customer_id,
            windows.hour >= hour_start(start),
            windows.hour < end,
        )
        .order_by(windows.metric)
    ).all()


def _billed(tx: Tx, row: InvoiceRow) -> dict[tuple[str, datetime, datetime], Decimal]:
    """What the invoice bills usage of, and the quantity it says, in the order of its lines."""
    lines = tx.session.exec(
        select_rows(InvoiceLineRow)
        .where(InvoiceLineRow.invoice_id == row.id)
        .order_by(col(InvoiceLineRow.position))
    )
    return {
        (line.metric, line.period_start, line.period_end): line.quantity
        for line in lines
        if line.metric and line.period_start and line.period_end and line.quantity is not None
    }


def _part(tx: Tx, metric: MetricRow, span: Span, invoiced: Decimal | None = None) -> Part:
    hours, total = hours_of(tx, span)
    return Part(
        span,
        tuple(
            Row(
                row="hour",
                metric=metric.key,
                unit=metric.unit,
                aggregation=metric.aggregation,
                **hour._asdict(),
            )
            for hour in hours
        ),
        Row(
            row="total",
            metric=metric.key,
            unit=metric.unit,
            aggregation=metric.aggregation,
            start=span.start,
            end=span.end,
            quantity=total,
            events=sum(hour.events for hour in hours),
            invoiced=invoiced,
        ),
    )


def _events(db: Database, part: Part) -> Iterator[Row]:
    """The events of a part in order of time, some thousand in a transaction."""
    at, seq = part.span.start, 0
    while page := _page(db, part.span, at, seq):
        for event in page:
            yield Row(
                row="event",
                metric=part.total.metric,
                unit=part.total.unit,
                aggregation=part.total.aggregation,
                quantity=event.quantity or Decimal(0),  # a counted event has one
                occurred_at=event.occurred_at,
                event_id=event.id,
                idempotency_key=event.idempotency_key,
                value=event.unique_value,
                method=event.request_method or None,
                route=event.request_route or None,
                status=event.request_status,
            )
        at, seq = page[-1].occurred_at, page[-1].seq or 0


def _page(db: Database, span: Span, at: datetime, seq: int) -> Sequence[UsageEventRow]:
    """Those after the one of this moment and place in the ledger."""
    events = table(UsageEventRow).c
    with db.reading() as tx:
        found = tx.session.exec(
            select_rows(UsageEventRow)
            .where(
                events.organization_id == span.organization_id,
                events.customer_id == span.customer_id,
                events.metric == span.metric,
                events.state == "counted",
                events.seq <= span.watermark,
                events.occurred_at < span.end,
                tuple_(events.occurred_at, events.seq) > tuple_(literal(at, UtcDateTime()), seq),
            )
            .order_by(events.occurred_at, events.seq)
            .limit(EVENTS_AT_ONCE)
        ).all()
        tx.session.expunge_all()
    return found
