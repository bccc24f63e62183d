"""Metrics exist as soon as they are named."""

from usageflow.catalog import metrics
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import MetricRow
from usageflow.policies import Metric


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
