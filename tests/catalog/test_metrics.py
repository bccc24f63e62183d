"""Metrics exist as soon as they are named."""

from usageflow.catalog import metrics
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import MetricRow


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
