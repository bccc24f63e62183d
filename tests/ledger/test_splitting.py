"""Quantities in amounts that Stripe takes."""

import decimal
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.ledger.splitting import PARTS_MAX, UNIT_DIGITS_MAX, digits, split


@given(
    st.one_of(
        st.decimals(-(10**16), 10**16, allow_nan=False, places=12),
        st.integers(-(10**17), 10**17).map(Decimal),
    )
)
def test_the_amounts_add_up_and_each_is_small_enough(quantity: Decimal) -> None:
    """Exactly, and none is zero or larger than Stripe takes, unless it cannot be split at all."""
    amounts = split(quantity)
    with decimal.localcontext(prec=100):
        assert sum(amounts) == quantity
    assert len(amounts) <= PARTS_MAX
    if amounts != [quantity]:
        assert all(amount and digits(amount) <= UNIT_DIGITS_MAX for amount in amounts)
    elif digits(quantity) > UNIT_DIGITS_MAX:
        assert abs(quantity) > (PARTS_MAX - 2) * 10**UNIT_DIGITS_MAX


@pytest.mark.parametrize(
    ("quantity", "amounts"),
    [
        ("0", ["0"]),
        ("999999999999999", ["999999999999999"]),
        ("1000000000000000", ["999999999999999", "1"]),
        ("-1000000000000000.5", ["-999999999999999", "-1", "-0.5"]),
        ("1.000000000000", ["1.000000000000"]),
        ("123456789.123456789", ["123456789", "0.123456789"]),
        ("0.12345678901234567", ["0.123456789012345", "0.00000000000000067"]),
        ("1" + "0" * 30, ["1" + "0" * 30]),
    ],
)
def test_examples(quantity: str, amounts: list[str]) -> None:
    """As a person would do it."""
    assert [format(amount, "f") for amount in split(Decimal(quantity))] == amounts
