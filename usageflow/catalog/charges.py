"""What a plan version says about price: terms, charges, tiers, entitlements; the stored document.

Values alone: what they come to is `billing.pricing`, and who subscribes to them is another's.
"""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from usageflow.events import quantity_problem
from usageflow.money import currency_problem, plain, price_problem
from usageflow.periods import Alignment, Interval

ChargeKind: TypeAlias = Literal["fixed", "usage"]
Model: TypeAlias = Literal["fixed", "per_unit", "included", "graduated", "volume", "package"]
PlanType: TypeAlias = Literal["FIXED", "USAGE", "HYBRID"]
Collect: TypeAlias = Literal["local", "stripe_meters"]
Payment: TypeAlias = Literal["manual", "stripe_invoice"]
Problem: TypeAlias = tuple[str, str]
"""A field, such as `charges[1].tiers[0].up_to`, and what is wrong with it, in words."""

CHARGES_MAX: Final = 100
"""Charges of a plan; an invoice has a line for each."""
TIERS_MAX: Final = 100
"""Tiers of a charge; as many as Stripe takes for a price."""
ENTITLEMENTS_MAX: Final = 200
"""Entitlements of a plan; they are read together on every check."""
NAME_CHARS_MAX: Final = 250
"""Of a charge's name, which stands in one line of an invoice."""
VALUE_CHARS_MAX: Final = 1_000
"""Of an entitlement's value."""
TRIAL_DAYS_MAX: Final = 730
"""Two years; the longest trial that Stripe takes."""

