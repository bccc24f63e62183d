"""Cancelled meter events, driven by the official SDK over TCP."""

from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator

DAY_S = 86_400
CANCEL: Any = {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "one"}}


@pytest.fixture
def customer(sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> str:
    """A customer with two events, `one` of 5 and `two` of 7."""
    made = emulator.seed([{"account_id": "acct_1"}], ["tokens"])[0]
    for identifier, value in (("one", "5"), ("two", "7")):
        payload = {"stripe_customer_id": made, "value": value}
        event: Any = {"event_name": "tokens", "payload": payload, "identifier": identifier}
        sdk.v1.billing.meter_events.create(event)
    return made


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_cancelled_event_leaves_the_sums(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, version: str
) -> None:
    """By either version; the journal keeps both its receipt and its cancellation."""
    billing: Any = getattr(sdk, version).billing
    made = billing.meter_event_adjustments.create(CANCEL)
    assert (made.status, made.event_name, made.cancel.identifier) == ("complete", "tokens", "one")
    assert str(emulator.applied("account_id")["acct_1", "tokens"]) == "7"
    assert [row["identifier"] for row in emulator.journal()] == ["two"]
    rows = [(row["kind"], row["identifier"]) for row in emulator.journal(every=True)]
    assert rows == [("applied", "one"), ("applied", "two"), ("cancelled", "one")]


def test_a_cancelled_identifier_is_not_free_again(
    sdk: stripe_sdk.StripeClient, customer: str
) -> None:
    """Its window goes on, as if the event were still there."""
    sdk.v1.billing.meter_event_adjustments.create(CANCEL)
    payload = {"stripe_customer_id": customer, "value": "1"}
    event: Any = {"event_name": "tokens", "payload": payload, "identifier": "one"}
    with pytest.raises(stripe_sdk.InvalidRequestError, match="already exists"):
        sdk.v1.billing.meter_events.create(event)


def test_all_that_a_customer_used_can_be_cancelled(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """What is left is nothing, neither in the totals nor in the summaries."""
    for identifier in ("one", "two"):
        sdk.v1.billing.meter_event_adjustments.create(
            {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": identifier}}
        )
    assert emulator.applied("account_id") == {}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cancel": {"identifier": "three"}}, "No event of this name"),
        ({"event_name": "calls"}, "No event of this name"),
    ],
)
def test_only_a_known_event_is_cancelled(
    sdk: stripe_sdk.StripeClient, customer: str, version: str, changes: Any, message: str
) -> None:
    """The identifier and the event name must belong together; v2 has a code for it."""
    billing: Any = getattr(sdk, version).billing
    with pytest.raises(stripe_sdk.InvalidRequestError, match=message) as caught:
        billing.meter_event_adjustments.create({**CANCEL, **changes})
    assert (caught.value.code == "invalid_cancel_configuration") == (version == "v2")


def test_an_event_is_cancelled_once_and_within_24_hours(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """A second time is refused, and so is a day later."""
    sdk.v1.billing.meter_event_adjustments.create(CANCEL)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="is cancelled"):
        sdk.v1.billing.meter_event_adjustments.create(CANCEL)
    emulator.advance(DAY_S)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="within 24 hours"):
        sdk.v1.billing.meter_event_adjustments.create(
            {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": "two"}}
        )


def test_a_cancellation_says_of_what(sdk: stripe_sdk.StripeClient, customer: str) -> None:
    """v1 has `cancel` as optional, but there is nothing else to do."""
    with pytest.raises(stripe_sdk.InvalidRequestError, match="Missing required param"):
        sdk.v1.billing.meter_event_adjustments.create({"event_name": "tokens", "type": "cancel"})
