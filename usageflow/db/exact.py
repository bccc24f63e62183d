"""Column types and SQL functions that stay exact on both databases.

SQLite has neither exact decimals nor instants, so a decimal is stored there as text in plain
notation and an instant as whole microseconds since 1970 (UTC). PostgreSQL uses NUMERIC and
timestamptz. Nothing here knows a table.
"""

import decimal
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Numeric, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

_EXACT: Final = decimal.Context(prec=100, traps=[decimal.Inexact, decimal.InvalidOperation])
"""A sum of quantities (38 digits, 12 of them decimals) never needs 100 digits; were one to, it
would raise rather than round."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_US: Final = 3_600_000_000

BIG_ID = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit key that counts up; only INTEGER does so on SQLite, where it has 64 bits as well."""


def add(left: Decimal, right: Decimal) -> Decimal:
    """The exact sum, whatever the current decimal context says."""
    return _EXACT.add(left, right)


def plain(value: Decimal) -> str:
    """`value` in plain notation, without an exponent."""
    if not value:
        return "0"
    text = str(value)  # three times as fast as format(), and the same but for exponents
    return format(value, "f") if "E" in text else text


class ExactDecimal(TypeDecorator[Decimal]):
    """An exact decimal of any length: NUMERIC on PostgreSQL, plain text on SQLite."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | str | None:
        """Python to database."""
        return plain(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Database to Python."""
        return Decimal(value) if value is not None and dialect.name == "sqlite" else value


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: timestamptz on PostgreSQL, whole microseconds on SQLite.

    Refuses naive values with ValueError; always yields aware UTC.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type on this database."""
        kind = BigInteger() if dialect.name == "sqlite" else DateTime(timezone=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | int | None:
        """Python to database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no time zone; UsageFlow needs one")
        if dialect.name == "sqlite":
            return (value - _EPOCH) // timedelta(microseconds=1)
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Database to Python."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return _EPOCH + timedelta(microseconds=value)
        instant: datetime = value
        return instant.astimezone(UTC)


class decimal_add(FunctionElement[Decimal]):  # noqa: N801 - named as the SQL function it is
    """`left + right`, exact on both databases."""

    type = ExactDecimal()
    inherit_cache = True


class decimal_sum(FunctionElement[Decimal]):  # noqa: N801 - named as the SQL function it is
    """The aggregate `sum(value)`, exact on both databases."""

    type = ExactDecimal()
    inherit_cache = True


class decimal_greatest(FunctionElement[Decimal]):  # noqa: N801 - named as the SQL function it is
    """The greater of two, exact on both databases."""

    type = ExactDecimal()
    inherit_cache = True


class utc_hour(FunctionElement[datetime]):  # noqa: N801 - named as the SQL function it is
    """The beginning of an instant's UTC hour, as `usageflow.periods` has it."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(utc_hour, "sqlite")
def _hour_on_sqlite(element: utc_hour, compiler: SQLCompiler, **kw: Any) -> str:
    at = compiler.process(element.clauses, **kw)
    # the remainder twice: that of an instant before 1970 is negative
    return f"({at} - ({at} % {_HOUR_US} + {_HOUR_US}) % {_HOUR_US})"


@compiles(utc_hour, "postgresql")
def _hour_on_postgresql(element: utc_hour, compiler: SQLCompiler, **kw: Any) -> str:
    return f"date_trunc('hour', {compiler.process(element.clauses, **kw)}, 'UTC')"


@compiles(decimal_add, "sqlite")
def _add_on_sqlite(element: decimal_add, compiler: SQLCompiler, **kw: Any) -> str:
    return f"decimal_add({compiler.process(element.clauses, **kw)})"


@compiles(decimal_add, "postgresql")
def _add_on_postgresql(element: decimal_add, compiler: SQLCompiler, **kw: Any) -> str:
    left, right = element.clauses
    return f"({compiler.process(left, **kw)} + {compiler.process(right, **kw)})"


@compiles(decimal_greatest, "sqlite")
def _greatest_on_sqlite(element: decimal_greatest, compiler: SQLCompiler, **kw: Any) -> str:
    return f"decimal_greatest({compiler.process(element.clauses, **kw)})"


@compiles(decimal_greatest, "postgresql")
def _greatest_on_postgresql(element: decimal_greatest, compiler: SQLCompiler, **kw: Any) -> str:
    return f"GREATEST({compiler.process(element.clauses, **kw)})"


@compiles(decimal_sum, "sqlite")
def _sum_on_sqlite(element: decimal_sum, compiler: SQLCompiler, **kw: Any) -> str:
    return f"decimal_sum({compiler.process(element.clauses, **kw)})"


@compiles(decimal_sum, "postgresql")
def _sum_on_postgresql(element: decimal_sum, compiler: SQLCompiler, **kw: Any) -> str:
    return f"sum({compiler.process(element.clauses, **kw)})"


class _DecimalSum:
    """SQLite's side of `decimal_sum`."""

    def __init__(self) -> None:
        self._total: Decimal | None = None

    def step(self, value: str | None, /) -> None:
        """Take one row's value."""
        if value is not None:
            self._total = add(self._total or Decimal(0), Decimal(value))

    def finalize(self) -> str | None:
        """The sum of the group, NULL for none."""
        return None if self._total is None else plain(self._total)


def register(connection: sqlite3.Connection) -> None:
    """Teach one SQLite connection `decimal_add`, `decimal_greatest` and `decimal_sum`."""
    connection.create_function("decimal_add", 2, _decimal_add, deterministic=True)
    connection.create_function("decimal_greatest", 2, _decimal_greatest, deterministic=True)
    connection.create_aggregate("decimal_sum", 1, _DecimalSum)  # type: ignore[arg-type]
    # typeshed has only int arguments in mind


def _decimal_add(left: str, right: str) -> str:
    return plain(add(Decimal(left), Decimal(right)))


def _decimal_greatest(left: str, right: str) -> str:
    return left if Decimal(left) >= Decimal(right) else right
