"""Rows that come with a statement: exact, in their order, on both databases."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import bindparam, select
from sqlalchemy.dialects import sqlite

from usageflow.db.session import Database, Tx
from usageflow.ledger import customers, entries, tracking
from usageflow.ledger.given import Kind, encoded, given, prepared

COLUMNS: dict[str, Kind] = {
    "name": "text",
    "count": "whole",
    "quantity": "decimal",
    "at": "instant",
}
ROWS: list[tuple[Any, ...]] = [
    (
        'a "quoted" \\ {text}, \N{SNOWMAN}\n$[0]',
        2**62,
        Decimal("12345678901234567890.123456789012"),
        datetime(2026, 11, 21, 12, 30, 0, 123456, tzinfo=UTC),
    ),
    ("", 0, Decimal("0.1"), datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC)),
    (None, None, None, None),
    ("z", -1, Decimal(0), datetime(9999, 12, 31, tzinfo=UTC)),
]


def test_rows_arrive_as_they_were_given(database: Database) -> None:
    """Every digit, microsecond and character, NULL as NULL, in their order."""
    with database.reading() as tx:
        found = tx.session.execute(given(tx, "given", COLUMNS, ROWS)).all()
    assert [tuple(row) for row in found] == ROWS


def test_no_rows_are_none(database: Database) -> None:
    """An empty table is one too."""
    with database.reading() as tx:
        assert tx.session.execute(given(tx, "given", COLUMNS)).all() == []


def test_a_prepared_statement_is_built_once_for_each_database(database: Database) -> None:
    """And executed with whatever it is given."""
    built: list[str] = []

    @prepared
    def statement(tx: Tx) -> Any:
        built.append(tx.dialect)
        rows = given(tx, "given", COLUMNS).subquery()
        return select(rows.c.quantity).where(rows.c.count == bindparam("wanted"))

    for row in (ROWS[0], ROWS[3], ROWS[1]):
        with database.reading() as tx:
            parameters = {"given": encoded(tx, COLUMNS, ROWS), "wanted": row[1]}
            assert tx.session.execute(statement(tx), parameters).scalars().all() == [row[2]]
    assert built == [database.dialect]


def test_sqlite_looks_up_what_is_asked_for(database: Database) -> None:
    """It has no statistics, and would otherwise read everything an organization has."""
    if database.dialect == "postgresql":
        pytest.skip("PostgreSQL chooses by statistics, which a small table does not have")
    with database.reading() as tx:
        for statement in (
            entries._fingerprints(tx),
            tracking._stored(tx),
            customers._by_identity(tx),
            customers._by_name(tx),
        ):
            words = statement.compile(dialect=sqlite.dialect())
            plan = tx.session.connection().exec_driver_sql(
                f"EXPLAIN QUERY PLAN {words}", tuple(words.params.values())
            )
            steps = [row[3] for row in plan]
            assert steps[0].startswith("SCAN asked_listed")
            assert steps[1].startswith("SEARCH")
            assert "organization_id=? AND" in steps[1]
