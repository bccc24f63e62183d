"""Idempotency keys of both versions of the API, with the official SDK over TCP."""

from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator

DAY_S = 86_400
V2 = "/v2/billing/meter_events"
KEY: Any = {"idempotency_key": "k1"}


@pytest.fixture
def event(emulator: RemoteEmulator) -> Any:
    """The parameters of a meter event without an identifier: each one counts."""
    customer = emulator.seed([{"account_id": "acct_1"}], ["tokens"])[0]
    payload = {"stripe_customer_id": customer, "value": "5"}
    return {"event_name": "tokens", "payload": payload}


def test_v2_replays_for_30_days(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """The same key is the same event for a month, and another one after it."""
    first = sdk.v2.billing.meter_events.create(event, KEY)
    emulator.advance(30 * DAY_S - 60)
    assert sdk.v2.billing.meter_events.create(event, KEY).identifier == first.identifier
    emulator.advance(60)
    assert sdk.v2.billing.meter_events.create(event, KEY).identifier != first.identifier


def test_v2_runs_a_failed_request_again(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """A 500 is not stored, unlike in v1: whether it took effect, the same key finds out."""
    emulator.fault("status", route=V2, status=500)
    with pytest.raises(stripe_sdk.APIError):
        sdk.v2.billing.meter_events.create(event, KEY)
    sdk.v2.billing.meter_events.create(event, KEY)
    assert len(list(emulator.journal())) == 1


def test_the_versions_do_not_share_keys(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """One text may be a key of each."""
    sdk.v1.billing.meter_events.create(event, KEY)
    sdk.v2.billing.meter_events.create(event, KEY)
    assert len(list(emulator.journal())) == 2
