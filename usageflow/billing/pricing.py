"""What a quantity costs under a charge, and the arithmetic that says so. Exact; nothing rounds.

Money is in major units of the plan's currency. A charge prices a period's total, so how usage was
split into events or batches cannot matter. Rounding, and the share of a period, are
`billing.calculation`'s.
"""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Final

import msgspec

from usageflow.catalog.charges import Charge, Model, Tier
from usageflow.money import EXACT, shortest

_ONE: Final = Decimal(1)
_ZERO: Final = Decimal(0)


class Step(msgspec.Struct, frozen=True):
    """One product of the arithmetic: `amount` is `quantity` times `unit_price`, as `text` says."""

    text: str
    quantity: Decimal
    unit_price: Decimal
    amount: Decimal


class Priced(msgspec.Struct, frozen=True):
    """What a charge comes to; `amount` is the sum of its steps' amounts, always."""

    amount: Decimal
    steps: tuple[Step, ...]


def price(charge: Charge, quantity: Decimal) -> Priced:
    """What `quantity` units, or for a fixed charge periods, cost under a charge without problems.

    ValueError for a negative quantity.
    """
    if quantity < 0:
        raise ValueError(f"{quantity} units of {charge.id}: a total of usage is not negative")
    return _bounded(charge, priced(_MODELS[charge.model](charge, quantity)))


def priced(steps: Iterable[Step]) -> Priced:
    """The steps and their sum."""
    steps = tuple(steps)
    amount = _ZERO
    for step in steps:
        amount = EXACT.add(amount, step.amount)
    return Priced(shortest(amount), steps)


def figure(value: Decimal) -> str:
    """A number as a person reads it in a sum: 12,000 or 0.0005."""
    return f"{shortest(value):,f}"


def times(quantity: Decimal, unit_price: Decimal, what: str = "") -> Step:
    """The step `what: quantity x unit price = amount`."""
    amount = figure(EXACT.multiply(quantity, unit_price))
    text = f"{figure(quantity)} x {figure(unit_price)} = {amount}"
    return _step(f"{what}: {text}" if what else text, quantity, unit_price)


def once(amount: Decimal, text: str) -> Step:
    """A step of one amount that the text accounts for."""
    return _step(text, _ONE, amount)


def _step(text: str, quantity: Decimal, unit_price: Decimal) -> Step:
    amount = EXACT.multiply(quantity, unit_price)
    return Step(text, shortest(quantity), shortest(unit_price), shortest(amount))


def _unit_price(charge: Charge) -> Decimal:
    if charge.unit_price is None:
        raise ValueError(f"the {charge.model} charge {charge.id} has no unit price")
    return charge.unit_price


def _per_unit(charge: Charge, quantity: Decimal) -> Iterator[Step]:
    yield times(quantity, _unit_price(charge))


def _beyond_included(charge: Charge, quantity: Decimal) -> Iterator[Step]:
    """Nothing up to what is included, the unit price for each unit beyond."""
    yield from _included(charge, quantity)
    beyond = _beyond(charge, quantity)
    if beyond or not charge.included:
        yield times(beyond, _unit_price(charge))


def _packages(charge: Charge, quantity: Decimal) -> Iterator[Step]:
    """The price of a package for each that is begun beyond what is included."""
    if charge.package_size is None:
        raise ValueError(f"the package charge {charge.id} has no package size")
    yield from _included(charge, quantity)
    beyond = _beyond(charge, quantity)
    if beyond or not charge.included:
        begun = _quotient_up(beyond, charge.package_size)
        what = f"{figure(beyond)} in packages of {figure(charge.package_size)}"
        yield times(begun, _unit_price(charge), what)


def _included(charge: Charge, quantity: Decimal) -> Iterator[Step]:
    if charge.included:
        used = min(quantity, charge.included)
        yield _step(f"{figure(used)} of {figure(charge.included)} included", used, _ZERO)


def _beyond(charge: Charge, quantity: Decimal) -> Decimal:
    return max(_ZERO, EXACT.subtract(quantity, charge.included))


def _quotient_up(quantity: Decimal, size: Decimal) -> Decimal:
    """How many times `size` it takes to hold `quantity`: whole, so nothing is lost in dividing."""
    whole, rest = EXACT.divmod(quantity, size)
    return EXACT.add(whole, _ONE) if rest else whole


def _graduated(charge: Charge, quantity: Decimal) -> Iterator[Step]:
    """Each tier prices the units that lie in it; the first one is shown even if none do."""
    below = _ZERO
    for index, tier in enumerate(charge.tiers):
        top = quantity if tier.up_to is None else min(quantity, tier.up_to)
        if index and top <= below:
            break
        yield from _tier(tier, below, EXACT.subtract(top, below))
        below = top
    if below < quantity:
        raise _beyond_tiers(charge, quantity)


def _volume(charge: Charge, quantity: Decimal) -> Iterator[Step]:
    """The tier in which the total lies prices all units."""
    below = _ZERO
    for tier in charge.tiers:
        if tier.up_to is None or quantity <= tier.up_to:
            yield from _tier(tier, below, quantity)
            return
        below = tier.up_to
    raise _beyond_tiers(charge, quantity)


def _beyond_tiers(charge: Charge, quantity: Decimal) -> ValueError:
    return ValueError(f"the tiers of the charge {charge.id} end before {figure(quantity)}")


def _tier(tier: Tier, below: Decimal, quantity: Decimal) -> Iterator[Step]:
    """What `quantity` units cost in this tier. No unit, and the tier is not entered."""
    up_to = [] if tier.up_to is None else [f"up to {figure(tier.up_to)}"]
    above = [f"above {figure(below)}"] if below or not up_to else []
    what = ", ".join([*above, *up_to])
    yield times(quantity, tier.unit_price, what)
    if tier.flat_price and quantity:
        yield once(tier.flat_price, f"{what}: flat price = {figure(tier.flat_price)}")


def _bounded(charge: Charge, metered: Priced) -> Priced:
    """Raised to the charge's minimum or lowered to its maximum by a step of its own."""
    amount = metered.amount
    if charge.minimum is not None and amount < charge.minimum:
        bound, what = charge.minimum, f"raised to the minimum of {figure(charge.minimum)}"
    elif charge.maximum is not None and amount > charge.maximum:
        bound, what = charge.maximum, f"lowered to the maximum of {figure(charge.maximum)}"
    else:
        return metered
    change = EXACT.subtract(bound, amount)
    text = f"{what}: {figure(bound)} - {figure(amount)} = {figure(change)}"
    return priced((*metered.steps, once(change, text)))


_MODELS: Final[dict[Model, Callable[[Charge, Decimal], Iterator[Step]]]] = {
    "fixed": _per_unit,
    "per_unit": _per_unit,
    "included": _beyond_included,
    "graduated": _graduated,
    "volume": _volume,
    "package": _packages,
}
