"""Amounts, prices, days and periods as people read them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow.billing import display
from usageflow.money import CURRENCIES, from_minor


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (12_000, "USD", "120.00"),
        (123_456_789, "EUR", "1,234,567.89"),
        (-500, "USD", "-5.00"),
        (500, "JPY", "500"),
        (5_120, "KWD", "5.120"),
        (500, "ISK", "5"),
        (0, "USD", "0.00"),
    ],
)
def test_an_amount_has_the_digits_of_its_currency(minor: int, currency: str, text: str) -> None:
    """None of the yen, three of the dinar; what Stripe counts in hundredths without using them
    has none either.
    """
    assert display.amount(minor, currency) == text
    assert display.money(minor, currency) == f"{currency} {text}"


@settings(deadline=None)
@given(
    st.integers(-(10**15), 10**15).map(lambda steps: steps * 100),
    st.sampled_from(sorted(CURRENCIES)),
)
def test_an_amount_reads_back_as_it_was(minor: int, currency: str) -> None:
    """No digit is lost or made up on the way to paper."""
    assert Decimal(display.amount(minor, currency).replace(",", "")) == from_minor(minor, currency)


@pytest.mark.parametrize(
    ("price", "currency", "text"),
    [
        ("0.001", "USD", "0.001"),
        ("100", "USD", "100.00"),
        ("0.10", "USD", "0.10"),
        ("0.000000000001", "USD", "0.000000000001"),
        ("1234.5", "JPY", "1,234.5"),
        ("3", "JPY", "3"),
        ("1E+3", "USD", "1,000.00"),
    ],
)
def test_a_price_has_all_its_decimals(price: str, currency: str, text: str) -> None:
    """And no fewer than an amount would have."""
    assert display.price(Decimal(price), currency) == text


def at(text: str) -> datetime:
    """A moment of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_day_is_the_day_of_the_place() -> None:
    """An hour before midnight in London is the next day in Berlin."""
    assert display.day(at("2025-03-31T22:30"), "UTC") == "31 March 2025"
    assert display.day(at("2025-03-31T22:30"), "Europe/Berlin") == "1 April 2025"
    assert display.moment(at("2025-03-31T22:30"), "Europe/Berlin") == "1 April 2025 00:30"
    assert display.moment(at("2025-03-31T22:30:05"), "UTC") == "31 March 2025 22:30:05"


@pytest.mark.parametrize(
    ("start", "end", "zone", "text"),
    [
        ("2025-03-01", "2025-04-01", "UTC", "1 - 31 March 2025"),
        ("2025-03-15", "2025-04-15", "UTC", "15 March - 14 April 2025"),
        ("2025-12-15", "2026-01-15", "UTC", "15 December 2025 - 14 January 2026"),
        ("2025-03-01", "2025-03-02", "UTC", "1 March 2025"),
        ("2025-02-28T23:00", "2025-03-31T22:00", "Europe/Berlin", "1 - 31 March 2025"),
        ("2025-03-01", "2025-03-01T12:00", "UTC", "1 March 2025 00:00 - 1 March 2025 12:00"),
        (
            "2025-03-01T10:30",
            "2025-04-01T10:30",
            "UTC",
            "1 March 2025 10:30 - 1 April 2025 10:30",
        ),
    ],
)
def test_a_period_of_whole_days_ends_on_its_last_day(
    start: str, end: str, zone: str, text: str
) -> None:
    """By the calendar of the place, through changes of the clock; others tell their moments."""
    assert display.span(at(start), at(end), zone) == text.replace(" - ", " \u2013 ")


@settings(deadline=None)
@given(st.dates(datetime(2020, 1, 1).date(), datetime(2040, 1, 1).date()), st.integers(1, 400))  # noqa: DTZ001 - a day
def test_the_last_day_is_the_one_before_the_end(first: object, days: int) -> None:
    """What a reader takes for the last day is billed, and the day after it is not."""
    start = datetime.combine(first, datetime.min.time(), UTC)  # type: ignore[arg-type]
    last = start + timedelta(days=days - 1)
    text = display.span(start, start + timedelta(days=days), "UTC")
    assert text.endswith(f"{last:%B} {last.year}")
