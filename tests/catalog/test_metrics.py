"""Metrics exist as soon as they are named; people define, change and delete them."""

from datetime import timedelta
from decimal import Decimal

import pytest

from usageflow.catalog import audit, metrics
from usageflow.catalog.audit import Actor
from usageflow.catalog.metrics import Filter
from usageflow.catalog.organizations import create as create_organization
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Database, Tx
from usageflow.db.tables import CustomerRow, MetricRow, UsageEventRow
from usageflow.policies import Metric

ANN = Actor("ann@example.com", "req_1")


def counted(tx: Tx, organization_id: str, metric: str, customer_id: str | None) -> None:
    """An event under a metric: counted, or in the inbox."""
    tx.session.add(
        UsageEventRow(
            organization_id=organization_id,
            id=f"{metric}-{customer_id}",
            customer_id=customer_id,
            metric=metric,
            quantity=Decimal(1),
            occurred_at=tx.now - timedelta(hours=1),
            received_at=tx.now,
            identity_field="account_id",
            policy="chat",
            policy_version="1",
            state="counted" if customer_id else "inbox",
            request_method="GET",
            request_route="/",
            fingerprint="",
        )
    )
    tx.session.flush()


def defined(tx: Tx, organization_id: str, key: str) -> MetricRow:
    """A metric that a person has defined."""
    made = metrics.define(tx, organization_id, key=key, actor=ANN)
    assert isinstance(made, MetricRow)
    return made


def test_a_metric_is_created_once(database: Database) -> None:
    """Only new ones are told; they sum, and are called by their key."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        assert metrics.create(tx, organization_id, {"B", "A"}) == ["A", "B"]
        assert metrics.create(tx, organization_id, {"A", "C"}) == ["C"]
        assert metrics.create(tx, organization_id, []) == []
        assert metrics.known(tx, organization_id) == ["A", "B", "C"]
        assert metrics.known(tx, "another") == []
        row = tx.session.get(MetricRow, (organization_id, "A"))
        assert row is not None
        assert (row.name, row.unit, row.aggregation, row.created_at) == ("A", "", "SUM", tx.now)


def test_a_declaration_gives_name_and_unit(database: Database) -> None:
    """New metrics are made, known ones described; what is left out stays."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        metrics.create(tx, organization_id, ["A"])
        declared = [Metric(key="A", name="Apples", unit="piece"), Metric(key="B")]
        assert metrics.describe(tx, organization_id, declared) == ["B"]
        assert metrics.describe(tx, organization_id, [Metric(key="A", name="Pears")]) == []
        rows = [tx.session.get(MetricRow, (organization_id, key)) for key in "AB"]
        assert [(row.name, row.unit) for row in rows if row] == [("Pears", "piece"), ("B", "")]


def test_a_person_defines_a_metric(tx: Tx, organization_id: str) -> None:
    """All of it is kept and audited; what is left out has its default."""
    only_eu = Filter("region", ("eu", "uk"))
    made = metrics.define(
        tx,
        organization_id,
        key="ACTIVE_USER",
        name="Active users",
        unit="users",
        aggregation="UNIQUE_COUNT",
        property="user_id",
        filters=[only_eu],
        description="Who signed in",
        actor=ANN,
    )
    assert isinstance(made, MetricRow)
    assert metrics.filters_of(made) == (only_eu,)
    assert metrics.told(made) == {
        "key": "ACTIVE_USER",
        "name": "Active users",
        "unit": "users",
        "aggregation": "UNIQUE_COUNT",
        "property": "user_id",
        "filters": [{"property": "region", "values": ["eu", "uk"]}],
        "description": "Who signed in",
    }
    plain = defined(tx, organization_id, "API_CALL")
    assert (plain.name, plain.aggregation, metrics.filters_of(plain)) == ("API_CALL", "SUM", ())
    entries, _ = audit.listing(tx, organization_id, offset=0, limit=10)
    assert [(entry.action, entry.subject, entry.actor, entry.request_id) for entry in entries] == [
        ("metric.create", "API_CALL", "ann@example.com", "req_1"),
        ("metric.create", "ACTIVE_USER", "ann@example.com", "req_1"),
    ]


