"""How well an exact sum and a binary float can be compared. Pure: values in, values out.

Stripe adds up what it is sent and shows the sum as a binary float. So both sides are looked at as
far as such a float is sure, and no further: what lies beyond is no difference, and nothing that is
sent to Stripe ever rests on it.
"""

from decimal import Context, Decimal
from typing import Final

from usageflow.events import QUANTITY_DECIMALS_MAX

WHOLE_MAX: Final = 2**53
"""Up to here a binary float has every whole number."""

_SURE_DIGITS: Final = 15
"""A binary float keeps every decimal number of so many digits."""
_SURE_MAX: Final = 10**_SURE_DIGITS
_WIDE: Final = Context(prec=100)
"""No quantity and no sum of quantities needs as many digits."""


def gap(expected: Decimal, observed: Decimal) -> Decimal:
    """What Stripe lacks, as far as it can be told; below 0: what it has too much; 0: they agree.

    Both are rounded alike: to the 15th digit of the larger, but never coarser than to whole
    numbers, so that a drift of one is seen wherever a float can show it, nor finer than usage is.
    """
    if float(expected) == float(observed):
        return Decimal(0)
    difference = _WIDE.subtract(expected, observed)
    return _rounded(difference, expected, observed).normalize(_WIDE)


def is_gap(weight: Decimal, expected: Decimal, observed: Decimal) -> bool:
    """Whether Stripe lacks exactly `weight`, as far as it can be told."""
    return _rounded(weight, expected, observed) == gap(expected, observed)


def is_sure(expected: Decimal, observed: Decimal) -> bool:
    """Whether their gap is really what Stripe lacks, and not the float's rounding in part."""
    whole = all(value == value.to_integral_value() for value in (expected, observed))
    return _size(expected, observed) < (WHOLE_MAX if whole else _SURE_MAX)


def _rounded(value: Decimal, expected: Decimal, observed: Decimal) -> Decimal:
    last_digit = _size(expected, observed).adjusted() - _SURE_DIGITS + 1
    place = min(0, max(-QUANTITY_DECIMALS_MAX, last_digit))
    return value.quantize(Decimal(1).scaleb(place), context=_WIDE)


def _size(expected: Decimal, observed: Decimal) -> Decimal:
    return max(expected.copy_abs(), observed.copy_abs())
