"""Long lists, a page at a time."""

from sqlmodel import col, select

from usageflow.catalog import metrics
from usageflow.catalog.listings import paged
from usageflow.db.session import Tx
from usageflow.db.tables import MetricRow


def test_pages_make_up_the_list(tx: Tx, organization_id: str) -> None:
    """Each in the statement's order, every one with the number of all."""
    keys = [f"M{number}" for number in range(5)]
    metrics.create(tx, organization_id, keys)
    statement = (
        select(MetricRow)
        .where(col(MetricRow.organization_id) == organization_id)
        .order_by(col(MetricRow.key))
    )
    found = []
    for offset in (0, 2, 4, 6):
        rows, total = paged(tx, statement, offset=offset, limit=2)
        assert total == 5
        found += [row.key for row in rows]
    assert found == keys
