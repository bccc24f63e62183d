"""What quantities cost, and arithmetic that a person can check."""

from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.billing.pricing import Priced, Step, figure, price
from usageflow.catalog.charges import Charge, Terms, Tier, problems


def charge(model: Any, **fields: Any) -> Charge:
    """A usage charge of this model."""
    usage = {"id": "ch_1", "kind": "usage", "display_name": "Calls", "metric": "API_CALL"}
    return Charge(**{**usage, "model": model, **fields})


def tier(up_to: str | None, unit_price: str, flat_price: str = "0") -> Tier:
    """A tier, as a person writes it."""
    top = None if up_to is None else Decimal(up_to)
    return Tier(up_to=top, unit_price=Decimal(unit_price), flat_price=Decimal(flat_price))


def texts(priced: Priced) -> list[str]:
    """The arithmetic as it is read."""
    return [step.text for step in priced.steps]


PER_UNIT = charge("per_unit", unit_price=Decimal("0.001"))
INCLUDED = charge("included", unit_price=Decimal("0.01"), included=Decimal(10_000))
FLUXRATE = (tier("1000", "0.002"), tier("10000", "0.001"), tier(None, "0.0005"))
GRADUATED = charge("graduated", tiers=FLUXRATE)
VOLUME = charge("volume", tiers=FLUXRATE)
PACKAGE = charge("package", unit_price=Decimal(5), package_size=Decimal(1_000))
FLAT = (tier("10", "1", "100"), tier(None, "0.5", "50"))


@pytest.mark.parametrize(
    ("priced_by", "quantity", "amount", "steps"),
    [
        (PER_UNIT, "145200", "145.2", ["145,200 x 0.001 = 145.2"]),
        (PER_UNIT, "0", "0", ["0 x 0.001 = 0"]),
        (INCLUDED, "12000", "20", ["10,000 of 10,000 included", "2,000 x 0.01 = 20"]),
        (INCLUDED, "10000", "0", ["10,000 of 10,000 included"]),
        (INCLUDED, "7.5", "0", ["7.5 of 10,000 included"]),
        (GRADUATED, "0", "0", ["up to 1,000: 0 x 0.002 = 0"]),
        (GRADUATED, "1000", "2", ["up to 1,000: 1,000 x 0.002 = 2"]),
        (
            GRADUATED,
            "1001",
            "2.001",
            ["up to 1,000: 1,000 x 0.002 = 2", "above 1,000, up to 10,000: 1 x 0.001 = 0.001"],
        ),
        (
            GRADUATED,
            "12000",
            "12",
            [
                "up to 1,000: 1,000 x 0.002 = 2",
                "above 1,000, up to 10,000: 9,000 x 0.001 = 9",
                "above 10,000: 2,000 x 0.0005 = 1",
            ],
        ),
        (VOLUME, "0", "0", ["up to 1,000: 0 x 0.002 = 0"]),
        (VOLUME, "1000", "2", ["up to 1,000: 1,000 x 0.002 = 2"]),
        (VOLUME, "1001", "1.001", ["above 1,000, up to 10,000: 1,001 x 0.001 = 1.001"]),
        (VOLUME, "12000", "6", ["above 10,000: 12,000 x 0.0005 = 6"]),
        (PACKAGE, "0", "0", ["0 in packages of 1,000: 0 x 5 = 0"]),
        (PACKAGE, "1000", "5", ["1,000 in packages of 1,000: 1 x 5 = 5"]),
        (
            PACKAGE,
            "1000.000000000001",
            "10",
            ["1,000.000000000001 in packages of 1,000: 2 x 5 = 10"],
        ),
        (
            charge("included", unit_price=Decimal(2), included=Decimal(0)),
            "0",
            "0",
            ["0 x 2 = 0"],
        ),
        (
            charge("package", unit_price=Decimal(5), package_size=Decimal(10), included=Decimal(3)),
            "4",
            "5",
            ["3 of 3 included", "1 in packages of 10: 1 x 5 = 5"],
        ),
        (charge("graduated", tiers=FLAT), "0", "0", ["up to 10: 0 x 1 = 0"]),
        (
            charge("graduated", tiers=FLAT),
            "11",
            "160.5",
            [
                "up to 10: 10 x 1 = 10",
                "up to 10: flat price = 100",
                "above 10: 1 x 0.5 = 0.5",
                "above 10: flat price = 50",
            ],
        ),
        (
            charge("volume", tiers=FLAT),
            "11",
            "55.5",
            ["above 10: 11 x 0.5 = 5.5", "above 10: flat price = 50"],
        ),
        (
            charge("per_unit", unit_price=Decimal(1), minimum=Decimal(5)),
            "2",
            "5",
            ["2 x 1 = 2", "raised to the minimum of 5: 5 - 2 = 3"],
        ),
        (
            charge("per_unit", unit_price=Decimal(1), maximum=Decimal(5)),
            "7.5",
            "5",
            ["7.5 x 1 = 7.5", "lowered to the maximum of 5: 5 - 7.5 = -2.5"],
        ),
    ],
)
def test_each_model_by_its_numbers(
    priced_by: Charge, quantity: str, amount: str, steps: list[str]
) -> None:
    """What it comes to, and the arithmetic that says so."""
    priced = price(priced_by, Decimal(quantity))
    assert priced.amount == Decimal(amount)
    assert texts(priced) == steps


