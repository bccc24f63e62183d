"""Decimals and instants survive both databases unchanged."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, insert, literal, select, text
from sqlalchemy.exc import StatementError

from usageflow.db.exact import (
    ExactDecimal,
    UtcDateTime,
    add,
    decimal_add,
    decimal_sum,
    plain,
    utc_hour,
)
from usageflow.db.session import Database
from usageflow.periods import hour_start

VALUES = Table(
    "exact_values",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("amount", ExactDecimal),
    Column("at", UtcDateTime),
)

LONG = Decimal("123456789012345678901234567890.123456789012")


@pytest.fixture
def stored(database: Database) -> Database:
    """A database with a table of exact values."""
    with database.transaction() as tx:
        VALUES.create(tx.session.connection())
    return database


def test_a_long_decimal_comes_back_as_it_was(stored: Database) -> None:
    """42 digits, the smallest quantity, zero and NULL survive; a float would keep 17 digits."""
    amounts = [LONG, Decimal("0.000000000001"), Decimal(0), Decimal("1E+3"), None]
    with stored.transaction() as tx:
        tx.session.execute(insert(VALUES), [{"amount": amount} for amount in amounts])
    with stored.reading() as tx:
        found = list(tx.session.scalars(select(VALUES.c.amount).order_by(VALUES.c.id)))
    assert found == amounts


def test_sums_in_the_database_are_exact(stored: Database) -> None:
    """Ten times 0.1 is 1, a long number plus a tiny one loses nothing, and nothing sums to NULL."""
    with stored.transaction() as tx:
        tx.session.execute(insert(VALUES), [{"amount": Decimal("0.1")}] * 10)
        assert tx.session.scalar(select(decimal_sum(VALUES.c.amount))) == Decimal(1)
        none = select(decimal_sum(VALUES.c.amount)).where(VALUES.c.id < 0)
        assert tx.session.scalar(none) is None
        tiny = literal(Decimal("0.000000000001"), ExactDecimal)
        both = select(decimal_add(literal(LONG, ExactDecimal), tiny))
        assert tx.session.scalar(both) == Decimal("123456789012345678901234567890.123456789013")
        tx.session.execute(insert(VALUES), [{"amount": None}])
        assert tx.session.scalar(select(decimal_sum(VALUES.c.amount))) == Decimal(1)


def test_hours_in_the_database_are_ours(stored: Database) -> None:
    """The UTC hour of an instant, also before 1970, on its edges and from a zone of half hours."""
    instants = [
        datetime(2026, 3, 1, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(2026, 3, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1906, 1, 1, tzinfo=UTC),
    ]
    with stored.transaction() as tx:
        tx.session.execute(insert(VALUES), [{"at": instant} for instant in instants])
    hour = utc_hour(VALUES.c.at)
    with stored.reading() as tx:
        found = list(tx.session.scalars(select(hour).group_by(hour).order_by(hour)))
    assert found == sorted(hour_start(instant) for instant in instants)


def test_instants_come_back_in_utc(stored: Database) -> None:
    """Another zone's instant is the same instant in UTC; so are those of 1906, 9999 and no time."""
    odd = datetime(2026, 3, 1, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    instants = [
        odd,
        datetime(1906, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        None,
    ]
    with stored.transaction() as tx:
        tx.session.execute(insert(VALUES), [{"at": instant} for instant in instants])
    with stored.reading() as tx:
        found = list(tx.session.scalars(select(VALUES.c.at).order_by(VALUES.c.id)))
    assert found == instants
    assert {instant.tzinfo for instant in found if instant} == {UTC}


def test_instants_compare_in_the_database(stored: Database) -> None:
    """Order and comparison in SQL are those of time."""
    early, late = datetime(1969, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    with stored.transaction() as tx:
        tx.session.execute(insert(VALUES), [{"at": late}, {"at": early}])
        assert tx.session.scalar(select(VALUES.c.at).where(VALUES.c.at < late)) == early


def test_a_naive_instant_is_refused(stored: Database) -> None:
    """A datetime without a zone could be any moment."""
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the point of the test
    with pytest.raises(StatementError, match="no time zone"), stored.transaction() as tx:
        tx.session.execute(insert(VALUES), [{"at": naive}])


def test_sqlite_keeps_text_not_reals(tmp_path: object) -> None:
    """On SQLite the stored value is the number's plain text."""
    database = Database.open(f"sqlite:///{tmp_path}/plain.db")
    database.migrate()
    with database.transaction() as tx:
        VALUES.create(tx.session.connection())
        tx.session.execute(insert(VALUES), [{"amount": Decimal("1.10")}])
        kind = tx.session.execute(text("SELECT typeof(amount), amount FROM exact_values")).one()
    database.close()
    assert tuple(kind) == ("text", "1.10")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, max_value=10**25))
def test_plain_notation_is_the_same_number(value: Decimal) -> None:
    """`plain` has no exponent and loses nothing."""
    assert "E" not in plain(value)
    assert Decimal(plain(value)) == value


def test_addition_ignores_the_decimal_context() -> None:
    """The context's 28 digits do not round a sum."""
    assert add(LONG, Decimal(1)) == Decimal("123456789012345678901234567891.123456789012")
