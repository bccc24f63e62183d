"""Which earlier periods an invoice may have late usage of."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec

from usageflow.billing.late import LATE_DAYS, PastLine, billed, earlier
from usageflow.billing.lines import Billed, Segment
from usageflow.catalog.charges import Terms
from usageflow.catalog.organization_settings import LATE_HOURS_MAX

_TERMS = Terms(type="USAGE", currency="USD", interval="month")
_MAY = datetime(2026, 5, 1, tzinfo=UTC)
_HORIZON = _MAY - LATE_DAYS


def line(start: datetime, end: datetime, **values: Any) -> PastLine:
    """A line of an earlier invoice."""
    given = {"charge_id": "a", "quantity": Decimal(1), "amount": 5, "share": "1", "plan_version": 1}
    known: dict[str, Any] = given | {"invoice_id": "inv"} | values
    return PastLine(
        subscription_id="sub", period_start=start, period_end=end, plan_id="plan", **known
    )


def month(number: int) -> datetime:
    """Its first day."""
    return datetime(2026, number, 1, tzinfo=UTC)


def may(terms: Terms = _TERMS) -> Segment:
    """The segment whose invoice is made."""
    return Segment("sub", "cus", "plan", 1, terms, _MAY, _MAY + timedelta(days=31), Fraction(1))


def test_what_ended_not_long_before_may_have_late_usage() -> None:
    """March and April before May; what ended earlier than that no more, nor May itself."""
    lines = [line(month(number), month(number + 1)) for number in (1, 2, 3, 4, 5)]
    found = earlier(may(), lines, {("plan", 1): _TERMS}, _HORIZON)
    assert [one.start.month for one in found] == [3, 4]


def test_usage_is_taken_no_later_than_it_is_billed() -> None:
    """Whatever an organization chooses: nothing is accepted that no invoice would look for."""
    assert timedelta(hours=LATE_HOURS_MAX) <= LATE_DAYS


def test_the_period_just_before_may_have_late_usage_however_long_it_was() -> None:
    """A year that ended yesterday is looked at."""
    lines = [line(datetime(2025, 5, 1, tzinfo=UTC), _MAY)]
    assert len(earlier(may(), lines, {("plan", 1): _TERMS}, _HORIZON)) == 1


def test_a_period_is_as_its_last_invoice_has_it() -> None:
    """An invoice within it knew neither its end nor its share."""
    lines = [
        line(month(4), month(4) + timedelta(days=3)),
        line(month(4), month(4) + timedelta(days=20), share="2/3"),
    ]
    (found,) = earlier(may(), lines, {("plan", 1): _TERMS}, _HORIZON)
    assert (found.end, found.share) == (month(4) + timedelta(days=20), Fraction(2, 3))
    assert not found.running


def test_what_stripe_priced_is_not_billed_late_here() -> None:
    """Nor what was billed in another currency."""
    stripe = msgspec.structs.replace(_TERMS, collect="stripe_meters")
    euros = msgspec.structs.replace(_TERMS, currency="EUR")
    lines = [line(month(4), _MAY)]
    assert earlier(may(), lines, {("plan", 1): stripe}, _HORIZON) == []
    assert earlier(may(), lines, {("plan", 1): euros}, _HORIZON) == []


def test_what_was_billed_adds_up_by_charge_for_the_last_quantity() -> None:
    """Of one period alone."""
    lines = [
        line(month(4), _MAY),
        line(month(3), month(4), amount=100),
        line(month(4), _MAY, amount=7, quantity=Decimal(3)),
        line(month(4), _MAY, charge_id="base", quantity=None),
    ]
    assert billed(lines, month(4)) == {"a": Billed(12, Decimal(3)), "base": Billed(5, None)}
