"""/api/v1/features: what plans may entitle to. A meter feature brings its metric along."""

import re
from datetime import datetime
from typing import Annotated, Self, cast

from fastapi import Response
from pydantic import Field, model_validator

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Key, Line, Name, Prose, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.patches import Patch, left_out
from usageflow.api.rest import refusal, v1_router
from usageflow.api.v1.metrics import (
    Filters,
    MetricKey,
    Search,
    ToldFilter,
    as_filters,
    told_filters,
)
from usageflow.api.wording import reworded
from usageflow.catalog import features
from usageflow.catalog.features import FeatureType
from usageflow.catalog.metrics import Aggregation, MetricDetails
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import FeatureRow
from usageflow.db.tables import MetricRow
from usageflow.policies.models import METRIC_PATTERN

router = v1_router("features")

_OF_METERS = {"meter_name", "property_name", "aggregation_type", "unit", "filters"}
_NAMES = {
    "key": "meter_name",
    "property": "property_name",
    "aggregation": "aggregation_type",
}
"""Fields of a metric in the words of a meter feature."""


class NewFeature(Body):
    """A feature to make. Of a meter, `meter_name` is the metric's key: that of one there is, or of
    a new one; without it the lookup key is.
    """

    name: Name
    lookup_key: Key
    type: FeatureType
    description: Prose = ""
    meter_name: MetricKey | None = None
    property_name: Name | None = None
    aggregation_type: Aggregation | None = None
    unit: Line | None = None
    filters: Filters = Field(default_factory=list)

    @model_validator(mode="after")
    def _only_meters_have_a_metric(self) -> Self:
        extra = sorted(self.model_fields_set & _OF_METERS)
        if self.type != "meter" and extra:
            raise ValueError(f"{extra[0]}: a {self.type} feature does not measure anything")
        named = self.meter_name or self.lookup_key
        if self.type == "meter" and not re.fullmatch(METRIC_PATTERN, named):
            raise ValueError("say meter_name: the lookup key cannot be that of a metric")
        return self

    def metric_details(self) -> MetricDetails:
        """What is said of the metric."""
        details: MetricDetails = {}
        if self.property_name is not None:
            details["property"] = self.property_name
        if self.aggregation_type is not None:
            details["aggregation"] = self.aggregation_type
        if self.unit is not None:
            details["unit"] = self.unit
        if self.filters:
            details["filters"] = as_filters(self.filters)
        return details


class FeaturePatch(Patch):
    """What to change in a feature."""

    name: Name = left_out()
    description: Prose = left_out()


class FeatureOut(Answer):
    """A feature; with its metric, if it is a meter."""

    id: str
    name: str
    lookup_key: str
    type: FeatureType
    description: str
    meter_id: str | None
    meter_token: str | None
    meter_name: str | None
    property_name: str | None
    aggregation_type: Aggregation | None
    unit: str | None
    filters: list[ToldFilter]
    created_at: datetime
    archived_at: datetime | None


@router.get("/features", response_model=Listed[FeatureOut])
def list_features(
    *,
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    page: PageDep,
    search: Search = None,
    type: FeatureType | None = None,  # noqa: A002 - the name it has in the query
    archived: bool = False,
) -> Response:
    """Features by lookup key, those in use or those `archived`."""
    with rest.db.reading() as tx:
        rows, total = features.listing(
            tx,
            access.organization_id,
            type=type,
            search=search,
            archived=archived,
            offset=page.offset,
            limit=page.limit,
        )
        return listed([_feature(row, metric) for row, metric in rows], total, page)


@router.post("/features", response_model=FeatureOut, status_code=201)
def create_feature(
    body: NewFeature, access: Annotated[Access, needs("metrics.write")], rest: RestDep
) -> Response:
    """Make a feature, and its metric unless there is one."""
    with rest.db.transaction() as tx:
        made = features.create(
            tx,
            access.organization_id,
            lookup_key=body.lookup_key,
            name=body.name,
            type=body.type,
            description=body.description,
            metric=body.meter_name,
            details=body.metric_details(),
            actor=access.actor,
        )
        if isinstance(made, Refused):
            refusal(reworded(made, _NAMES))
        return answer(_feature(made, features.metric_of(tx, made)), 201)


@router.get("/features/{feature}", response_model=FeatureOut)
def read_feature(
    feature: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """One feature, by id or lookup key."""
    with rest.db.reading() as tx:
        row = features.find(tx, access.organization_id, feature)
        if row is None:
            refusal(features.unknown(feature))
        return answer(_feature(row, features.metric_of(tx, row)))


@router.patch("/features/{feature}", response_model=FeatureOut)
def change_feature(
    feature: Id,
    body: FeaturePatch,
    access: Annotated[Access, needs("metrics.write")],
    rest: RestDep,
) -> Response:
    """Change the name or the description."""
    names = cast("features.FeatureNames", body.given())
    with rest.db.transaction() as tx:
        row = features.change(tx, access.organization_id, feature, actor=access.actor, **names)
        if isinstance(row, Refused):
            refusal(row)
        return answer(_feature(row, features.metric_of(tx, row)))


@router.delete("/features/{feature}", status_code=204)
def archive_feature(
    feature: Id, access: Annotated[Access, needs("metrics.write")], rest: RestDep
) -> Response:
    """Archive a feature: plans that entitle to it go on to do so, and no other can."""
    with rest.db.transaction() as tx:
        refused = features.archive(tx, access.organization_id, feature, actor=access.actor)
        return refusal(refused) if refused else Response(status_code=204)


def _feature(row: FeatureRow, metric: MetricRow | None) -> FeatureOut:
    return FeatureOut(
        id=row.id,
        name=row.name,
        lookup_key=row.lookup_key,
        type=cast("FeatureType", row.type),
        description=row.description,
        meter_id=metric and metric.id,
        meter_token=metric and metric.token,
        meter_name=metric and metric.key,
        property_name=metric and metric.property,
        aggregation_type=cast("Aggregation", metric.aggregation) if metric else None,
        unit=metric and metric.unit,
        filters=told_filters(metric) if metric else [],
        created_at=row.created_at,
        archived_at=row.archived_at,
    )
