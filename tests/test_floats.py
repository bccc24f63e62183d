"""The trap that the whole suite runs in: see `tests/conftest.py`."""

import threading
from decimal import Decimal, FloatOperation

import pytest
from sqlalchemy import text

from usageflow.db.session import Database


def test_a_float_becomes_no_decimal() -> None:
    """Neither here nor in a new thread can a float slip into a quantity."""
    caught: list[type[BaseException]] = []

    def convert() -> None:
        try:
            Decimal(1 / 10)
        except FloatOperation as error:
            caught.append(type(error))

    thread = threading.Thread(target=convert)
    thread.start()
    thread.join()
    assert caught == [FloatOperation]
    with pytest.raises(FloatOperation):
        Decimal(1 / 10)
    with pytest.raises(FloatOperation):
        assert Decimal("0.1") < 0.2


def test_no_float_is_stored(database: Database) -> None:
    """A float on its way to a database is noticed, whatever column it is for."""
    with pytest.raises(AssertionError, match="a float"), database.transaction() as tx:
        tx.session.execute(text("SELECT :amount"), {"amount": 0.1})
