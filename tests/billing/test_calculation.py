"""From terms and usage to lines that add up: the worked numbers, and what holds for all."""

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.billing.calculation import (
    Calculation,
    Line,
    calculate,
    difference,
    prorated,
    tax,
)
from usageflow.billing.pricing import price
from usageflow.catalog.charges import Charge, Terms, Tier, problems
from usageflow.money import from_minor, minor_step, to_minor

HALF_JANUARY = Fraction(17, 31)
"""From 15 January to 1 February."""


def usage_charge(model: Any = "per_unit", unit_price: str | None = None, **fields: Any) -> Charge:
    """API calls."""
    return Charge(
        id="calls",
        kind="usage",
        display_name="API calls",
        metric="API_CALL",
        model=model,
        unit_price=None if unit_price is None else Decimal(unit_price),
        **fields,
    )


def seat(unit_price: str) -> Charge:
    """A fixed charge."""
    return Charge(
        id="seat",
        kind="fixed",
        display_name="Seat",
        model="fixed",
        unit_price=Decimal(unit_price),
    )


def plan(*charges: Charge, **fields: Any) -> Terms:
    """A monthly plan in dollars, without problems."""
    made = Terms(
        **{"type": "HYBRID", "currency": "USD", "interval": "month", "charges": charges, **fields}
    )
    assert problems(made) == []
    return made


def amounts(calculation: Calculation) -> list[tuple[str, Decimal]]:
    """What each line of which kind is owed."""
    return [
        (line.kind, from_minor(line.amount_minor, calculation.currency))
        for line in calculation.lines
    ]


def texts(line: Line) -> list[str]:
    """The arithmetic of a line."""
    return [step.text for step in line.steps]


def test_100_and_2000_calls_beyond_10000_is_120() -> None:
    """The plan of the product documents: 100 + (12,000 - 10,000) x 0.01 = 120.00."""
    calls = usage_charge("included", "0.01", included=Decimal(10_000))
    invoice = calculate(plan(calls, base_price=Decimal(100)), {"calls": Decimal(12_000)})
    assert amounts(invoice) == [("base", Decimal("100.00")), ("usage", Decimal("20.00"))]
    assert texts(invoice.lines[1]) == ["10,000 of 10,000 included", "2,000 x 0.01 = 20"]
    assert invoice.total_minor == 120_00


def test_49_and_145200_calls_is_194_20() -> None:
    """The hybrid plan: 49 + 145,200 x 0.001 = 49 + 145.20 = 194.20."""
    terms = plan(usage_charge(unit_price="0.001"), base_price=Decimal(49))
    invoice = calculate(terms, {"calls": Decimal(145_200)})
    assert amounts(invoice) == [("base", Decimal("49.00")), ("usage", Decimal("145.20"))]
    assert invoice.total_minor == 194_20


def test_30_from_15_january_to_1_february_is_16_45() -> None:
    """A partial first period: 30 x 17/31 = 16.4516..., rounded once."""
    invoice = calculate(plan(seat("30"), type="FIXED"), {}, share=HALF_JANUARY)
    (line,) = invoice.lines
    assert line.description == "Seat, prorated"
    assert texts(line) == ["30 x 17/31, rounded = 16.45"]
    assert (line.amount, line.amount_minor, invoice.total_minor) == (Decimal("16.45"), 1645, 1645)


@pytest.mark.parametrize(
    ("model", "quantity", "total"),
    [
        ("graduated", 1_000, 2_00),
        ("graduated", 10_000, 11_00),
        ("graduated", 145_200, 78_60),
        ("volume", 1_000, 2_00),
        ("volume", 10_000, 10_00),
        ("volume", 145_200, 72_60),
    ],
)
def test_the_documented_tiers(model: str, quantity: int, total: int) -> None:
    """0-1,000 at 0.002, 1,001-10,000 at 0.001, above at 0.0005: each unit by its tier, or all."""
    tiers = (
        Tier(up_to=Decimal(1_000), unit_price=Decimal("0.002")),
        Tier(up_to=Decimal(10_000), unit_price=Decimal("0.001")),
        Tier(up_to=None, unit_price=Decimal("0.0005")),
    )
    terms = plan(usage_charge(model, tiers=tiers), type="USAGE")
    assert calculate(terms, {"calls": Decimal(quantity)}).total_minor == total


