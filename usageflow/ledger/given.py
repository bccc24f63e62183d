"""Tables that come with a statement: thousands of rows cost no more parameters than one.

PostgreSQL takes an array for each column, SQLite one JSON array of rows. What is done with them is
the caller's.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Join,
    Select,
    Subquery,
    Table,
    Text,
    and_,
    func,
    literal,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.elements import NamedColumn
from sqlalchemy.sql.sqltypes import DateTime, Numeric
from sqlalchemy.types import TypeEngine

from usageflow.db.exact import ExactDecimal, UtcDateTime, plain
from usageflow.db.session import Tx

Kind: TypeAlias = Literal["text", "whole", "decimal", "instant"]
"""What a column holds, or NULL."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TYPES: Final[Mapping[Kind, TypeEngine[Any]]] = {
    "text": Text(),
    "whole": BigInteger(),
    "decimal": ExactDecimal(),
    "instant": UtcDateTime(),
}
_ARRAYS: Final[Mapping[Kind, TypeEngine[Any]]] = {
    "text": ARRAY(Text()),
    "whole": ARRAY(BigInteger()),
    "decimal": ARRAY(Numeric()),
    "instant": ARRAY(DateTime(timezone=True)),
}


def given(
    tx: Tx, name: str, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]
) -> Select[Any]:
    """The rows, at least one, as `SELECT columns`, in their order; `name` is free to choose."""
    if tx.dialect == "sqlite":
        return _from_json(name, columns, rows)
    arrays = [
        literal(list(values), _ARRAYS[kind])
        for values, kind in zip(zip(*rows, strict=True), columns.values(), strict=True)
    ]
    listed = func.unnest(*arrays).table_valued(*columns).render_derived(name=name)
    return select(
        *(
            type_coerce(listed.c[column], _TYPES[kind]).label(column)
            for column, kind in columns.items()
        )
    )


def asked(
    tx: Tx, organization_id: str, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]
) -> Subquery:
    """The rows, each with its `organization_id`, to join a table's rows to them by both.

    SQLite has no statistics, and takes the few for many where it can: it would read all rows of the
    organization and look for each among those asked for. As the organization is known only from
    the rows here, it looks up each of these in the table's index instead.
    """
    if tx.dialect == "sqlite":
        named: dict[str, Kind] = {"organization_id": "text", **columns}
        whose = [(organization_id, *row) for row in rows]
        return given(tx, "listed", named, whose).subquery("asked")
    ours = literal(organization_id).label("organization_id")
    return given(tx, "listed", columns, rows).add_columns(ours).subquery("asked")


def looked_up(
    tx: Tx,
    organization_id: str,
    target: Table,
    columns: Mapping[str, Kind],
    rows: Sequence[Sequence[Any]],
) -> Join:
    """The rows of `target` that belong to the organization and have these values in `columns`."""
    wanted = asked(tx, organization_id, columns, rows)
    same = [target.c[name] == wanted.c[name] for name in ("organization_id", *columns)]
    return wanted.join(target, and_(*same))


def _from_json(
    name: str, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]
) -> Select[Any]:
    stored = [
        _stored(kind, values)
        for kind, values in zip(columns.values(), zip(*rows, strict=True), strict=True)
    ]
    lines = list(zip(*stored, strict=True))
    listed = func.json_each(msgspec.json.encode(lines).decode()).table_valued("value", name=name)
    return select(
        *(
            _field(listed.c.value, place, kind, column)
            for place, (column, kind) in enumerate(columns.items())
        )
    )


def _field(line: ColumnElement[Any], place: int, kind: Kind, column: str) -> NamedColumn[Any]:
    found = func.json_extract(line, literal(f"$[{place}]"))
    return type_coerce(found, _TYPES[kind]).label(column)


def _stored(kind: Kind, values: Sequence[Any]) -> Sequence[Any]:
    """A column as SQLite stores what JSON has no word for (`db.exact`)."""
    if kind == "decimal":
        return [None if value is None else plain(value) for value in values]
    if kind == "instant":
        return [None if value is None else (value - _EPOCH) // _MICROSECOND for value in values]
    return values
