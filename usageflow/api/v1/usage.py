"""/api/v1/usage and the usage of meters: sums over time, of one customer or of everyone.

Usage is told at the endpoints of `api.track`; single events are `events`'s.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import Query, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Id, Number, answer
from usageflow.api.moments import Moment, interval
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog import customers, metrics, organization_settings
from usageflow.catalog.metrics import Aggregation
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.tables import MetricRow
from usageflow.ledger import reading
from usageflow.ledger.reading import GROUPS_MAX, GroupBy, Metered, Usage
from usageflow.periods import Period, zone_problem

router = v1_router("usage")
meters = v1_router("meters")
routers = [router, meters]

METRICS_MAX = 100
"""Metrics of one answer; whoever has more asks for them one by one."""
ENDPOINT_DAYS_MAX = 92
"""Longest interval whose events are added up by endpoint: a quarter."""

Reader = Annotated[Access, needs("usage.read")]
Zone = Annotated[str | None, Query(max_length=100, description="IANA name; the organization's")]
Group = Annotated[GroupBy | None, Query(description="hours are those of UTC")]
Customer = Annotated[Id | None, Query(description="an id of ours or an external id")]


class GroupOut(Answer):
    """The usage of a part of the interval."""

    start: datetime
    end: datetime
    quantity: Number
    events: int


class MetricUsage(Answer):
    """The usage of one metric."""

    metric: str
    aggregation: Aggregation
    unit: str
    quantity: Number
    events: int
    customers: int
    groups: list[GroupOut]


class UsageOut(Answer):
    """Usage in `[start, end)`, each metric as it aggregates."""

    start: datetime
    end: datetime
    time_zone: str
    customer_id: str | None
    data: list[MetricUsage]


class MeterGroup(Answer):
    """The usage of a part of the interval, in the words of meters."""

    period: datetime
    usage: Number
    event_count: int


class MeterUsage(Answer):
    """The usage of one meter."""

    meter_id: str
    total_usage: Number
    event_count: int
    unique_customers: int
    period_start: datetime
    period_end: datetime
    grouped_data: list[MeterGroup]


class MeterStats(Answer):
    """What there is of a meter."""

    total_events: int
    unique_customers: int
    first_event_date: datetime | None
    last_event_date: datetime | None
    today_usage: Number
    this_week_usage: Number
    this_month_usage: Number


class EndpointOut(Answer):
    """The usage that came from one endpoint."""

    method: str
    route: str
    quantity: Number
    events: int


class EndpointsOut(Answer):
    """Usage of one metric by endpoint, the largest first."""

    start: datetime
    end: datetime
    metric: str
    customer_id: str | None
    data: list[EndpointOut]


@router.get("/usage", response_model=UsageOut)
def read_usage(
    *,
    access: Reader,
    rest: RestDep,
    metric: Annotated[Id | None, Query(description="key, id or token; all of them")] = None,
    customer_id: Customer = None,
    start: Annotated[Moment | None, Query()] = None,
    end: Annotated[Moment | None, Query()] = None,
    group_by: Group = None,
    time_zone: Zone = None,
) -> Response:
    """What was used, by metric: of one customer or of everyone, and of hours, days, weeks or
    months of the interval.
    """
    with rest.db.reading() as tx:
        organization_id = access.organization_id
        rows = _metrics(tx, organization_id, metric)
        payer = _customer(tx, organization_id, customer_id)
        whole = _given(interval(start, end, tx.now, names=("start", "end")))
        zone = _zone(tx, organization_id, time_zone)
        found = reading.usage(
            tx,
            organization_id,
            [Metered(row.key, row.aggregation) for row in rows],
            customer_id=payer,
            interval=whole,
            parts=_groups(whole, group_by, zone),
        )
        return answer(
            UsageOut(
                start=whole.start,
                end=whole.end,
                time_zone=zone,
                customer_id=payer,
                data=[_told(row, one) for row, one in zip(rows, found, strict=True)],
            )
        )


@router.get("/usage/endpoints", response_model=EndpointsOut)
def read_endpoints(
    *,
    access: Reader,
    rest: RestDep,
    metric: Annotated[Id, Query()],
    customer_id: Customer = None,
    start: Annotated[Moment | None, Query()] = None,
    end: Annotated[Moment | None, Query()] = None,
) -> Response:
    """Which endpoints the usage of a metric came from."""
    with rest.db.reading() as tx:
        organization_id = access.organization_id
        (row,) = _metrics(tx, organization_id, metric)
        payer = _customer(tx, organization_id, customer_id)
        whole = _given(interval(start, end, tx.now, names=("start", "end")))
        if (whole.end - whole.start).days > ENDPOINT_DAYS_MAX:
            refusal(Refused("invalid", f"more than {ENDPOINT_DAYS_MAX} days", "start"))
        found = reading.by_endpoint(tx, organization_id, row.key, payer, whole)
        return answer(
            EndpointsOut(
                start=whole.start,
                end=whole.end,
                metric=row.key,
                customer_id=payer,
                data=[EndpointOut(**one._asdict()) for one in found],
            )
        )


@meters.get("/meters/{meter}/usage", response_model=MeterUsage)
def read_meter_usage(
    *,
    meter: Id,
    access: Reader,
    rest: RestDep,
    group_by: Annotated[GroupBy, Query(description="hours are those of UTC")] = "day",
    start_date: Annotated[Moment | None, Query()] = None,
    end_date: Annotated[Moment | None, Query()] = None,
    customer_id: Customer = None,
) -> Response:
    """The usage of a meter; of the last 30 days, by day, if nothing else is said."""
    with rest.db.reading() as tx:
        organization_id = access.organization_id
        (row,) = _metrics(tx, organization_id, meter)
        whole = _given(interval(start_date, end_date, tx.now, names=("start_date", "end_date")))
        (found,) = reading.usage(
            tx,
            organization_id,
            [Metered(row.key, row.aggregation)],
            customer_id=_customer(tx, organization_id, customer_id),
            interval=whole,
            parts=_groups(whole, group_by, _zone(tx, organization_id, None)),
        )
        groups = [
            MeterGroup(period=period.start, usage=one.quantity, event_count=one.events)
            for period, one in found.groups
        ]
        return answer(
            MeterUsage(
                meter_id=row.id,
                total_usage=found.whole.quantity,
                event_count=found.whole.events,
                unique_customers=found.customers,
                period_start=whole.start,
                period_end=whole.end,
                grouped_data=groups,
            )
        )


@meters.get("/meters/{meter}/stats", response_model=MeterStats)
def read_meter_stats(meter: Id, access: Reader, rest: RestDep) -> Response:
    """Since when a meter counts, and how much it did of late; days are the organization's."""
    with rest.db.reading() as tx:
        organization_id = access.organization_id
        (row,) = _metrics(tx, organization_id, meter)
        zone = _zone(tx, organization_id, None)
        found = reading.stats(tx, organization_id, Metered(row.key, row.aggregation), zone)
        return answer(
            MeterStats(
                total_events=found.events,
                unique_customers=found.customers,
                first_event_date=found.first_at,
                last_event_date=found.last_at,
                today_usage=found.today,
                this_week_usage=found.this_week,
                this_month_usage=found.this_month,
            )
        )


