"""Meters of the emulator, driven by the official SDK over TCP."""

from typing import Any

import pytest
import stripe as stripe_sdk

METER: Any = {
    "display_name": "Calls",
    "event_name": "api_call",
    "default_aggregation": {"formula": "sum"},
}


def test_a_meter_is_made_listed_and_renamed(sdk: stripe_sdk.StripeClient) -> None:
    """Defaults are Stripe's; only the display name can change."""
    made = sdk.v1.billing.meters.create(METER)
    assert (
        made.customer_mapping.event_payload_key,
        made.value_settings.event_payload_key,
        made.event_time_window,
    ) == ("stripe_customer_id", "value", None)
    assert (
        sdk.v1.billing.meters.update(made.id, {"display_name": "Requests"}).display_name
        == "Requests"
    )
    assert sdk.v1.billing.meters.retrieve(made.id).display_name == "Requests"
    assert [made.id] == [item.id for item in sdk.v1.billing.meters.list().data]


def test_an_event_name_belongs_to_one_meter_for_ever(sdk: stripe_sdk.StripeClient) -> None:
    """A second meter with the same event name is refused, also while the first is inactive."""
    made = sdk.v1.billing.meters.create(METER)
    sdk.v1.billing.meters.deactivate(made.id)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="already a meter") as caught:
        sdk.v1.billing.meters.create(METER)
    assert caught.value.param == "event_name"


def test_status_follows_deactivation(sdk: stripe_sdk.StripeClient) -> None:
    """Deactivated and reactivated meters are listed by status; a repeat is refused."""
    made = sdk.v1.billing.meters.create(METER)
    gone = sdk.v1.billing.meters.deactivate(made.id)
    assert gone.status == "inactive"
    assert gone.status_transitions.deactivated_at
    assert sdk.v1.billing.meters.list({"status": "active"}).data == []
    assert len(sdk.v1.billing.meters.list({"status": "inactive"}).data) == 1
    with pytest.raises(stripe_sdk.InvalidRequestError, match="already inactive"):
        sdk.v1.billing.meters.deactivate(made.id)
    assert sdk.v1.billing.meters.reactivate(made.id).status == "active"
    with pytest.raises(stripe_sdk.InvalidRequestError, match="already active"):
        sdk.v1.billing.meters.reactivate(made.id)


def test_an_unknown_meter_is_missing(sdk: stripe_sdk.StripeClient) -> None:
    """Every call on a meter that does not exist is a 404."""
    meters = sdk.v1.billing.meters
    for act in (meters.retrieve, meters.update, meters.deactivate, meters.reactivate):
        with pytest.raises(stripe_sdk.InvalidRequestError, match="No such meter"):
            act("mtr_unknown")