_TIERED: Final = ("graduated", "volume")
_WITH_INCLUDED: Final = ("included", "package")
_ZERO: Final = Decimal(0)


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the stored document; a field that this version does not know is refused."""


class Tier(_Document, frozen=True, kw_only=True):
    """Units beyond the tier before, up to and including `up_to` (None: all others).

    `flat_price` is owed once the tier is entered.
    """

    up_to: Decimal | None
    unit_price: Decimal
    flat_price: Decimal = _ZERO


class Charge(_Document, frozen=True, kw_only=True):
    """One line of an invoice: a fixed amount per period, or a price for a metric's total.

    `unit_price` is what one costs: a period (`fixed`), a unit (`per_unit`), a unit beyond those
    `included`, a package of `package_size` units begun. `minimum` and `maximum` are amounts of
    money per period between which the charge is kept. Prices are in the plan's currency.
    """

    id: str
    kind: ChargeKind
    display_name: str
    metric: str | None = None
    model: Model
    unit_price: Decimal | None = None
    included: Decimal = _ZERO
    tiers: tuple[Tier, ...] = ()
    package_size: Decimal | None = None
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    active: bool = True


class Entitlement(_Document, frozen=True, kw_only=True):
    """What a subscriber may use: a switch, a limit of usage (None: without end), or a value.

    Beyond a `soft` limit usage is still allowed, and told as being over it.
    """

    feature_id: str
    enabled: bool = True
    usage_limit: Decimal | None = None
    reset_period: Interval | None = None
    soft: bool = False
    value: str | None = None


class Terms(_Document, frozen=True, kw_only=True):
    """All that a plan version promises; nobody changes it once somebody subscribes.

    `base_price` is per period. `minimum` is the least total of a period, before tax.
    """

    type: PlanType
    currency: str
    interval: Interval
    alignment: Alignment = "anniversary"
    base_price: Decimal = _ZERO
    minimum: Decimal | None = None
    trial_days: int = 0
    collect: Collect = "local"
    payment: Payment = "manual"
    charges: tuple[Charge, ...] = ()
    entitlements: tuple[Entitlement, ...] = ()


def encode(terms: Terms) -> str:
    """The stored document: JSON, the same for equal terms, its decimals strings in plain notation.

    As strings, no parser of JSON can make binary floats of them.
    """
    document = _written_out(msgspec.to_builtins(terms, builtin_types=(Decimal,)))
    return msgspec.json.encode(document, order="sorted").decode()


def decode(text: str) -> Terms:
    """The terms of a stored document. msgspec.ValidationError if it is not one."""
    return msgspec.json.decode(text, type=Terms)


def problems(terms: Terms) -> list[Problem]:
    """Everything that keeps these terms from being offered; empty if they can be."""
    return [
        *_plan_problems(terms),
        *_list_problems(terms),
        *(
            (f"charges[{index}].{field}", message)
            for index, charge in enumerate(terms.charges)
            for field, message in _charge_problems(charge)
        ),
        *(
            (f"entitlements[{index}].{field}", message)
            for index, entitlement in enumerate(terms.entitlements)
            for field, message in _entitlement_problems(entitlement)
        ),
    ]


def _written_out(value: Any) -> Any:
    """Decimals in their one plain notation: 1.50 and 1.5 are one price and one text."""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, dict):
        return {name: _written_out(one) for name, one in value.items()}
    return [_written_out(one) for one in value] if isinstance(value, (list, tuple)) else value


def _plan_problems(terms: Terms) -> Iterator[Problem]:
    if problem := currency_problem(terms.currency):
        yield "currency", problem
    yield from _prices(base_price=terms.base_price, minimum=terms.minimum)
    if not 0 <= terms.trial_days <= TRIAL_DAYS_MAX:
        yield "trial_days", f"{terms.trial_days} days; from 0 to {TRIAL_DAYS_MAX} are possible"
    if terms.collect == "stripe_meters" and terms.payment != "manual":
        yield "payment", "Stripe collects by its own invoice what stripe_meters sends: say manual"
    if terms.type == "USAGE" and terms.base_price:
        yield "base_price", "a USAGE plan bills usage alone; a HYBRID plan has a base price too"


def _list_problems(terms: Terms) -> Iterator[Problem]:
    """What is wrong with charges and entitlements together."""
    for field, count, most in (
        ("charges", len(terms.charges), CHARGES_MAX),
        ("entitlements", len(terms.entitlements), ENTITLEMENTS_MAX),
    ):
        if count > most:
            yield field, f"{count} of them; at most {most} are possible"
    active = [charge for charge in terms.charges if charge.active]
    refused = {"FIXED": "usage", "USAGE": "fixed"}.get(terms.type)
    if any(charge.kind == refused for charge in active):
        yield "charges", f"a {terms.type} plan has no {refused} charges; a HYBRID plan has both"
    for what, keys in (
        ("id", [charge.id for charge in terms.charges]),
        ("metric", [charge.metric for charge in active if charge.metric is not None]),
    ):
        for key in _repeated(keys):
            yield "charges", f"several charges have the {what} {key}; one may"
    for feature in _repeated([one.feature_id for one in terms.entitlements]):
        yield "entitlements", f"the feature {feature} is there more than once"


def _repeated(keys: list[str]) -> list[str]:
    return [key for key, count in Counter(keys).items() if count > 1]


def _charge_problems(charge: Charge) -> Iterator[Problem]:
    if not 0 < len(charge.display_name.strip()) <= NAME_CHARS_MAX:
        yield "display_name", f"a line of the invoice; 1 to {NAME_CHARS_MAX} characters"
    if (charge.kind == "fixed") != (charge.model == "fixed"):
        yield "model", f"{charge.model} is not a model of a {charge.kind} charge"
    yield from _fields_of_model(charge)
    numbers = [
        *_prices(unit_price=charge.unit_price, minimum=charge.minimum, maximum=charge.maximum),
        *_quantities(included=charge.included, package_size=charge.package_size),
    ]
    yield from numbers or _limit_problems(charge)
    yield from _tier_problems(charge.tiers)


def _fields_of_model(charge: Charge) -> Iterator[Problem]:
    """Each field is there if the model uses it, and not there if it would be ignored."""
    model = charge.model
    for field, given, used, name in (
        ("metric", charge.metric is not None, model != "fixed", "a metric"),
        ("unit_price", charge.unit_price is not None, model not in _TIERED, "a unit price"),
        ("tiers", bool(charge.tiers), model in _TIERED, "tiers"),
        ("package_size", charge.package_size is not None, model == "package", "a package size"),
    ):
        if given != used:
            yield field, f"the model {model} {'needs' if used else 'does not use'} {name}"
    if charge.included and model not in _WITH_INCLUDED:
        yield "included", f"the model {model} does not use included units"
    if model == "fixed" and (charge.minimum, charge.maximum) != (None, None):
        yield "minimum", "a fixed charge has no minimum or maximum: it is its unit price"


def _limit_problems(charge: Charge) -> Iterator[Problem]:
    """What is wrong with numbers that are right by themselves."""
    if charge.package_size is not None and not charge.package_size:
        yield "package_size", "a package holds more than 0 units"
    least, most = charge.minimum, charge.maximum
    if least is not None and most is not None and least > most:
        yield "minimum", f"above the maximum of {plain(most)}"


def _tier_problems(tiers: tuple[Tier, ...]) -> Iterator[Problem]:
    if len(tiers) > TIERS_MAX:
        yield "tiers", f"{len(tiers)} of them; at most {TIERS_MAX} are possible"
        return
    below = _ZERO
    for index, tier in enumerate(tiers):
        numbers = [
            *_prices(unit_price=tier.unit_price, flat_price=tier.flat_price),
            *_quantities(up_to=tier.up_to),
        ]
        for field, message in numbers:
            yield f"tiers[{index}].{field}", message
        if (tier.up_to is None) != (index == len(tiers) - 1):
            yield f"tiers[{index}].up_to", "null in the last tier, which is open, and there alone"
        elif tier.up_to is not None and not numbers:
            if tier.up_to <= below:
                yield f"tiers[{index}].up_to", f"not above {plain(below)}, where the tier begins"
            below = tier.up_to


def _entitlement_problems(entitlement: Entitlement) -> Iterator[Problem]:
    yield from _quantities(usage_limit=entitlement.usage_limit)
    if entitlement.usage_limit is None and entitlement.reset_period is not None:
        yield "reset_period", "there is no usage limit to reset"
    if entitlement.value is not None and len(entitlement.value) > VALUE_CHARS_MAX:
        yield "value", f"{len(entitlement.value)} characters; at most {VALUE_CHARS_MAX} are kept"


def _prices(**prices: Decimal | None) -> Iterator[Problem]:
    for field, price in prices.items():
        if price is not None and (problem := price_problem(price)):
            yield field, problem


def _quantities(**quantities: Decimal | None) -> Iterator[Problem]:
    for field, quantity in quantities.items():
        if quantity is not None and (problem := quantity_problem(quantity)):
            yield field, problem
