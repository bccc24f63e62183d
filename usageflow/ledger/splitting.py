"""A quantity in amounts that Stripe takes. Pure and exact."""

from decimal import ROUND_DOWN, Context, Decimal
from typing import Final

UNIT_DIGITS_MAX: Final = 15
"""Digits of what one meter event carries; Stripe refuses a value with more (changelog of
2026-04-22). Zeros are counted, since Stripe does not say that it would not."""
PARTS_MAX: Final = 100
"""Most parts of one quantity: 10^17 and more is held for a person, for it is no usage."""

_CONTEXT: Final = Context(prec=100)
_LARGEST: Final = Decimal(10**UNIT_DIGITS_MAX - 1)


def digits(value: Decimal) -> int:
    """Digits of `value` in plain notation, without zeros that say nothing."""
    text = format(value, "f")
    text = text.rstrip("0") if "." in text else text
    return len(text.replace(".", "").lstrip("-0"))


def split(quantity: Decimal) -> list[Decimal]:
    """Amounts of at most UNIT_DIGITS_MAX digits that add up to `quantity`, the largest first.

    `[quantity]` as it is if it needs no splitting, or cannot be split into PARTS_MAX.
    """
    if digits(quantity) <= UNIT_DIGITS_MAX:
        return [quantity]
    whole = quantity.to_integral_value(ROUND_DOWN)
    largest = _LARGEST.copy_sign(quantity)
    count, rest = _CONTEXT.divmod(whole, largest)
    if count > PARTS_MAX:
        return [quantity]
    amounts = [largest] * int(count) + [rest, *_fractions(_CONTEXT.subtract(quantity, whole))]
    found = [amount for amount in amounts if amount]
    return found if len(found) <= PARTS_MAX else [quantity]


def _fractions(fraction: Decimal) -> list[Decimal]:
    """A value between -1 and 1 in amounts of enough digits each."""
    found = []
    while digits(fraction) > UNIT_DIGITS_MAX:
        places = fraction.adjusted() - UNIT_DIGITS_MAX + 1
        amount = fraction.quantize(Decimal(1).scaleb(places), ROUND_DOWN, _CONTEXT)
        found.append(amount)
        fraction = _CONTEXT.subtract(fraction, amount)
    return [*found, fraction]
