"""Statements both databases spell alike, but SQLAlchemy keeps in two dialects."""

from collections.abc import Collection, Sequence
from typing import Any, cast

import msgspec
from sqlalchemy import BigInteger, ColumnElement, any_, column, func, literal, select
from sqlalchemy import Row as ResultRow
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY

from usageflow.db.columns import Row, table
from usageflow.db.session import Tx


def insert(tx: Tx, row: type[Row]) -> postgresql.Insert:
    """An INSERT that knows ON CONFLICT."""
    if tx.dialect == "sqlite":
        return cast("postgresql.Insert", sqlite.insert(table(row)))
    return postgresql.insert(table(row))


def insert_new(
    tx: Tx, row: type[Row], rows: Sequence[dict[str, Any]], *, key: Sequence[str], give: str
) -> list[ResultRow[Any]]:
    """Insert those of `rows` whose unique `key` is not there yet, in one statement.

    The columns `key` and `give` of what was inserted. PostgreSQL waits for another transaction
    that inserts the same key; rows in one order everywhere keep two such from waiting in a circle,
    so they are inserted in the order of their key.
    """
    if not rows:
        return []
    target = table(row)
    columns = [target.c[name] for name in dict.fromkeys([*key, give])]
    statement = insert(tx, row).on_conflict_do_nothing(index_elements=key).returning(*columns)
    ordered = sorted(rows, key=lambda values: [values[name] for name in key])
    return list(tx.session.execute(statement, ordered))


def among(tx: Tx, ids: "ColumnElement[Any]", values: Collection[int]) -> ColumnElement[bool]:
    """`ids IN (values)` with all values as one parameter: thousands cost no more than one."""
    if tx.dialect == "sqlite":
        listed = func.json_each(msgspec.json.encode(list(values)).decode())
        return ids.in_(select(column("value")).select_from(listed))
    return ids == any_(literal(list(values), ARRAY(BigInteger)))