def test_a_metric_is_found_by_key_id_or_token(tx: Tx, organization_id: str) -> None:
    """A key in other capitals too, but never of another organization."""
    row = defined(tx, organization_id, "API_CALL")
    for name in ("API_CALL", "api_call", row.id, row.token):
        assert metrics.find(tx, organization_id, name) is row
    other = create_organization(tx, "other", actor="test")
    for name in ("API", "API_CALL\0"):
        assert metrics.find(tx, organization_id, name) is None
    assert metrics.find(tx, other, row.id) is None
    assert metrics.ids(tx, organization_id, ["API_CALL", "NONE"]) == {"API_CALL": row.id}


def test_nobody_guesses_between_keys_that_differ_in_capitals(tx: Tx, organization_id: str) -> None:
    """The exact key wins; anything between two is neither. A person cannot make such a pair."""
    metrics.create(tx, organization_id, ["call", "CALL"])
    found = metrics.find(tx, organization_id, "CALL")
    assert found is not None
    assert found.key == "CALL"
    assert metrics.find(tx, organization_id, "Call") is None
    refused = metrics.define(tx, organization_id, key="cALL", actor=ANN)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("conflict", "key")


def test_what_is_given_changes(tx: Tx, organization_id: str) -> None:
    """The rest stays; a change that changes nothing is no entry of the audit log."""
    row = defined(tx, organization_id, "API_CALL")
    for _ in range(2):
        changed = metrics.change(
            tx, organization_id, "api_call", name="Calls", filters=[Filter("a", ("b",))], actor=ANN
        )
        assert changed is row
    assert (row.name, row.unit, metrics.filters_of(row)) == ("Calls", "", (Filter("a", ("b",)),))
    assert audit.listing(tx, organization_id, action="metric.change", offset=0, limit=9)[1] == 1
    missing = metrics.change(tx, organization_id, "OTHER", name="X", actor=ANN)
    assert missing == Refused("not_found", "there is no metric OTHER")


@pytest.mark.parametrize("customer_id", ["c", None], ids=["customer", "inbox"])
def test_the_aggregation_is_settled_by_the_first_event(
    tx: Tx, organization_id: str, customer_id: str | None
) -> None:
    """It changes while nothing was counted, and never after; a name still does."""
    row = defined(tx, organization_id, "PEAK")
    metrics.change(tx, organization_id, "PEAK", aggregation="MAX", actor=ANN)
    assert row.aggregation == "MAX"
    customer = CustomerRow(
        id="c", organization_id=organization_id, external_id="c", created_at=tx.now
    )
    tx.session.add(customer)
    tx.session.flush()
    counted(tx, organization_id, "PEAK", customer_id)
    refused = metrics.change(tx, organization_id, "PEAK", aggregation="SUM", actor=ANN)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("conflict", "aggregation")
    assert "counted under PEAK as MAX" in refused.message
    kept = metrics.change(tx, organization_id, "PEAK", aggregation="MAX", name="Peak", actor=ANN)
    assert isinstance(kept, MetricRow)


def test_metrics_are_listed_by_key(tx: Tx, organization_id: str) -> None:
    """Page by page, with how many there are; a search is a part, not a pattern."""
    metrics.create(tx, organization_id, ["A_1", "BA1", "C"])
    rows, total = metrics.listing(tx, organization_id, offset=1, limit=1)
    assert ([row.key for row in rows], total) == (["BA1"], 3)
    rows, total = metrics.listing(tx, organization_id, search="a_", offset=0, limit=9)
    assert ([row.key for row in rows], total) == (["A_1"], 1)


def test_a_metric_that_nothing_uses_is_deleted(tx: Tx, organization_id: str) -> None:
    """One with events is not, and says why."""
    defined(tx, organization_id, "OLD")
    defined(tx, organization_id, "USED")
    counted(tx, organization_id, "USED", None)
    assert metrics.delete(tx, organization_id, "old", actor=ANN) is None
    assert metrics.known(tx, organization_id) == ["USED"]
    assert metrics.delete(tx, organization_id, "OLD", actor=ANN) == metrics.unknown("OLD")
    refused = metrics.delete(tx, organization_id, "USED", actor=ANN)
    assert refused is not None
    assert refused.message == "the metric USED cannot be deleted: events name it"
