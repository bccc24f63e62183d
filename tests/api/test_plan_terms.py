"""Charges in the words of the API, to terms and back, without losing a digit."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from usageflow.api.plan_terms import EntitlementBody, NewCharge, told_charge, told_entitlement
from usageflow.catalog.charges import Charge, Tier
from usageflow.money import plain

PRICES = st.decimals(0, 10**9, allow_nan=False, places=12).map(plain).map(Decimal)


@given(unit_price=PRICES, included=PRICES, flat=PRICES)
def test_every_number_is_kept(unit_price: Decimal, included: Decimal, flat: Decimal) -> None:
    """As a Decimal all the way, never a float."""
    body = NewCharge.model_validate(
        {"metric": "CALLS", "overage_price": unit_price, "included_units": plain(included)}
    )
    charge = body.charge(None)
    assert (charge.unit_price, charge.included, charge.model) == (unit_price, included, "included")
    told = told_charge(charge, {"CALLS": "id"})
    assert (told.overage_price, told.included_units, told.meter_id) == (unit_price, included, "id")
    tiers = [{"up_to": None, "unit_price": unit_price, "flat_price": flat}]
    tiered = NewCharge.model_validate({"metric": "CALLS", "tiers": tiers}).charge(None)
    assert tiered.tiers == (Tier(up_to=None, unit_price=unit_price, flat_price=flat),)
    numbers = [
        charge.unit_price,
        charge.included,
        *told_charge(tiered, {}).tiers[0].model_dump().values(),
    ]
    assert not any(isinstance(number, float) for number in numbers)


def test_a_charge_without_a_metric_is_fixed() -> None:
    """Unless it says what it is; then what is missing is told by the terms."""
    fixed = NewCharge.model_validate({"unit_price": 5, "display_name": "Seat"}).charge(None)
    assert (fixed.kind, fixed.model, fixed.metric) == ("fixed", "fixed", None)
    usage = NewCharge.model_validate({"type": "USAGE", "unit_price": 5}).charge(None)
    assert (usage.kind, usage.model, usage.display_name) == ("usage", "per_unit", "")
    told = told_charge(
        Charge(id="c", kind="fixed", display_name="", model="fixed", active=False), {}
    )
    assert (told.type, told.status, told.overage_price) == ("FIXED", "INACTIVE", None)


def test_an_entitlement_comes_back_as_it_was() -> None:
    """Every field has its counterpart."""
    body = {
        "feature_id": "fea_1",
        "is_enabled": False,
        "usage_limit": 5,
        "usage_reset_period": "day",
        "is_soft_limit": True,
        "static_value": "x",
    }
    assert told_entitlement(EntitlementBody.model_validate(body).entitlement()).model_dump() == body
