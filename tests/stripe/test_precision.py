"""What a binary float tells of an exact sum: no drift that it can show is missed or made larger."""

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from usageflow.stripe.precision import WHOLE_MAX, gap, is_gap, is_sure

ALL_SURE = 10**15
WHOLE = st.integers(0, WHOLE_MAX - 1).map(Decimal)
USAGE = st.decimals(0, ALL_SURE, places=12, allow_nan=False, allow_infinity=False)
LARGE = st.decimals(0, 10**26, places=12, allow_nan=False, allow_infinity=False)


def shown(value: Decimal | int | str) -> Decimal:
    """A sum as Stripe shows it, and our client reads it."""
    return Decimal(str(float(Decimal(value))))


@given(LARGE | WHOLE)
def test_what_is_there_exactly_agrees(value: Decimal) -> None:
    """However large, and however many digits it has."""
    assert gap(value, shown(value)) == 0


@given(st.lists(st.decimals(0, 10**9, places=3), min_size=1, max_size=4))
def test_floats_that_were_added_up_agree(values: list[Decimal]) -> None:
    """If it is floats that Stripe adds: their last digits are not sure."""
    assume(sum(values) < 10**9)
    assert gap(Decimal(sum(values)), Decimal(str(sum(map(float, values))))) == 0


@given(WHOLE, WHOLE)
def test_whole_numbers_are_exact(expected: Decimal, observed: Decimal) -> None:
    """Everywhere below 2**53, and so is what lacks."""
    assert gap(expected, shown(observed)) == expected - observed
    assert is_sure(expected, shown(observed))


@given(WHOLE, st.sampled_from([-1, 1]))
def test_a_drift_of_one_is_always_seen(expected: Decimal, one: int) -> None:
    """Everywhere below 2**53."""
    observed = expected + one
    assume(0 <= observed < WHOLE_MAX)
    assert gap(expected, shown(observed)) == -one


@given(
    st.decimals(0, 2**52 - 2, places=12, allow_nan=False, allow_infinity=False),
    st.sampled_from([-1, 1]),
)
def test_a_drift_of_one_is_seen_beside_fractions(expected: Decimal, one: int) -> None:
    """Wherever a float has halves: there it is exactly one, whatever is rounded."""
    assert gap(expected, shown(expected + one)) == -one


@given(USAGE, USAGE)
def test_what_lacks_is_told_as_far_as_it_is_sure(expected: Decimal, there: Decimal) -> None:
    """To less than one in the 15th digit, also once that much was sent."""
    quantity = gap(expected, shown(there))
    last_digit = Decimal(1).scaleb(max(-12, max(expected, there).adjusted() - 14))
    assert abs(quantity - (expected - there)) < last_digit
    assert abs(gap(expected, shown(there + quantity))) < last_digit or last_digit.adjusted() == -12


@given(LARGE, LARGE)
def test_nobody_is_told_more_than_what_is_known(expected: Decimal, there: Decimal) -> None:
    """What is said to be sure is what is missing, but for its rounding; beyond 2**53 nothing is."""
    observed = shown(there)
    if is_sure(expected, observed):
        assert max(expected, there) < WHOLE_MAX
        assert abs(gap(expected, observed) - (expected - there)) < 1
    else:
        assert max(expected, there) >= ALL_SURE - 1


def test_both_sides_are_told_alike() -> None:
    """A float beyond 2**53 is always whole, which says nothing of what was added up."""
    expected = Decimal("10000000000000180.931465")
    assert gap(expected, shown(expected)) == 0
    assert gap(expected, shown(10_000_000_000_000_160)) == 21
    assert not is_sure(expected, shown(10_000_000_000_000_160))


def test_nothing_finer_than_usage_lacks() -> None:
    """Nothing has more than 12 digits behind the point; what floats leave there is theirs."""
    assert gap(Decimal(0), Decimal(str(0.1 + 0.2 - 0.3))) == 0
    assert gap(Decimal("0.000000000002"), Decimal("1e-12")) == Decimal("1e-12")


@pytest.mark.parametrize(
    ("weight", "is_it"), [("7", True), ("7.000000000001", False), ("6", False), ("-7", False)]
)
def test_what_lacks_is_recognized(weight: str, *, is_it: bool) -> None:
    """If it is the same, as far as is told."""
    assert is_gap(Decimal(weight), Decimal(12), Decimal(5)) is is_it


def test_a_long_weight_is_recognized() -> None:
    """Beside a sum that hides its last digits."""
    weight = Decimal("5.000000000001")
    assert is_gap(weight, 123_456_789 + weight, shown(123_456_789))
