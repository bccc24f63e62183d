"""How amounts, prices, days and periods stand on paper and pages: exact, and the same everywhere.

Pure. Numbers as English has them, 1,234.50; the currency is named by its code, which no reader can
take for another's dollar. Nothing is rounded here, but for a time of day, which has seconds.
"""

from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from usageflow.money import WHOLE_BY_RULE, from_minor, minor_digits, shortest

_MIDNIGHT: Final = time()
_TO: Final = " \u2013 "


def amount(minor: int, currency: str) -> str:
    """Minor units as an amount in the currency's digits: 123450 USD is 1,234.50, 5 JPY is 5."""
    return f"{from_minor(minor, currency):,.{_digits(currency)}f}"


def money(minor: int, currency: str) -> str:
    """An amount and its currency: USD 1,234.50."""
    return f"{currency} {amount(minor, currency)}"


def price(value: Decimal, currency: str) -> str:
    """A price with all its decimals, and no fewer than the currency has: 0.001, 100.00."""
    exact = shortest(value)
    exponent = exact.as_tuple().exponent
    assert isinstance(exponent, int)  # noqa: S101 - prices are finite
    return f"{exact:,.{max(-exponent, _digits(currency))}f}"


def day(instant: datetime, zone: str) -> str:
    """The day there: 1 April 2025."""
    local = instant.astimezone(ZoneInfo(zone))
    return f"{local.day} {local:%B} {local.year}"


def moment(instant: datetime, zone: str) -> str:
    """Day and wall clock there: 1 April 2025 10:30."""
    local = instant.astimezone(ZoneInfo(zone))
    seconds = ":%S" if local.second else ""
    return f"{day(instant, zone)} {local.strftime('%H:%M' + seconds)}"


def span(start: datetime, end: datetime, zone: str) -> str:
    """A period. Of whole days there, its first and its last day: 1 - 31 March 2025, with a dash.

    Any other one tells the moments it begins and ends at.
    """
    here = ZoneInfo(zone)
    first, behind = start.astimezone(here), end.astimezone(here)
    if (first.time(), behind.time()) != (_MIDNIGHT, _MIDNIGHT):
        return moment(start, zone) + _TO + moment(end, zone)
    last = behind.replace(tzinfo=None) - timedelta(days=1)
    until = f"{last.day} {last:%B} {last.year}"
    if first.date() >= last.date():
        return day(start, zone)
    if (first.year, first.month) == (last.year, last.month):
        return f"{first.day}{_TO}{until}"
    if first.year == last.year:
        return f"{first.day} {first:%B}{_TO}{until}"
    return day(start, zone) + _TO + until


def _digits(currency: str) -> int:
    """Those a person writes: Stripe's two of a currency without fractions are always 00."""
    return 0 if currency in WHOLE_BY_RULE else minor_digits(currency)
