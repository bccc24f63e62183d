"""What every table is made of: the row's base class, and the kinds of columns.

No table is here.
"""

from typing import Any, ClassVar, cast

from pydantic_core import PydanticUndefined
from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, MetaData, Table, Text, text
from sqlmodel import Field, SQLModel

from usageflow.db.exact import BIG_ID, ExactDecimal, UtcDateTime


class Row(SQLModel):
    """The base of every table, with our own metadata and constraint names."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def table(row: type[Row]) -> Table:
    """The table behind a row class, for statements over many rows."""
    return cast("Table", row.__table__)  # type: ignore[attr-defined]  # SQLModel adds it


def key_column(*references: str, **options: Any) -> Any:
    """A text column of the primary key."""
    return Field(sa_column=Column(Text, *map(ForeignKey, references), primary_key=True, **options))


def text_column(*references: str, **options: Any) -> Any:
    """A text column that is always there. A `default` is the row's as well as the column's."""
    column = Column(Text, *map(ForeignKey, references), nullable=False, **options)
    default = options.get("default", PydanticUndefined)
    if callable(default):
        return Field(default_factory=default, sa_column=column)
    return Field(default=default, sa_column=column)


def optional_text(*references: str) -> Any:
    """A text column that may be NULL."""
    return Field(default=None, sa_column=Column(Text, *map(ForeignKey, references), nullable=True))


def instant() -> Any:
    """A moment that is always there."""
    return Field(sa_column=Column(UtcDateTime, nullable=False))


def maybe_instant() -> Any:
    """A moment that may be NULL."""
    return Field(default=None, sa_column=Column(UtcDateTime, nullable=True))


def decimal_column(**options: Any) -> Any:
    """An exact decimal that is always there."""
    return Field(sa_column=Column(ExactDecimal, nullable=False), **options)


def maybe_decimal() -> Any:
    """An exact decimal that may be NULL."""
    return Field(default=None, sa_column=Column(ExactDecimal, nullable=True))


def amount_column(**options: Any) -> Any:
    """An amount of money in the minor unit of its currency, 64 bits."""
    return Field(sa_column=Column(BigInteger, nullable=False), **options)


def big_column() -> Any:
    """A 64-bit number that may be NULL."""
    return Field(default=None, sa_column=Column(BIG_ID, nullable=True))


def counter() -> Any:
    """A key that counts up by itself."""
    return Field(default=None, sa_column=Column(BIG_ID, primary_key=True, autoincrement=True))


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A CHECK that a column has one of these words."""
    return CheckConstraint(is_one_of(column, values), name=f"{column}_known")


def is_one_of(column: str, values: tuple[str, ...]) -> str:
    """The condition that it has."""
    return f"{column} IN {values!r}"


def where(condition: str) -> dict[str, Any]:
    """Options of a partial index."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}
