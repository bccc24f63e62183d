"""Tables that come with a statement: thousands of rows cost no more parameters than one.

PostgreSQL takes an array for each column, SQLite one JSON array of rows. What is done with them is
the caller's.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, Text, func, literal, select, type_coerce
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


def _from_json(
    name: str, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]
) -> Select[Any]:
    stored = [_STORED.get(kind, _as_it_is) for kind in columns.values()]
    lines = [
        [None if value is None else store(value) for store, value in zip(stored, row, strict=True)]
        for row in rows
    ]
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


def _as_it_is(value: Any) -> Any:
    return value


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


_STORED: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "decimal": plain,
    "instant": _microseconds,
}
"""How SQLite stores what JSON has no word for (`db.exact`)."""
