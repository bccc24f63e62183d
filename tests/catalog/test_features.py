"""Features: a meter brings its metric, the others stand for themselves."""

from decimal import Decimal
from typing import Any

from usageflow.catalog import audit, features, metrics
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Entitlement
from usageflow.catalog.features import FeatureType
from usageflow.catalog.metrics import Filter, MetricDetails
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import FeatureRow
from usageflow.db.session import Tx

ANN = Actor("ann@example.com")


def made(
    tx: Tx,
    organization_id: str,
    key: str = "api_calls",
    kind: FeatureType = "meter",
    *,
    metric: str | None = None,
    details: MetricDetails | None = None,
) -> FeatureRow | Refused:
    """A feature, or why not."""
    return features.create(
        tx,
        organization_id,
        lookup_key=key,
        name=key.title(),
        type=kind,
        metric=metric,
        details=details,
        actor=ANN,
    )


def test_a_meter_brings_its_metric(tx: Tx, organization_id: str) -> None:
    """With what is told of it, and called as the feature; its key is the lookup key if need be."""
    details: MetricDetails = {"unit": "calls", "property": "call_count", "aggregation": "SUM"}
    feature = made(tx, organization_id, metric="API_CALL", details=details)
    assert isinstance(feature, FeatureRow)
    metric = features.metric_of(tx, feature)
    assert metric is not None
    assert (metric.key, metric.name, metric.unit) == ("API_CALL", "Api_Calls", "calls")
    assert metric.property == "call_count"
    other = made(tx, organization_id, "tokens")
    assert isinstance(other, FeatureRow)
    assert other.metric == "tokens"
    switch = made(tx, organization_id, "sso", "switch")
    assert isinstance(switch, FeatureRow)
    assert features.metric_of(tx, switch) is None


def test_a_meter_may_name_a_metric_there_is(tx: Tx, organization_id: str) -> None:
    """What the metric does not say yet it takes; its name and what it says stay."""
    metrics.create(tx, organization_id, ["API_CALL"])
    details: MetricDetails = {"unit": "calls", "aggregation": "SUM"}
    feature = made(tx, organization_id, metric="api_call", details=details)
    assert isinstance(feature, FeatureRow)
    metric = features.metric_of(tx, feature)
    assert metric is not None
    assert (metric.key, metric.name, metric.unit) == ("API_CALL", "API_CALL", "calls")
    again = made(tx, organization_id, "second", metric="API_CALL", details=details)
    assert isinstance(again, FeatureRow)
    bare = made(tx, organization_id, "third", metric="API_CALL", details={"unit": ""})
    assert isinstance(bare, FeatureRow)
    assert metric.unit == "calls"


def test_a_meter_does_not_contradict_its_metric(tx: Tx, organization_id: str) -> None:
    """It is refused, and nothing is made or changed."""
    metrics.define(tx, organization_id, key="API_CALL", unit="calls", actor=ANN)
    contradictions: list[MetricDetails] = [
        {"unit": "bytes"},
        {"aggregation": "MAX"},
        {"filters": (Filter("a", ("b",)),)},
    ]
    for details in contradictions:
        refused = made(tx, organization_id, metric="API_CALL", details=details)
        assert isinstance(refused, Refused)
        assert (refused.code, [refused.field]) == ("conflict", list(details))
    assert features.listing(tx, organization_id, offset=0, limit=9) == ([], 0)


def test_a_lookup_key_is_used_once(tx: Tx, organization_id: str) -> None:
    """Archived features keep theirs."""
    feature = made(tx, organization_id, "sso", "switch")
    assert isinstance(feature, FeatureRow)
    for _ in range(2):
        refused = made(tx, organization_id, "sso", "custom")
        assert isinstance(refused, Refused)
        assert (refused.code, refused.field) == ("conflict", "lookup_key")
        assert features.archive(tx, organization_id, "sso", actor=ANN) is None
    assert audit.listing(tx, organization_id, action="feature.archive", offset=0, limit=9)[1] == 1


def test_features_are_listed_and_changed(tx: Tx, organization_id: str) -> None:
    """By lookup key, with their metrics; in use or archived, of one type, or by a part."""
    made(tx, organization_id, "b", "meter")
    made(tx, organization_id, "a", "switch")
    made(tx, organization_id, "c", "custom")
    features.archive(tx, organization_id, "c", actor=ANN)

    def keys(**filters: Any) -> list[tuple[str, str | None]]:
        found, total = features.listing(tx, organization_id, offset=0, limit=9, **filters)
        assert len(found) == total
        return [(row.lookup_key, metric.key if metric else None) for row, metric in found]

    assert keys() == [("a", None), ("b", "b")]
    assert keys(archived=True) == [("c", None)]
    assert keys(type="meter") == keys(search="B") == [("b", "b")]
    for _ in range(2):
        changed = features.change(tx, organization_id, "a", name="Sign-on", actor=ANN)
        assert isinstance(changed, FeatureRow)
        assert (changed.name, changed.description) == ("Sign-on", "")
    assert audit.listing(tx, organization_id, action="feature.change", offset=0, limit=9)[1] == 1
    for missing in (
        features.change(tx, organization_id, "x", name="X", actor=ANN),
        features.archive(tx, organization_id, "x", actor=ANN),
    ):
        assert missing == Refused("not_found", "there is no feature x")


def test_what_can_be_granted(tx: Tx, organization_id: str) -> None:
    """A limit of usage needs usage, a value needs a feature of its own; both need the feature."""
    kinds: list[FeatureType] = ["meter", "switch", "custom"]
    ids = {}
    for kind in kinds:
        row = made(tx, organization_id, kind, kind)
        assert isinstance(row, FeatureRow)
        ids[kind] = row.id
    made(tx, organization_id, "gone", "switch")
    features.archive(tx, organization_id, "gone", actor=ANN)

    def granted(key: str, limit: int | None = None, value: str | None = None) -> str | None:
        usage_limit = None if limit is None else Decimal(limit)
        wanted = Entitlement(feature_id=key, usage_limit=usage_limit, value=value)
        found = features.grantable(tx, organization_id, wanted)
        return found.field if isinstance(found, Refused) else found.feature_id

    assert granted("meter", limit=1) == granted(ids["meter"]) == ids["meter"]
    assert granted("custom", value="gold") == ids["custom"]
    assert granted("switch", limit=1) == "usage_limit"
    assert granted("meter", value="gold") == "value"
    assert granted("gone") == granted("never") == "feature_id"
