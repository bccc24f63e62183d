"""From a plan's terms and a period's usage to the lines of an invoice, and what they come to.

Each line is rounded once, half up, to the currency's minor units; the total is the sum of the
rounded lines, so an invoice adds up as it is printed. Where usage comes from, and what becomes of
the lines, is not known here.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final, Literal, TypeAlias

import msgspec

from usageflow.billing.pricing import Step, figure, once, price, priced, times
from usageflow.catalog.charges import Charge, ChargeKind, Terms
from usageflow.money import from_minor, shortest, to_minor

LineKind: TypeAlias = Literal["base", "fixed", "usage", "minimum"]

WHOLE: Final = Fraction(1)
"""The share of a period that is billed in full."""

_ONE: Final = Decimal(1)
_ZERO: Final = Decimal(0)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an invoice: `amount` as its steps add up, `amount_minor` as it is owed.

    `unit_price` is there where `quantity` times it is the amount; elsewhere the steps alone say
    how it came about.
    """

    kind: LineKind
    charge_id: str | None
    metric: str | None
    description: str
    quantity: Decimal
    unit_price: Decimal | None
    amount: Decimal
    amount_minor: int
    steps: tuple[Step, ...]


class Calculation(msgspec.Struct, frozen=True, kw_only=True):
    """Lines, before tax, and their sum in minor units of the currency."""

    currency: str
    lines: tuple[Line, ...]
    total_minor: int


class Difference(msgspec.Struct, frozen=True):
    """By how much a charge changes, in minor units; the steps are the two amounts between."""

    amount_minor: int
    steps: tuple[Step, ...]


def calculate(
    terms: Terms, usage: Mapping[str, Decimal], *, share: Fraction = WHOLE
) -> Calculation:
    """The lines of a period: base price, fixed charges, usage charges, the plan's minimum.

    `usage` has the total of each usage charge by the charge's id; one that is not there is 0, and
    has a line all the same. So has a minimum to which nothing is lacking: what was billed before
    of any line of the period can be set against it.

    `share` of the period is billed. It applies to what is agreed per period: base price, fixed
    charges, minimum and maximum. It does not apply to included units and tiers: the subscriber was
    told their number, and less is used in a shorter period anyway.
    ValueError for a share outside 0 to 1 and for usage of a charge that the terms do not have.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{share} of a period; a share is from 0 to 1")
    if unknown := usage.keys() - {charge.id for charge in terms.charges}:
        raise ValueError(f"usage of charges that the plan does not have: {sorted(unknown)}")
    lines = [*_fixed_lines(terms, share), *_usage_lines(terms, usage, share)]
    lines.extend(_minimum_line(terms, _total(lines), share))
    return Calculation(currency=terms.currency, lines=tuple(lines), total_minor=_total(lines))


def difference(
    charge: Charge, billed: Decimal, now: Decimal, currency: str, share: Fraction = WHOLE
) -> Difference:
    """What a charge comes to beyond what was billed, as its quantity is `now` and not `billed`.

    The difference of two rounded amounts; negative when less is owed.
    """
    kept = _for_share(charge, share, currency)
    owed, paid = (to_minor(price(kept, quantity).amount, currency) for quantity in (now, billed))
    steps = (
        _settled(owed, f"{figure(now)} in all", currency),
        _settled(-paid, f"{figure(billed)} billed before", currency),
    )
    return Difference(owed - paid, steps)


def tax(subtotal_minor: int, percent: Decimal, currency: str) -> int:
    """The tax on a subtotal, in minor units, rounded once, half up."""
    subtotal = Fraction(from_minor(subtotal_minor, currency))
    return to_minor(subtotal * Fraction(percent) / 100, currency)


def prorated(amount: Decimal, share: Fraction, currency: str) -> Decimal:
    """The share of an amount, rounded to minor units; the amount as it is for a whole period."""
    if share == WHOLE:
        return amount
    return from_minor(to_minor(Fraction(amount) * share, currency), currency)


def _active(terms: Terms, kind: ChargeKind) -> list[Charge]:
    return [charge for charge in terms.charges if charge.active and charge.kind == kind]


def _fixed_lines(terms: Terms, share: Fraction) -> Iterator[Line]:
    currency, suffix = terms.currency, "" if share == WHOLE else ", prorated"
    if terms.base_price:
        step = _share_step(terms.base_price, share, currency)
        yield _line("base", f"Base price{suffix}", _ONE, [step], currency)
    for charge in _active(terms, "fixed"):
        step = _share_step(price(charge, _ONE).amount, share, currency)
        line = _charge_line(charge, _ONE, [step], currency)
        yield msgspec.structs.replace(line, description=line.description + suffix)


def _usage_lines(terms: Terms, usage: Mapping[str, Decimal], share: Fraction) -> Iterator[Line]:
    for charge in _active(terms, "usage"):
        quantity = usage.get(charge.id, _ZERO)
        steps = price(_for_share(charge, share, terms.currency), quantity).steps
        yield _charge_line(charge, quantity, steps, terms.currency)


def _minimum_line(terms: Terms, subtotal_minor: int, share: Fraction) -> Iterator[Line]:
    """What is lacking to the least total of a period."""
    if terms.minimum is None:
        return
    currency = terms.currency
    least = prorated(terms.minimum, share, currency)
    lacking = max(0, to_minor(least, currency) - subtotal_minor)
    text = f"{figure(least)} - {figure(from_minor(subtotal_minor, currency))}"
    step = _settled(lacking, text if lacking else f"{text}, not below 0", currency)
    yield _line("minimum", "Minimum of the plan", _ONE, [step], currency)


def _for_share(charge: Charge, share: Fraction, currency: str) -> Charge:
    """The charge with its minimum and maximum for a share of a period.

    They are rounded to what a person can be told; rounding the charge's amount afterwards comes to
    the same as rounding it against the exact ones, as rounding keeps order.
    """
    minimum, maximum = (
        None if bound is None else prorated(bound, share, currency)
        for bound in (charge.minimum, charge.maximum)
    )
    return msgspec.structs.replace(charge, minimum=minimum, maximum=maximum)


def _share_step(amount: Decimal, share: Fraction, currency: str) -> Step:
    """An amount per period; of a part of a period, this is where its line is rounded."""
    if share == WHOLE:
        return times(_ONE, amount)
    part = prorated(amount, share, currency)
    return once(part, f"{figure(amount)} x {share}, rounded = {figure(part)}")


def _settled(amount_minor: int, text: str, currency: str) -> Step:
    """A step of an amount that is rounded already."""
    amount = from_minor(amount_minor, currency)
    return once(amount, f"{text} = {figure(amount)}")


def _charge_line(charge: Charge, quantity: Decimal, steps: Iterable[Step], currency: str) -> Line:
    line = _line(charge.kind, charge.display_name, quantity, steps, currency)
    return msgspec.structs.replace(line, charge_id=charge.id, metric=charge.metric)


def _line(
    kind: LineKind, description: str, quantity: Decimal, steps: Iterable[Step], currency: str
) -> Line:
    amount, steps = (total := priced(steps)).amount, total.steps
    single = steps[0].unit_price if len(steps) == 1 and steps[0].quantity == quantity else None
    return Line(
        kind=kind,
        charge_id=None,
        metric=None,
        description=description,
        quantity=shortest(quantity),
        unit_price=single,
        amount=amount,
        amount_minor=to_minor(amount, currency),
        steps=steps,
    )


def _total(lines: Iterable[Line]) -> int:
    return sum(line.amount_minor for line in lines)
