"""What a line of an invoice bills: the windows of its usage, and the events in them. Reads only.

Both are as they are today: what came after the invoice is there as well, and marked.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias

from sqlalchemy import select
from sqlmodel import col
from sqlmodel import select as select_rows

from usageflow.catalog.listings import paged
from usageflow.db import exact
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import UsageEventRow, UsageWindowRow
from usageflow.periods import HOUR, hour_start

Grain: TypeAlias = Literal["hour", "day"]


class UsageWindow(NamedTuple):
    """The usage of an hour or a day (UTC). `partial`: some of it may lie outside of the period."""

    start: datetime
    total: Decimal
    events: int
    maximum: Decimal
    last: Decimal
    partial: bool


def line(tx: Tx, invoice: InvoiceRow, position: int) -> InvoiceLineRow | None:
    """The line of an invoice at this place, from 1 on."""
    return tx.session.exec(
        select_rows(InvoiceLineRow).where(
            col(InvoiceLineRow.organization_id) == invoice.organization_id,
            col(InvoiceLineRow.invoice_id) == invoice.id,
            col(InvoiceLineRow.position) == position,
        )
    ).one_or_none()


def windows(
    tx: Tx, invoice: InvoiceRow, line: InvoiceLineRow, *, by: Grain = "day"
) -> list[UsageWindow]:
    """The windows of a line's period in order, hour by hour or day by day; none without usage."""
    start, end = line.period_start, line.period_end
    if line.metric is None or start is None or end is None:
        return []
    rows = table(UsageWindowRow).c
    hours = tx.session.execute(
        select(rows.hour, rows.total, rows.events, rows.maximum, rows.last)
        .where(
            rows.organization_id == invoice.organization_id,
            rows.customer_id == invoice.customer_id,
            rows.metric == line.metric,
            rows.hour >= hour_start(start),
            rows.hour < end,
        )
        .order_by(rows.hour)
    )
    found = [
        UsageWindow(
            row.hour, row.total, row.events, row.maximum, row.last, _cut(row.hour, start, end)
        )
        for row in hours
    ]
    return found if by == "hour" else _days(found)


def events(
    tx: Tx, invoice: InvoiceRow, line: InvoiceLineRow, *, offset: int, limit: int
) -> tuple[list[UsageEventRow], int]:
    """The events of a line's period, in the order they happened, and how many there are.

    Those whose `seq` is above the invoice's watermark came after it.
    """
    start, end = line.period_start, line.period_end
    if line.metric is None or start is None or end is None:
        return [], 0
    statement = (
        select_rows(UsageEventRow)
        .where(
            col(UsageEventRow.organization_id) == invoice.organization_id,
            col(UsageEventRow.customer_id) == invoice.customer_id,
            col(UsageEventRow.metric) == line.metric,
            col(UsageEventRow.occurred_at) >= start,
            col(UsageEventRow.occurred_at) < end,
            col(UsageEventRow.state) == "counted",
        )
        .order_by(col(UsageEventRow.occurred_at), col(UsageEventRow.seq))
    )
    return paged(tx, statement, offset=offset, limit=limit)


def _cut(hour: datetime, start: datetime, end: datetime) -> bool:
    return hour < start or hour + HOUR > end


def _days(hours: Iterable[UsageWindow]) -> list[UsageWindow]:
    days: dict[datetime, UsageWindow] = {}
    for one in hours:
        day = one.start.replace(hour=0)
        known = days.get(day)
        days[day] = one._replace(start=day) if known is None else _both(known, one)
    return list(days.values())


def _both(day: UsageWindow, hour: UsageWindow) -> UsageWindow:
    return UsageWindow(
        start=day.start,
        total=exact.add(day.total, hour.total),
        events=day.events + hour.events,
        maximum=max(day.maximum, hour.maximum),
        last=hour.last,
        partial=day.partial or hour.partial,
    )
