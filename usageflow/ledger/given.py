"""Tables that come with a statement: thousands of rows are one parameter, a JSON array of rows.

Both databases take one apart fast and exactly. What is done with the rows is the caller's.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Join,
    Numeric,
    Select,
    Table,
    Text,
    and_,
    bindparam,
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
Built = TypeVar("Built")

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


def prepared(build: Callable[[Tx], Built]) -> Callable[[Tx], Built]:
    """A statement that is built once for each database: building costs more than executing it.

    Whatever differs from one execution to the next must be a parameter of it.
    """
    built: dict[str, Built] = {}

    @wraps(build)
    def statement(tx: Tx) -> Built:
        if tx.dialect not in built:
            built[tx.dialect] = build(tx)
        return built[tx.dialect]

    return statement


def given(
    tx: Tx, name: str, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]] = ()
) -> Select[Any]:
    """`SELECT columns` from rows in their order, which the parameter `name` has (`encoded`), or
    which are given now.
    """
    parameter = bindparam(name, encoded(tx, columns, rows), Text())
    if tx.dialect == "sqlite":
        elements = func.json_each(parameter)
    else:
        elements = func.jsonb_array_elements(cast(parameter, JSONB))
    line = elements.table_valued("value", name=f"{name}_listed").c.value
    return select(
        *(
            _field(tx, line, place, kind).label(column)
            for place, (column, kind) in enumerate(columns.items())
        )
    )


def looked_up(
    tx: Tx,
    target: Table,
    columns: Mapping[str, Kind],
    rows: Sequence[Sequence[Any]] = (),
    *,
    name: str = "asked",
) -> Join:
    """The rows of `target` that have these values in `columns`, as `given` has them.

    `organization_id` is one of the columns: were it a constant, databases without statistics would
    read everything the organization has, and look for each row of it among the few here. So they
    look up each of these in the index instead.
    """
    wanted = given(tx, name, columns, rows).subquery(name)
    same = [target.c[column] == wanted.c[column] for column in columns]
    return wanted.join(target, and_(*same))


def encoded(tx: Tx, columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]) -> str:
    """The rows as the one parameter of what is `given`."""
    stored = [
        _stored(tx, kind, values)
        for kind, values in zip(columns.values(), zip(*rows, strict=True), strict=bool(rows))
    ]
    return msgspec.json.encode(list(zip(*stored, strict=True))).decode()


def _field(tx: Tx, line: ColumnElement[Any], place: int, kind: Kind) -> ColumnElement[Any]:
    if tx.dialect == "sqlite":
        return type_coerce(func.json_extract(line, literal(f"$[{place}]")), _TYPES[kind])
    text = line.op("->>")(literal_column(str(place)))
    return type_coerce(cast(text, _CASTS[kind]), _TYPES[kind])


def _stored(tx: Tx, kind: Kind, values: Sequence[Any]) -> Sequence[Any]:
    """A column as it is in JSON: decimals as text, instants as `db.exact` stores them."""
    if kind == "decimal":
        return [None if value is None else plain(value) for value in values]
    if kind == "instant" and tx.dialect == "sqlite":
        return [None if value is None else (value - _EPOCH) // _MICROSECOND for value in values]
    return values
