"""Tables that come with a statement: thousands of rows are one parameter, a JSON array of rows.

Both databases take one apart fast and exactly. What is done with the rows is the caller's.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Join,
    Numeric,
    Select,
    Subquery,
    Table,
    Text,
    and_,
    cast,
    func,
    literal,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
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
_CASTS: Final[Mapping[Kind, TypeEngine[Any]]] = {
    "text": Text(),
    "whole": BigInteger(),
    "decimal": Numeric(),
    "instant": DateTime(timezone=True),
}
"""What PostgreSQL reads a value's text as."""


def given(
    tx: Tx, name: str, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]
) -> Select[Any]:
    """The rows, at least one, as `SELECT columns`, in their order; `name` is free to choose."""
    encoded = _encoded(tx, columns, rows)
    if tx.dialect == "sqlite":
        elements = func.json_each(literal(encoded))
    else:
        elements = func.jsonb_array_elements(cast(literal(encoded), JSONB))
    line = elements.table_valued("value", name=name).c.value
    return select(
        *(
            _field(tx, line, place, kind).label(column)
            for place, (column, kind) in enumerate(columns.items())
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


def _field(tx: Tx, line: ColumnElement[Any], place: int, kind: Kind) -> ColumnElement[Any]:
    if tx.dialect == "sqlite":
        return type_coerce(func.json_extract(line, literal(f"$[{place}]")), _TYPES[kind])
    text = line.op("->>")(literal_column(str(place)))
    return type_coerce(cast(text, _CASTS[kind]), _TYPES[kind])


def _encoded(tx: Tx, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]) -> str:
    stored = [
        _stored(tx, kind, values)
        for kind, values in zip(columns.values(), zip(*rows, strict=True), strict=True)
    ]
    return msgspec.json.encode(list(zip(*stored, strict=True))).decode()


def _stored(tx: Tx, kind: Kind, values: Sequence[Any]) -> Sequence[Any]:
    """A column as it is in JSON: decimals as text, instants as `db.exact` stores them."""
    if kind == "decimal":
        return [None if value is None else plain(value) for value in values]
    if kind == "instant" and tx.dialect == "sqlite":
        return [None if value is None else (value - _EPOCH) // _MICROSECOND for value in values]
    return values
