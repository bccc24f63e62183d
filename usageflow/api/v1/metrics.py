"""/api/v1/metrics, and the same rows as /api/v1/meters: what is counted.

A metric is named by its id, its key or its meter token.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, cast

from fastapi import Query, Response
from pydantic import Field, StringConstraints

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Line, Name, Prose, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.patches import Patch, left_out
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog import metrics
from usageflow.catalog.metrics import (
    FILTER_VALUES_MAX,
    FILTERS_MAX,
    Aggregation,
    Filter,
    MetricDetails,
)
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.tables import MetricRow
from usageflow.policies.models import METRIC_PATTERN

router = v1_router("metrics")
meters = v1_router("meters")
routers = [router, meters]

MetricKey = Annotated[str, StringConstraints(pattern=METRIC_PATTERN, min_length=2)]
"""A key that policies can name as well."""
Search = Annotated[Line | None, Query(max_length=100)]


class MetricFilter(Body):
    """An event counts only if this property of its metadata is one of these."""

    property: Name
    values: Annotated[list[Line], Field(min_length=1, max_length=FILTER_VALUES_MAX)]


Filters = Annotated[list[MetricFilter], Field(max_length=FILTERS_MAX)]


class NewMetric(Body):
    """A metric to define."""

    key: MetricKey
    name: Name | None = None
    unit: Line = ""
    aggregation: Aggregation = "SUM"
    property: Name | None = None
    filters: Filters = Field(default_factory=list)
    description: Prose = ""


class MetricPatch(Patch):
    """What to change in a metric."""

    name: Name = left_out()
    unit: Line = left_out()
    aggregation: Aggregation = left_out()
    property: Name | None = left_out()
    filters: Filters = left_out()
    description: Prose = left_out()


class ToldFilter(Answer):
    """A filter of a metric."""

    property: str
    values: list[str]


class MetricOut(Answer):
    """A metric."""

    id: str
    key: str
    meter_token: str
    name: str
    unit: str
    aggregation: Aggregation
    property: str | None
    filters: list[ToldFilter]
    description: str
    created_at: datetime


class MeterOut(Answer):
    """A metric, in the words of meters."""

    id: str
    meter_name: str
    meter_token: str
    name: str
    unit: str
    aggregation_type: Aggregation
    property_name: str | None
    filters: list[ToldFilter]
    description: str
    created_at: datetime


def as_filters(filters: Sequence[MetricFilter]) -> tuple[Filter, ...]:
    """The filters of a body as the catalog has them."""
    return tuple(Filter(one.property, tuple(one.values)) for one in filters)


def told_filters(row: MetricRow) -> list[ToldFilter]:
    """The filters of a metric as an answer has them."""
    return [
        ToldFilter(property=one.property, values=list(one.values))
        for one in metrics.filters_of(row)
    ]


@router.get("/metrics", response_model=Listed[MetricOut])
def list_metrics(
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    page: PageDep,
    search: Search = None,
) -> Response:
    """Metrics by key; `search` is a part of key or name."""
    with rest.db.reading() as tx:
        rows, total = metrics.listing(
            tx, access.organization_id, search=search, offset=page.offset, limit=page.limit
        )
        return listed([_metric(row) for row in rows], total, page)


@router.post("/metrics", response_model=MetricOut, status_code=201)
def define_metric(
    body: NewMetric, access: Annotated[Access, needs("metrics.write")], rest: RestDep
) -> Response:
    """Define a metric."""
    details: MetricDetails = {
        "name": body.name or body.key,
        "unit": body.unit,
        "aggregation": body.aggregation,
        "property": body.property,
        "filters": as_filters(body.filters),
        "description": body.description,
    }
    with rest.db.transaction() as tx:
        made = metrics.define(
            tx, access.organization_id, key=body.key, actor=access.actor, **details
        )
        return refusal(made) if isinstance(made, Refused) else answer(_metric(made), 201)


@router.get("/metrics/{metric}", response_model=MetricOut)
def read_metric(
    metric: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """One metric."""
    with rest.db.reading() as tx:
        return answer(_metric(_found(tx, access, metric)))


@router.patch("/metrics/{metric}", response_model=MetricOut)
def change_metric(
    metric: Id,
    body: MetricPatch,
    access: Annotated[Access, needs("metrics.write")],
    rest: RestDep,
) -> Response:
    """Change a metric; its aggregation only while nothing was counted under it."""
    given: dict[str, Any] = body.given()
    if "filters" in given:
        given["filters"] = as_filters(body.filters)
    details = cast("MetricDetails", given)
    with rest.db.transaction() as tx:
        row = metrics.change(tx, access.organization_id, metric, actor=access.actor, **details)
        return refusal(row) if isinstance(row, Refused) else answer(_metric(row))


@router.delete("/metrics/{metric}", status_code=204)
def delete_metric(
    metric: Id, access: Annotated[Access, needs("metrics.write")], rest: RestDep
) -> Response:
    """Delete a metric that nothing uses."""
    with rest.db.transaction() as tx:
        refused = metrics.delete(tx, access.organization_id, metric, actor=access.actor)
        return refusal(refused) if refused else Response(status_code=204)


@meters.get("/meters", response_model=Listed[MeterOut])
def list_meters(
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    page: PageDep,
    search: Search = None,
) -> Response:
    """Meters by name; `search` is a part of it."""
    with rest.db.reading() as tx:
        rows, total = metrics.listing(
            tx, access.organization_id, search=search, offset=page.offset, limit=page.limit
        )
        return listed([_meter(row) for row in rows], total, page)


@meters.get("/meters/{meter}", response_model=MeterOut)
def read_meter(
    meter: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """One meter."""
    with rest.db.reading() as tx:
        return answer(_meter(_found(tx, access, meter)))


def _found(tx: Tx, access: Access, metric: str) -> MetricRow:
    row = metrics.find(tx, access.organization_id, metric)
    return refusal(metrics.unknown(metric)) if row is None else row


def _metric(row: MetricRow) -> MetricOut:
    return MetricOut(
        id=row.id,
        key=row.key,
        meter_token=row.token,
        name=row.name,
        unit=row.unit,
        aggregation=cast("Aggregation", row.aggregation),
        property=row.property,
        filters=told_filters(row),
        description=row.description,
        created_at=row.created_at,
    )


def _meter(row: MetricRow) -> MeterOut:
    return MeterOut(
        id=row.id,
        meter_name=row.key,
        meter_token=row.token,
        name=row.name,
        unit=row.unit,
        aggregation_type=cast("Aggregation", row.aggregation),
        property_name=row.property,
        filters=told_filters(row),
        description=row.description,
        created_at=row.created_at,
    )
