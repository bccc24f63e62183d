"""Lines: a period's price less what was billed of it, whatever came in between."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from usageflow.billing.calculation import calculate
from usageflow.billing.lines import (
    Billed,
    InvoiceLine,
    Segment,
    canonical,
    late_lines,
    period_lines,
    sums,
)
from usageflow.catalog.charges import Charge, Terms, Tier

_TIERS = (
    Tier(up_to=Decimal(10), unit_price=Decimal("0.333")),
    Tier(up_to=Decimal(100), unit_price=Decimal("0.1"), flat_price=Decimal("1.005")),
    Tier(up_to=None, unit_price=Decimal("0.0001")),
)
_TERMS = Terms(
    type="HYBRID",
    currency="USD",
    interval="month",
    base_price=Decimal("9.99"),
    minimum=Decimal(30),
    charges=(
        Charge(id="a", kind="usage", display_name="A", metric="A", model="graduated", tiers=_TIERS),
        Charge(id="b", kind="usage", display_name="B", metric="B", model="volume", tiers=_TIERS),
        Charge(id="s", kind="fixed", display_name="Seat", model="fixed", unit_price=Decimal("0.5")),
    ),
)
_START, _END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
_quantities = st.decimals(0, 1_000, places=3)


def segment(*, running: bool = False, share: Fraction = Fraction(1)) -> Segment:
    """March under those terms."""
    return Segment("sub", "cus", "plan", 1, _TERMS, _START, _END, share, running)


def billed(lines: list[InvoiceLine], before: dict[str, Billed]) -> dict[str, Billed]:
    """What is billed once these lines are, too."""
    after = dict(before)
    for line in lines:
        key = line.charge_id or ""
        after[key] = Billed(before.get(key, Billed(0, None)).amount + line.amount, line.quantity)
    return after


@given(st.lists(st.tuples(_quantities, _quantities), max_size=4), _quantities, _quantities)
def test_all_invoices_together_bill_the_price_of_the_period(
    before: list[tuple[Decimal, Decimal]], a: Decimal, b: Decimal
) -> None:
    """However often it was invoiced meanwhile, and whatever was known then, it adds up exactly."""
    known: dict[str, Billed] = {}
    for one, other in before:
        lines = period_lines(segment(running=True), {"a": one, "b": other}, known)
        known = billed(lines, known)
    usage = {"a": a, "b": b}
    known = billed(period_lines(segment(), usage, known), known)
    assert sum(one.amount for one in known.values()) == calculate(_TERMS, usage).total_minor


@given(_quantities, _quantities, _quantities, st.fractions(0, 1))
def test_late_usage_bills_what_the_period_lacks(
    a: Decimal, b: Decimal, later: Decimal, share: Fraction
) -> None:
    """After late lines the period is billed as if all had been known; nothing is left then."""
    march = segment(share=share)
    known = billed(period_lines(march, {"a": a, "b": b}, {}), {})
    usage = {"a": a + later, "b": b}
    late = late_lines(march, usage, known, "UTC")
    assert all(line.kind == "late" and line.amount for line in late)
    known = billed(late, known)
    total = calculate(_TERMS, usage, share=share).total_minor
    assert sum(one.amount for one in known.values()) == total
    assert late_lines(march, usage, known, "UTC") == []


def test_a_running_period_bills_no_minimum_of_the_plan() -> None:
    """What is lacking is known at its end; a minimum that asks for nothing has no line at all."""
    running = period_lines(segment(running=True), {}, {})
    ended = period_lines(segment(), {}, {})
    enough = period_lines(segment(), {"a": Decimal(10**6)}, {})
    assert [line.kind for line in running] == ["base", "fixed", "usage", "usage"]
    assert [line.kind for line in ended][-1] == "minimum"
    assert [line.kind for line in enough] == ["base", "fixed", "usage", "usage"]


def test_equal_lines_have_equal_bytes() -> None:
    """And lines that differ in anything do not."""
    lines = period_lines(segment(), {"a": Decimal("1.50")}, {})
    again = period_lines(segment(), {"a": Decimal("1.5")}, {})
    other = period_lines(segment(), {"a": Decimal("1.51")}, {})
    assert canonical(lines) == canonical(again)
    assert canonical(lines) != canonical(other)


def test_an_invoice_comes_to_its_lines_and_the_tax_on_them() -> None:
    """The tax is rounded once; without a percentage there is none."""
    lines = period_lines(segment(running=True), {}, {})
    assert sums(lines, None, "USD") == (1_049, 0, 1_049)
    assert sums(lines, Decimal(19), "USD") == (1_049, 199, 1_248)