def _metrics(tx: Tx, organization_id: str, name: str | None) -> Sequence[MetricRow]:
    if name is None:
        return metrics.listing(tx, organization_id, offset=0, limit=METRICS_MAX)[0]
    row = metrics.find(tx, organization_id, name)
    return refusal(metrics.unknown(name)) if row is None else [row]


def _customer(tx: Tx, organization_id: str, name: str | None) -> str | None:
    if name is None:
        return None
    row = customers.find(tx, organization_id, name)
    return refusal(customers.unknown(name)) if row is None else row.id


def _given(found: Period | Refused) -> Period:
    return refusal(found) if isinstance(found, Refused) else found


def _zone(tx: Tx, organization_id: str, name: str | None) -> str:
    if name is None:
        return organization_settings.read(tx, organization_id).time_zone
    problem = zone_problem(name)
    return refusal(Refused("invalid", problem, "time_zone")) if problem else name


def _groups(whole: Period, group_by: GroupBy | None, zone: str) -> Sequence[Period]:
    if group_by is None:
        return ()
    found = reading.groups(whole, group_by, zone)
    if found is None:
        message = f"more than {GROUPS_MAX} groups; ask for a shorter interval or larger groups"
        refusal(Refused("invalid", message, "group_by"))
    return found


def _told(row: MetricRow, usage: Usage) -> MetricUsage:
    groups = [
        GroupOut(start=period.start, end=period.end, quantity=one.quantity, events=one.events)
        for period, one in usage.groups
    ]
    return MetricUsage.model_validate(
        {
            "metric": row.key,
            "aggregation": row.aggregation,
            "unit": row.unit,
            "quantity": usage.whole.quantity,
            "events": usage.whole.events,
            "customers": usage.customers,
            "groups": groups,
        }
    )