def test_a_manual_invoice_of_1700_with_18_percent_is_2006() -> None:
    """500 + 8 x 150 = 1,700; 18 % of it is 306."""
    subtotal = to_minor(Decimal(500) + 8 * Decimal(150), "USD")
    added = tax(subtotal, Decimal(18), "USD")
    assert (subtotal, added, subtotal + added) == (1_700_00, 306_00, 2_006_00)


@pytest.mark.parametrize(
    ("subtotal_minor", "percent", "currency", "expected"),
    [
        (150, "21", "USD", 32),
        (-150, "21", "USD", -32),
        (1_000, "8.25", "USD", 83),
        (5, "10", "JPY", 1),
        (4, "10", "JPY", 0),
        (1_000, "5", "KWD", 50),
        (1_010, "5", "KWD", 50),
        (1_100, "5", "KWD", 60),
        (1_000, "0", "USD", 0),
    ],
)
def test_tax_is_rounded_once(
    subtotal_minor: int, percent: str, currency: str, expected: int
) -> None:
    """Half up, to what the currency can be paid in, for credits as for debts."""
    assert tax(subtotal_minor, Decimal(percent), currency) == expected


def test_the_order_of_lines() -> None:
    """Base price, fixed charges, usage, minimum, whatever the order of the charges."""
    terms = plan(
        usage_charge(unit_price="1"),
        seat("30"),
        base_price=Decimal(10),
        minimum=Decimal(50),
    )
    invoice = calculate(terms, {"calls": Decimal("2.5")})
    assert amounts(invoice) == [
        ("base", Decimal("10.00")),
        ("fixed", Decimal("30.00")),
        ("usage", Decimal("2.50")),
        ("minimum", Decimal("7.50")),
    ]
    assert [(line.charge_id, line.metric) for line in invoice.lines] == [
        (None, None),
        ("seat", None),
        ("calls", "API_CALL"),
        (None, None),
    ]
    assert texts(invoice.lines[3]) == ["50 - 42.5 = 7.5"]
    assert invoice.total_minor == 50_00


def test_no_usage_has_a_line_too() -> None:
    """Whoever reads the invoice sees that the metric was looked at."""
    (line,) = calculate(plan(usage_charge(unit_price="0.01"), type="USAGE"), {}).lines
    assert (str(line.quantity), line.amount_minor, texts(line)) == ("0", 0, ["0 x 0.01 = 0"])


def test_a_reached_minimum_has_a_line_of_nothing() -> None:
    """So that a top-up billed before late usage came can be taken back."""
    terms = plan(usage_charge(unit_price="1"), minimum=Decimal(5))
    invoice = calculate(terms, {"calls": Decimal(7)})
    assert amounts(invoice) == [("usage", Decimal("7.00")), ("minimum", Decimal("0.00"))]
    assert texts(invoice.lines[1]) == ["5 - 7, not below 0 = 0"]


def test_an_inactive_charge_is_not_billed() -> None:
    """Neither its price nor its usage."""
    was = usage_charge(unit_price="1", active=False)
    assert calculate(plan(was), {"calls": Decimal(7)}).lines == ()


def test_a_unit_price_is_told_where_it_explains_the_line() -> None:
    """Quantity times unit price is the amount, or there is none and the steps say it."""
    terms = plan(
        usage_charge("included", "0.01", included=Decimal(10)), seat("30"), base_price=Decimal(9)
    )
    base, fixed, usage = calculate(terms, {"calls": Decimal(12)}).lines
    assert (base.quantity, base.unit_price) == (Decimal(1), Decimal(9))
    assert (fixed.quantity, fixed.unit_price) == (Decimal(1), Decimal(30))
    assert (usage.quantity, usage.unit_price) == (Decimal(12), None)


