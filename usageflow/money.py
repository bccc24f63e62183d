"""Amounts of money: exact decimals of a currency while computed, integers of minor units once owed.

The minor units are Stripe's, not ISO 4217's: docs.stripe.com/currencies, sections "Zero-decimal
currencies", "Three-decimal currencies" and "Special cases". How an amount comes about is
`billing.pricing`; how it looks to a reader of another language is not known here.
"""

import decimal
from decimal import Decimal
from fractions import Fraction
from typing import Final

EXACT: Final = decimal.Context(prec=100, traps=[decimal.Inexact, decimal.InvalidOperation])
"""Arithmetic that raises rather than rounds. A quantity has 38 digits and a price 24: no product
of a sum of quantities needs 100."""
PRICE_DECIMALS_MAX: Final = 12
"""Digits of a price after the point; the precision of Stripe's `unit_amount_decimal`."""
PRICE_WHOLE_DIGITS_MAX: Final = 12
"""Digits of a price before the point; with two more, Stripe's largest amount in minor units."""

AMOUNT_MAX: Final = 10**15 - 1
"""Minor units. What comes to more is a slip, of a hand or a meter: nobody can pay it, and 64 bits
hold thousands of it."""


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


ZERO_DECIMAL: Final = _codes("BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF")
"""The currency's unit is the smallest one: 500 JPY is 500."""
THREE_DECIMAL: Final = _codes("BHD JOD KWD OMR TND")
"""A thousand minor units, of which card networks take full tens: 5.12 KWD is 5120."""
WHOLE_BY_RULE: Final = _codes("ISK UGX")
"""Without fractions, and yet told to Stripe with two digits that are 00: 5 ISK is 500. (HUF and
TWD are whole in payouts alone; what is charged has two digits.)"""
TWO_DECIMAL: Final = _codes(
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD "
    "CDF CHF CNY COP CRC CVE CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD HNL "
    "HTG HUF IDR ILS INR JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL MKD MMK MNT MOP MUR "
    "MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD "
    "SCR SEK SGD SHP SLE SOS SRD STD SZL THB TJS TOP TRY TTD TWD TZS UAH USD UYU UZS WST XCD XCG "
    "YER ZAR ZMW"
)
"""A hundred minor units."""
CURRENCIES: Final = ZERO_DECIMAL | THREE_DECIMAL | WHOLE_BY_RULE | TWO_DECIMAL
"""Those that Stripe can charge in, by ISO 4217 code."""


def currency_problem(code: str) -> str | None:
    """Why this is no currency to bill in, in words; None if it is one."""
    if code in CURRENCIES:
        return None
    if code.upper() in CURRENCIES:
        return f"write {code.upper()}, in capital letters"
    return f"{code[:20]!r} is not a currency Stripe charges in; write an ISO 4217 code such as USD"


def minor_digits(currency: str) -> int:
    """How many digits after the point Stripe's integers hold: 0, 2 or 3. ValueError if unknown."""
    if problem := currency_problem(currency):
        raise ValueError(problem)
    if currency in ZERO_DECIMAL:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def minor_step(currency: str) -> int:
    """What an amount in minor units must be a multiple of. ValueError for an unknown currency."""
    if currency in WHOLE_BY_RULE:
        return 100
    return 10 if minor_digits(currency) == 3 else 1  # noqa: PLR2004 - three-decimal, as named above


def to_minor(amount: Decimal | Fraction, currency: str) -> int:
    """The amount in minor units, rounded once: half up, away from zero, to a full step.

    ValueError for an unknown currency.
    """
    step = minor_step(currency)
    steps: Fraction = abs(Fraction(amount)) * 10 ** minor_digits(currency) / step
    whole = (2 * steps.numerator + steps.denominator) // (2 * steps.denominator)
    return (-whole if amount < 0 else whole) * step


def from_minor(minor: int, currency: str) -> Decimal:
    """Minor units as an amount with all its digits: 12000 is 120.00 USD, 120 JPY is 120."""
    return EXACT.scaleb(Decimal(minor), -minor_digits(currency))


def price_problem(price: Decimal) -> str | None:
    """Why this number cannot be a price or a limit in money, in words; None if it can."""
    if not price.is_finite():
        return f"{price} is not a number"
    if price < 0:
        return "negative; what is given back is a credit note, not a price"
    exponent = price.as_tuple().exponent
    assert isinstance(exponent, int)  # noqa: S101 - it is finite
    if -exponent > PRICE_DECIMALS_MAX:
        return f"{-exponent} digits after the point; at most {PRICE_DECIMALS_MAX} are kept"
    if price and price.adjusted() >= PRICE_WHOLE_DIGITS_MAX:
        return f"{price.adjusted() + 1} digits before the point; at most {PRICE_WHOLE_DIGITS_MAX}"
    return None


def plain(value: Decimal) -> str:
    """The one shortest way to write this number: no exponent, no zeros at the end of decimals."""
    return format(EXACT.normalize(value), "f") if value else "0"


def shortest(value: Decimal) -> Decimal:
    """The number as `plain` writes it: equal numbers become one value to store and to print."""
    return Decimal(plain(value))
