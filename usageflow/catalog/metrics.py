"""Metrics: what is counted. One exists as soon as a policy or an event names it."""

from collections.abc import Collection, Iterable

from sqlmodel import col, select, update

from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import MetricRow
from usageflow.policies.models import Metric


def known(tx: Tx, organization_id: str) -> list[str]:
    """The keys of the organization's metrics, in order."""
    return list(
        tx.session.exec(
            select(MetricRow.key)
            .where(col(MetricRow.organization_id) == organization_id)
            .order_by(col(MetricRow.key))
        )
    )


def create(tx: Tx, organization_id: str, keys: Collection[str]) -> list[str]:
    """Create those that do not exist, with their key as name; which ones that were, in order."""
    rows = [
        {"organization_id": organization_id, "key": key, "name": key, "created_at": tx.now}
        for key in keys
    ]
    made = insert_new(tx, MetricRow, rows, key=["organization_id", "key"], give="key")
    return sorted(row.key for row in made)


def describe(tx: Tx, organization_id: str, metrics: Iterable[Metric]) -> list[str]:
    """Give metrics the name and unit they are declared with; which of them are new, in order.

    What a declaration leaves out stays as it is.
    """
    declared = {metric.key: metric for metric in metrics}
    made = create(tx, organization_id, declared)
    for key, metric in declared.items():
        values = {"name": metric.name, "unit": metric.unit}
        given = {column: value for column, value in values.items() if value is not None}
        if given:
            tx.session.exec(
                update(MetricRow)
                .where(col(MetricRow.organization_id) == organization_id, col(MetricRow.key) == key)
                .values(given)
            )
    return made