def test_a_share_is_of_what_is_agreed_per_period() -> None:
    """Base price, fixed charges, minimum and maximum are prorated; included units are not."""
    calls = usage_charge("included", "1", included=Decimal(100), maximum=Decimal(62))
    terms = plan(calls, seat("30"), base_price=Decimal(31), minimum=Decimal(310))
    invoice = calculate(terms, {"calls": Decimal(150)}, share=HALF_JANUARY)
    assert amounts(invoice) == [
        ("base", Decimal("17.00")),
        ("fixed", Decimal("16.45")),
        ("usage", Decimal("34.00")),
        ("minimum", Decimal("102.55")),
    ]
    assert texts(invoice.lines[2]) == [
        "100 of 100 included",
        "50 x 1 = 50",
        "lowered to the maximum of 34: 34 - 50 = -16",
    ]
    assert invoice.total_minor == 170_00


@pytest.mark.parametrize("share", [Fraction(-1, 31), Fraction(32, 31)])
def test_a_share_beyond_the_period_is_refused(share: Fraction) -> None:
    """It would be a price nobody agreed to."""
    with pytest.raises(ValueError, match="a share is from 0 to 1"):
        calculate(plan(), {}, share=share)


def test_usage_of_a_charge_that_is_not_there_is_refused() -> None:
    """Usage that was counted is not left out without a word."""
    with pytest.raises(ValueError, match=r"charges that the plan does not have: \['other'\]"):
        calculate(plan(usage_charge(unit_price="1")), {"other": Decimal(1)})


def test_each_line_is_rounded_and_the_total_is_their_sum() -> None:
    """Three lines of 0.005 are 0.03 as printed, not the 0.02 of their exact sum."""
    charges = [
        usage_charge(unit_price="0.005") if n == 0 else _named(f"m{n}", "0.005") for n in range(3)
    ]
    invoice = calculate(plan(*charges), {charge.id: Decimal(1) for charge in charges})
    assert [line.amount for line in invoice.lines] == [Decimal("0.005")] * 3
    assert [line.amount_minor for line in invoice.lines] == [1, 1, 1]
    assert invoice.total_minor == 3


def _named(name: str, unit_price: str) -> Charge:
    return Charge(
        id=name,
        kind="usage",
        display_name=name,
        metric=name.upper(),
        model="per_unit",
        unit_price=Decimal(unit_price),
    )


def test_late_usage_costs_the_difference() -> None:
    """12,000 calls were billed and 12,500 were made: 5.00 more, and the steps say why."""
    calls = usage_charge("included", "0.01", included=Decimal(10_000))
    late = difference(calls, Decimal(12_000), Decimal(12_500), "USD")
    assert late.amount_minor == 5_00
    assert [step.text for step in late.steps] == [
        "12,500 in all = 25",
        "12,000 billed before = -20",
    ]


def test_late_usage_of_a_cheaper_tier_gives_back() -> None:
    """By volume a larger total may cost less."""
    tiers = (
        Tier(up_to=Decimal(10), unit_price=Decimal(2)),
        Tier(up_to=None, unit_price=Decimal(1)),
    )
    late = difference(usage_charge("volume", tiers=tiers), Decimal(10), Decimal(12), "USD")
    assert late.amount_minor == -8_00


currencies = st.sampled_from(["USD", "JPY", "KWD", "ISK"])
prices = st.decimals(0, 10**6, places=12)
quantities = st.decimals(0, 10**20, allow_nan=False, allow_infinity=False, places=6)
shares = st.just(Fraction(1)) | st.fractions(0, 1)