def test_a_fixed_charge_is_its_price() -> None:
    """One period, once."""
    seat = Charge(
        id="ch_1", kind="fixed", display_name="Seat", model="fixed", unit_price=Decimal(30)
    )
    assert price(seat, Decimal(1)) == Priced(
        Decimal(30), (Step("1 x 30 = 30", Decimal(1), Decimal(30), Decimal(30)),)
    )


def test_the_longest_numbers_are_exact() -> None:
    """38 digits of a quantity times 24 of a price, in a process that asked for 5 digits."""
    quantity = Decimal("12345678901234567890123456.123456789012")
    unit_price = Decimal("999999999999.999999999999")
    with localcontext() as context:
        context.prec = 5
        amount = price(charge("per_unit", unit_price=unit_price), quantity).amount
    assert Fraction(amount) == Fraction(quantity) * Fraction(unit_price)


def test_a_negative_total_is_refused() -> None:
    """No aggregation gives one; a price for it would pay the customer."""
    with pytest.raises(ValueError, match="-1 units of ch_1: a total of usage is not negative"):
        price(PER_UNIT, Decimal(-1))


def test_a_charge_with_problems_is_refused() -> None:
    """Nothing is priced at 0 because a field is missing."""
    with pytest.raises(ValueError, match="the per_unit charge ch_1 has no unit price"):
        price(charge("per_unit"), Decimal(1))
    with pytest.raises(ValueError, match="the package charge ch_1 has no package size"):
        price(charge("package", unit_price=Decimal(1)), Decimal(1))
    for model in ("graduated", "volume"):
        with pytest.raises(ValueError, match="the tiers of the charge ch_1 end before 1,500"):
            price(charge(model, tiers=FLUXRATE[:1]), Decimal(1_500))


def test_figures_are_grouped() -> None:
    """As in the sums of a letter: no exponent, no zeros that say nothing."""
    texts = ["1234567.5000", "1E+6", "1E-7", "-2500", "0.00"]
    assert [figure(Decimal(text)) for text in texts] == [
        "1,234,567.5",
        "1,000,000",
        "0.0000001",
        "-2,500",
        "0",
    ]


quantities = st.decimals(0, 10**26, allow_nan=False, allow_infinity=False, places=12) | st.integers(
    0, 25_000
).map(Decimal)
prices = st.decimals(0, 10**6, places=12)


