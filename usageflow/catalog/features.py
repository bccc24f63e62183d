"""Features: what a plan may entitle to: the use of a metric, a switch, or a value of one's own.

Who is entitled to what, and how much of it is used, is `billing.entitlements`'s.
"""

from typing import Any, Final, Literal, TypedDict, Unpack, cast

import msgspec
from sqlmodel import col, or_, select

from usageflow.catalog import audit, metrics
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Entitlement
from usageflow.catalog.listings import paged
from usageflow.catalog.metrics import MetricDetails
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db.billing_tables import FeatureRow
from usageflow.db.ids import new_id
from usageflow.db.session import Tx
from usageflow.db.tables import MetricRow

FeatureType = Literal["meter", "switch", "custom"]
"""`db.billing_tables.FEATURE_TYPES`."""

_COMPARED: Final = {"aggregation", "filters", "property", "unit"}
"""In what a metric that is there must agree with a new feature; no filters mean that all counts."""


class FeatureNames(TypedDict, total=False):
    """What can change in a feature."""

    name: str
    description: str


def find(tx: Tx, organization_id: str, feature: str) -> FeatureRow | None:
    """The feature of this id, or of this lookup key; archived ones too."""
    found = tx.session.exec(
        select(FeatureRow).where(
            col(FeatureRow.organization_id) == organization_id,
            or_(col(FeatureRow.id) == feature, col(FeatureRow.lookup_key) == feature),
        )
    ).all()
    return next((row for row in found if row.id == feature), found[0] if found else None)


def listing(
    tx: Tx,
    organization_id: str,
    *,
    type: FeatureType | None = None,  # noqa: A002 - the name it has in the API
    search: str | None = None,
    archived: bool = False,
    offset: int,
    limit: int,
) -> tuple[list[tuple[FeatureRow, MetricRow | None]], int]:
    """Features, in use or archived, by lookup key, with their metrics; how many there are."""
    gone = col(FeatureRow.archived_at)
    statement = select(FeatureRow).where(
        col(FeatureRow.organization_id) == organization_id,
        gone.is_not(None) if archived else gone.is_(None),
    )
    if type is not None:
        statement = statement.where(col(FeatureRow.type) == type)
    if search is not None:
        texts = (col(FeatureRow.name), col(FeatureRow.lookup_key))
        statement = statement.where(
            or_(*(text.icontains(search, autoescape=True) for text in texts))
        )
    order = col(FeatureRow.lookup_key)
    rows, total = paged(tx, statement.order_by(order), offset=offset, limit=limit)
    return [(row, metric_of(tx, row)) for row in rows], total


def metric_of(tx: Tx, feature: FeatureRow) -> MetricRow | None:
    """The metric that a meter feature counts; None of any other."""
    if feature.metric is None:
        return None
    return tx.session.get(MetricRow, (feature.organization_id, feature.metric))


def create(
    tx: Tx,
    organization_id: str,
    *,
    lookup_key: str,
    name: str,
    type: FeatureType,  # noqa: A002 - the name it has in the API
    description: str = "",
    metric: str | None = None,
    details: MetricDetails | None = None,
    actor: Actor,
) -> FeatureRow | Refused:
    """Make a feature; of a `meter`, its metric too, unless there is one of this name.

    `metric` names it, as `metrics.find` does or as its key (None: the lookup key). `details` are
    the new metric's; one that is there takes what it does not say yet, and must agree otherwise.
    """
    take_turn(tx, organization_id)
    if find(tx, organization_id, lookup_key) is not None:
        there = f"there is a feature {lookup_key} already; archived ones keep their key"
        return Refused("conflict", there, "lookup_key")
    key = None
    if type == "meter":
        named: MetricDetails = {"name": name, **(details or {})}
        counted = _metric(tx, organization_id, metric or lookup_key, named, actor)
        if isinstance(counted, Refused):
            return counted
        key = counted.key
    row = FeatureRow(
        id=new_id("fea"),
        organization_id=organization_id,
        lookup_key=lookup_key,
        name=name,
        type=type,
        description=description,
        metric=key,
        created_at=tx.now,
    )
    tx.session.add(row)
    tx.session.flush()
    _record(tx, row, "feature.create", actor, after=_told(row))
    return row


def change(
    tx: Tx, organization_id: str, feature: str, *, actor: Actor, **names: Unpack[FeatureNames]
) -> FeatureRow | Refused:
    """Change what is given."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, feature)
    if row is None:
        return unknown(feature)
    before = _told(row)
    for column, value in names.items():
        setattr(row, column, value)
    if _told(row) != before:
        _record(tx, row, "feature.change", actor, before=before, after=_told(row))
    return row


def archive(tx: Tx, organization_id: str, feature: str, *, actor: Actor) -> Refused | None:
    """Offer a feature no more. Plans that entitle to it go on to do so; its key stays taken."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, feature)
    if row is None:
        return unknown(feature)
    if row.archived_at is None:
        row.archived_at = tx.now
        _record(tx, row, "feature.archive", actor, before=_told(row))
    return None


def unknown(feature: str, field: str | None = None) -> Refused:
    """There is no such feature; `field` if it is named in a body."""
    code: Literal["not_found", "invalid"] = "not_found" if field is None else "invalid"
    return Refused(code, f"there is no feature {feature}", field)


def grantable(tx: Tx, organization_id: str, entitlement: Entitlement) -> Entitlement | Refused:
    """The entitlement with its feature by id, or why a plan cannot grant it."""
    row = find(tx, organization_id, entitlement.feature_id)
    if row is None:
        return unknown(entitlement.feature_id, "feature_id")
    if row.archived_at is not None:
        return Refused("invalid", f"the feature {row.lookup_key} is archived", "feature_id")
    if entitlement.usage_limit is not None and row.type != "meter":
        return Refused("invalid", f"a {row.type} feature has no usage to limit", "usage_limit")
    if entitlement.value is not None and row.type != "custom":
        return Refused("invalid", f"a {row.type} feature has no value", "value")
    return msgspec.structs.replace(entitlement, feature_id=row.id)


def _metric(
    tx: Tx, organization_id: str, name: str, details: MetricDetails, actor: Actor
) -> MetricRow | Refused:
    """The metric of this name, made or completed as far as it does not contradict `details`."""
    row = metrics.find(tx, organization_id, name)
    if row is None:
        return metrics.define(tx, organization_id, key=name, actor=actor, **details)
    given: dict[str, Any] = {**details}
    there = metrics.told(row)
    missing: dict[str, Any] = {}
    for field in sorted(given.keys() & _COMPARED):
        wanted = msgspec.json.decode(msgspec.json.encode(given[field]))
        if not wanted or wanted == there[field]:
            continue
        if there[field] or field == "filters":
            differs = f"the metric {row.key} has another {field}; leave it out, or change it there"
            return Refused("conflict", differs, field)
        missing[field] = wanted
    changes = cast("MetricDetails", missing)
    return metrics.change(tx, organization_id, row.key, actor=actor, **changes)


def _record(
    tx: Tx, row: FeatureRow, action: str, actor: Actor, **told: dict[str, Any] | None
) -> None:
    audit.record(
        tx,
        row.organization_id,
        actor=actor,
        action=action,
        subject=row.id,
        before=told.get("before"),
        after=told.get("after"),
    )


def _told(row: FeatureRow) -> dict[str, Any]:
    """What the audit log keeps of a feature."""
    columns = ("lookup_key", "name", "type", "description", "metric")
    return {column: getattr(row, column) for column in columns}
