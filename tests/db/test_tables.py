"""Rules every table keeps."""

import pytest
from sqlalchemy import CheckConstraint, Table

from usageflow.db.columns import Row
from usageflow.db.exact import ExactDecimal, UtcDateTime

TABLES = list(Row.metadata.tables.values())
OF_AN_ACCOUNT = {
    *("stripe_meter", "stripe_customer", "stripe_event", "stripe_reads", "error_report"),
    *("lane_boundary", "billing_period"),
}
NOT_OF_AN_ORGANIZATION = {"installation", "organization", "person"} | OF_AN_ACCOUNT


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))
def test_every_table_belongs_to_an_organization(table: Table) -> None:
    """Only what hangs off an account, and the roots, have no organization of their own."""
    assert ("organization_id" in table.c) != (table.name in NOT_OF_AN_ORGANIZATION)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))
def test_no_column_is_inexact(table: Table) -> None:
    """Numbers are integers or exact decimals; times are UTC instants."""
    for column in table.c:
        if isinstance(column.type, ExactDecimal | UtcDateTime):
            continue
        assert column.type.python_type in (str, int, bool)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))
def test_every_constraint_has_a_name(table: Table) -> None:
    """A constraint without a name could never be changed by a migration on SQLite."""
    for constraint in table.constraints:
        assert constraint.name
    states = [c for c in table.constraints if isinstance(c, CheckConstraint)]
    words = {"state", "aggregation", "role"}
    assert bool(states) >= bool(words & set(table.c.keys()))