@st.composite
def charges(draw: st.DrawFn, models: tuple[str, ...], *, flat: bool = True) -> Charge:
    """Charges without problems."""
    model = draw(st.sampled_from(models))
    fields: dict[str, Any] = {}
    if model in ("graduated", "volume"):
        tops = sorted(draw(st.sets(st.integers(1, 20_000), max_size=4)))
        flats = prices if flat else st.just(Decimal(0))
        fields["tiers"] = tuple(
            Tier(up_to=top, unit_price=draw(prices), flat_price=draw(flats))
            for top in [*map(Decimal, tops), None]
        )
    else:
        fields["unit_price"] = draw(prices)
    if model in ("included", "package"):
        fields["included"] = Decimal(draw(st.integers(0, 20_000)))
    if model == "package":
        fields["package_size"] = Decimal(draw(st.integers(1, 5_000))) / 8
    bounds = sorted(draw(st.lists(prices, min_size=2, max_size=2)))
    for name, bound in zip(("minimum", "maximum"), bounds, strict=True):
        fields[name] = draw(st.sampled_from([None, bound]))
    made = charge(model, **fields)
    assert not problems(Terms(type="USAGE", currency="USD", interval="month", charges=(made,)))
    return made


ALL = ("per_unit", "included", "graduated", "volume", "package")
GROWING = ("per_unit", "included", "graduated", "package")


@given(charges(ALL), quantities)
def test_the_steps_are_the_amount(made: Charge, quantity: Decimal) -> None:
    """Each is a product, and together they are the amount: exactly, in decimals alone."""
    priced = price(made, quantity)
    for step in priced.steps:
        assert Fraction(step.amount) == Fraction(step.quantity) * Fraction(step.unit_price)
        for number in (step.quantity, step.unit_price, step.amount):
            assert type(number) is Decimal
    assert type(priced.amount) is Decimal
    assert Fraction(priced.amount) == sum(Fraction(step.amount) for step in priced.steps)


@given(charges(ALL), quantities)
def test_an_amount_is_within_its_bounds(made: Charge, quantity: Decimal) -> None:
    """At least the minimum, at most the maximum."""
    amount = price(made, quantity).amount
    assert made.minimum is None or amount >= made.minimum
    assert made.maximum is None or amount <= made.maximum


@given(charges(GROWING), quantities, quantities)
def test_more_usage_never_costs_less(made: Charge, one: Decimal, other: Decimal) -> None:
    """Except by volume, where a larger total may fall into a cheaper tier."""
    less, more = sorted((one, other))
    assert price(made, less).amount <= price(made, more).amount


@given(charges(("graduated", "volume"), flat=False), quantities)
def test_tiers_are_what_each_unit_costs(made: Charge, quantity: Decimal) -> None:
    """Computed another way: graduated by differences at the tops, volume by the last tier."""
    amount = price(unbounded(made), quantity).amount
    tops = [Fraction(one.up_to) for one in made.tiers if one.up_to is not None]
    unit_prices = [Fraction(one.unit_price) for one in made.tiers]
    total = Fraction(quantity)
    if made.model == "volume":
        assert Fraction(amount) == total * unit_prices[sum(total > top for top in tops)]
        return
    edges = [Fraction(0), *(min(top, total) for top in tops), total]
    parts = [after - before for before, after in pairwise(edges)]
    expected = sum(part * one for part, one in zip(parts, unit_prices, strict=True))
    assert Fraction(amount) == expected


def unbounded(made: Charge) -> Charge:
    """The charge without its bounds."""
    return charge(made.model, tiers=made.tiers)


@given(charges(ALL), quantities)
def test_however_a_number_is_written_it_costs_the_same(made: Charge, quantity: Decimal) -> None:
    """1 and 1.000 are one quantity, down to the text of the steps."""
    longer = Decimal(f"{quantity:f}" + ("0" if "." in f"{quantity:f}" else ".0"))
    assert repr(price(made, longer)) == repr(price(made, quantity))
