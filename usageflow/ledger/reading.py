"""Usage over time, as people read it: in hours, days, weeks or months of their time zone.

Reads only. What an interval comes to is `aggregation`'s; single events are `history`'s.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Select, func, select

from usageflow.db.columns import table
from usageflow.db.exact import decimal_sum
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, UsageEventRow, UsageWindowRow
from usageflow.ledger import aggregation
from usageflow.ledger.aggregation import Ask, Quantity
from usageflow.periods import HOUR, Period, Schedule, hour_start

GROUPS_MAX: Final = 1_000
"""Groups of one answer: a month of hours, or almost three years of days."""

GroupBy = Literal["hour", "day", "week", "month"]


class Metered(NamedTuple):
    """A metric, as far as its usage is read by it."""

    key: str
    aggregation: str


class Usage(NamedTuple):
    """The usage of one metric: of the whole interval, and of each group in it."""

    metric: str
    whole: Quantity
    customers: int
    groups: list[tuple[Period, Quantity]]


class Stats(NamedTuple):
    """What there is of a metric: since when, until when, and how much of late."""

    events: int
    customers: int
    first_at: datetime | None
    last_at: datetime | None
    today: Decimal
    this_week: Decimal
    this_month: Decimal


class Endpoint(NamedTuple):
    """The usage that came from one endpoint, or was told at it."""

    method: str
    route: str
    quantity: Decimal
    events: int


def groups(interval: Period, group_by: GroupBy, zone: str) -> list[Period] | None:
    """The parts of the interval, cut at the beginnings of hours (UTC) or of days, weeks and months
    (of the time zone); None if they were more than `GROUPS_MAX`.
    """
    found: list[Period] = []
    start = interval.start
    while start < interval.end:
        if len(found) == GROUPS_MAX:
            return None
        end = min(_end(start, group_by, zone), interval.end)
        found.append(Period(start, end))
        start = end
    return found


def usage(
    tx: Tx,
    organization_id: str,
    metrics: Sequence[Metered],
    *,
    customer_id: str | None,
    interval: Period,
    parts: Sequence[Period] = (),
) -> list[Usage]:
    """The usage of each metric, of one customer or of everyone, and of parts of the interval."""
    asks = {
        metric: [Ask(customer_id, *metric, *period) for period in (interval, *parts)]
        for metric in metrics
    }
    every = [ask for some in asks.values() for ask in some]
    found = aggregation.quantities(tx, organization_id, every)
    wholes = [some[0] for some in asks.values()]
    if customer_id is None:
        payers = aggregation.customers(tx, organization_id, wholes)
    else:
        payers = {ask: 1 if found[ask].events else 0 for ask in wholes}
    return [
        Usage(
            metric.key,
            found[whole],
            payers[whole],
            [(Period(ask.start, ask.end), found[ask]) for ask in some],
        )
        for metric, (whole, *some) in asks.items()
    ]


def stats(tx: Tx, organization_id: str, metric: Metered, zone: str) -> Stats:
    """What there is of a metric, of all customers; its days are those of the time zone."""
    windows, payers = table(UsageWindowRow).c, table(CustomerRow).c
    of_metric = (
        select(
            func.sum(windows.events),
            func.count(windows.customer_id.distinct()),
            func.min(windows.hour),
            func.max(windows.last_at),
        )
        .join_from(payers.id.table, windows.hour.table, windows.customer_id == payers.id.concat(""))
        .where(
            payers.organization_id == organization_id,
            windows.organization_id == organization_id,
            windows.metric == metric.key,
        )
    )
    events, count, first_hour, last_at = tx.session.execute(of_metric).one()
    today, week, month = (
        Ask(None, *metric, _start(tx.now, group, zone), tx.now + HOUR)
        for group in ("day", "week", "month")
    )
    found = aggregation.quantities(tx, organization_id, [today, week, month])
    return Stats(
        int(events or 0),
        count,
        None if first_hour is None else _first(tx, organization_id, metric, first_hour),
        last_at,
        *(found[ask].quantity for ask in (today, week, month)),
    )


def by_endpoint(
    tx: Tx, organization_id: str, metric: str, customer_id: str | None, interval: Period
) -> list[Endpoint]:
    """The sums of what came from each endpoint, the largest first. Reads every event."""
    rows = table(UsageEventRow).c
    place = (rows.request_method, rows.request_route)
    found = tx.session.execute(
        _events(organization_id, metric, customer_id, interval)
        .with_only_columns(*place, decimal_sum(rows.quantity), func.count())
        .group_by(*place)
    )
    return sorted((Endpoint(*row) for row in found), key=lambda one: (-one.quantity, one[:2]))


def _end(start: datetime, group_by: GroupBy, zone: str) -> datetime:
    """The end of the hour, day, week or month in which a group begins."""
    if group_by == "hour":
        return hour_start(start) + HOUR
    return Schedule(start, group_by, zone, "calendar").period(0).end


def _start(at: datetime, interval: Literal["day", "week", "month"], zone: str) -> datetime:
    """The beginning of the day, week or month in which this moment lies."""
    return Schedule(at, interval, zone, "calendar").full(0).start


def _first(tx: Tx, organization_id: str, metric: Metered, hour: datetime) -> datetime | None:
    """The moment of the first event of an hour."""
    first = _events(organization_id, metric.key, None, Period(hour, hour + HOUR))
    rows = table(UsageEventRow).c
    return tx.session.execute(first.with_only_columns(func.min(rows.occurred_at))).scalar()


def _events(
    organization_id: str, metric: str, customer_id: str | None, interval: Period
) -> Select[Any]:
    """What counts of a metric, looked up customer by customer, as the index has it."""
    rows, payers = table(UsageEventRow).c, table(CustomerRow).c
    statement = (
        select(rows.seq)
        .join_from(payers.id.table, rows.seq.table, rows.customer_id == payers.id.concat(""))
        .where(
            payers.organization_id == organization_id,
            rows.organization_id == organization_id,
            rows.metric == metric,
            rows.occurred_at >= interval.start,
            rows.occurred_at < interval.end,
            rows.state == "counted",
        )
    )
    return statement if customer_id is None else statement.where(payers.id == customer_id)
