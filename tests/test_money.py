"""Stripe's minor units, rounding, and what can be a price."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.money import (
    CURRENCIES,
    EXACT,
    THREE_DECIMAL,
    TWO_DECIMAL,
    WHOLE_BY_RULE,
    ZERO_DECIMAL,
    currency_problem,
    from_minor,
    minor_digits,
    minor_step,
    plain,
    price_problem,
    shortest,
    to_minor,
)

currencies = st.sampled_from(sorted(CURRENCIES))
amounts = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("10", "USD", 1_000),
        ("145.20", "EUR", 14_520),
        ("500", "JPY", 500),
        ("500.5", "JPY", 501),
        ("5", "ISK", 500),
        ("5.49", "ISK", 500),
        ("5.5", "UGX", 600),
        ("5.12", "KWD", 5_120),
        ("5.124", "KWD", 5_120),
        ("5.125", "KWD", 5_130),
        ("10.45", "HUF", 1_045),
        ("800", "TWD", 80_000),
        ("0", "USD", 0),
    ],
)
def test_amounts_become_what_stripe_takes(amount: str, currency: str, minor: int) -> None:
    """The examples of docs.stripe.com/currencies, and the halves between them."""
    assert to_minor(Decimal(amount), currency) == minor


@pytest.mark.parametrize(
    ("amount", "minor"),
    [("0.005", 1), ("0.004999999999", 0), ("1.015", 102), ("-0.005", -1), ("-1.014999", -101)],
)
def test_a_half_goes_up_and_away_from_zero(amount: str, minor: int) -> None:
    """What is taken and what is given back are rounded alike."""
    assert to_minor(Decimal(amount), "USD") == minor


def test_a_fraction_is_rounded_without_a_decimal_between() -> None:
    """30 x 17/31 has no last digit, and is still 16.45."""
    assert to_minor(Fraction(30 * 17, 31), "USD") == 1_645
    assert to_minor(Fraction(1, 3) / 100 + Fraction(1, 600), "USD") == 1


@given(amounts, currencies)
def test_rounding_is_to_the_nearest_step(amount: Decimal, currency: str) -> None:
    """At most half a step away, a whole number of steps, and the same for the negative amount."""
    minor = to_minor(amount, currency)
    step = minor_step(currency)
    assert isinstance(minor, int)
    assert minor % step == 0
    assert abs(Fraction(amount) * 10 ** minor_digits(currency) - minor) <= Fraction(step, 2)
    assert to_minor(-amount, currency) == -minor


@given(amounts, amounts, currencies)
def test_rounding_keeps_order(one: Decimal, other: Decimal, currency: str) -> None:
    """More is never rounded to less."""
    least, most = sorted((one, other))
    assert to_minor(least, currency) <= to_minor(most, currency)


@given(st.integers(-(10**40), 10**40), currencies)
def test_minor_units_come_back(steps: int, currency: str) -> None:
    """As an amount with every digit the currency has, however large it is."""
    minor = steps * minor_step(currency)
    amount = from_minor(minor, currency)
    assert to_minor(amount, currency) == minor
    assert amount.as_tuple().exponent == -minor_digits(currency)


def test_the_current_decimal_context_does_not_matter() -> None:
    """An application may have set another precision for itself."""
    with localcontext() as context:
        context.prec = 3
        assert to_minor(Decimal("1234567.895"), "USD") == 123_456_790
        assert from_minor(123_456_790, "USD") == Decimal("1234567.90")
        assert plain(Decimal("1234567.8900")) == "1234567.89"
        assert EXACT.add(Decimal(1234567), Decimal("0.01")) == Decimal("1234567.01")


def test_the_currencies_are_disjoint() -> None:
    """Each has one number of digits; three letters each, and as many as Stripe speaks of."""
    tables = (ZERO_DECIMAL, THREE_DECIMAL, WHOLE_BY_RULE, TWO_DECIMAL)
    assert sum(map(len, tables)) == len(CURRENCIES)
    assert len(CURRENCIES) >= 135
    assert all(len(code) == 3 and code.isalpha() and code.isupper() for code in CURRENCIES)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("USD", None),
        ("JPY", None),
        ("usd", "write USD, in capital letters"),
        ("US", "'US' is not a currency Stripe charges in"),
        ("XXX", "'XXX' is not a currency Stripe charges in"),
        ("", "'' is not a currency Stripe charges in"),
    ],
)
def test_an_unknown_currency_is_refused_with_words(code: str, problem: str | None) -> None:
    """And no amount is ever read as hundredths by mistake."""
    told = currency_problem(code)
    if problem is None:
        assert told is None
        return
    assert told is not None
    assert told.startswith(problem)
    for refuse in (minor_digits, minor_step):
        with pytest.raises(ValueError, match=problem):
            refuse(code)


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        ("0", None),
        ("0.000000000001", None),
        ("999999999999.999999999999", None),
        ("1E+11", None),
        ("NaN", "NaN is not a number"),
        ("sNaN", "sNaN is not a number"),
        ("Infinity", "Infinity is not a number"),
        ("-0.01", "negative; what is given back is a credit note, not a price"),
        ("0.0000000000001", "13 digits after the point; at most 12 are kept"),
        ("1E+12", "13 digits before the point; at most 12"),
        ("1E+999999999", "1000000000 digits before the point; at most 12"),
    ],
)
def test_prices_are_bounded(price: str, problem: str | None) -> None:
    """Numbers of which a product with any quantity is exact."""
    assert price_problem(Decimal(price)) == problem


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12))
def test_equal_numbers_have_one_text(value: Decimal) -> None:
    """However many zeros they came with, and the text is the number."""
    assert plain(value) == plain(EXACT.add(value, Decimal("0.00000000000000")))
    assert Decimal(plain(value)) == value
    assert "E" not in plain(value)
    assert plain(shortest(value)) == str(shortest(value)) or abs(value) < Decimal("0.000001")


def test_zero_is_zero() -> None:
    """Without a sign, without an exponent."""
    assert [plain(Decimal(zero)) for zero in ("0", "-0", "0E-12", "0E+5")] == ["0"] * 4