@st.composite
def invoiced(draw: st.DrawFn) -> tuple[Terms, dict[str, Decimal]]:
    """Plans of all kinds of charges, and usage of some of them."""
    charges = []
    for n, model in enumerate(
        draw(st.lists(st.sampled_from(["fixed", "per_unit", "included", "package", "graduated"])))
    ):
        fields: dict[str, Any] = {"id": f"c{n}", "display_name": f"Charge {n}", "model": model}
        if model == "graduated":
            fields["tiers"] = (
                Tier(up_to=draw(st.integers(1, 99).map(Decimal)), unit_price=draw(prices)),
                Tier(up_to=None, unit_price=draw(prices), flat_price=draw(prices)),
            )
        else:
            fields["unit_price"] = draw(prices)
        if model == "package":
            fields["package_size"] = draw(st.integers(1, 1_000).map(Decimal))
        if model in ("included", "package"):
            fields["included"] = draw(st.integers(0, 1_000).map(Decimal))
        if model != "fixed":
            fields["metric"] = f"M{n}"
            fields["minimum"] = draw(st.none() | prices)
        charges.append(Charge(kind="fixed" if model == "fixed" else "usage", **fields))
    terms = plan(
        *charges,
        currency=draw(currencies),
        base_price=draw(prices),
        minimum=draw(st.none() | prices),
    )
    metered = [charge.id for charge in charges if charge.kind == "usage"]
    ids = draw(st.sets(st.sampled_from(metered))) if metered else set()
    return terms, {name: draw(quantities) for name in sorted(ids)}


@given(invoiced(), shares)
def test_an_invoice_adds_up(given_: tuple[Terms, dict[str, Decimal]], share: Fraction) -> None:
    """Steps to lines, lines to the total: exactly, in decimals and integers alone."""
    terms, usage = given_
    invoice = calculate(terms, usage, share=share)
    assert invoice.total_minor == sum(line.amount_minor for line in invoice.lines)
    assert invoice.total_minor % minor_step(terms.currency) == 0
    for line in invoice.lines:
        assert Fraction(line.amount) == sum(Fraction(step.amount) for step in line.steps)
        assert line.amount_minor == to_minor(line.amount, terms.currency)
        if line.unit_price is not None:
            assert Fraction(line.quantity) * Fraction(line.unit_price) == Fraction(line.amount)
        assert type(line.amount_minor) is int
        assert type(line.amount) is type(line.quantity) is Decimal
    if terms.minimum is not None:
        least = prorated(terms.minimum, share, terms.currency)
        assert invoice.total_minor >= to_minor(least, terms.currency)


@given(invoiced(), shares)
def test_rounding_a_bound_first_changes_nothing(
    given_: tuple[Terms, dict[str, Decimal]], share: Fraction
) -> None:
    """A line is what its exact amount, kept above the exact share of its minimum, rounds to."""
    terms, usage = given_
    charges = {charge.id: charge for charge in terms.charges}
    for line in calculate(terms, usage, share=share).lines:
        if line.kind != "usage" or line.charge_id is None:
            continue
        charge = charges[line.charge_id]
        unbounded = msgspec.structs.replace(charge, minimum=None)
        exact = Fraction(price(unbounded, line.quantity).amount)
        least = Fraction(charge.minimum or 0) * share
        assert line.amount_minor == to_minor(max(exact, least), terms.currency)


@given(st.lists(quantities, min_size=2, max_size=5), prices, currencies, shares)
def test_late_usage_comes_to_what_was_known_at_once(
    turns: list[Decimal], unit_price: Decimal, currency: str, share: Fraction
) -> None:
    """However often the quantity changes, all that was billed is the price of the last one."""
    charge = usage_charge(unit_price=str(unit_price), minimum=Decimal(7))
    once = calculate(plan(charge, currency=currency), {"calls": turns[0]}, share=share).total_minor
    late = 0
    for was, now in pairwise(turns):
        change = difference(charge, was, now, currency, share)
        between = sum(Fraction(step.amount) for step in change.steps)
        assert between == Fraction(from_minor(change.amount_minor, currency))
        late += change.amount_minor
    last = calculate(plan(charge, currency=currency), {"calls": turns[-1]}, share=share)
    assert once + late == last.total_minor


@given(prices, st.fractions(0, 1), currencies)
def test_parts_of_a_price_are_the_price_but_for_rounding(
    amount: Decimal, share: Fraction, currency: str
) -> None:
    """Two parts of a period differ from the whole by less than one step."""
    parts = sum(to_minor(prorated(amount, one, currency), currency) for one in (share, 1 - share))
    assert abs(parts - to_minor(amount, currency)) <= minor_step(currency)
