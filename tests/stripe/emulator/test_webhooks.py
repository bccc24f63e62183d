"""The control endpoints of events and deliveries; what deliveries do is in the post's tests."""

from typing import Any

import httpx
import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator


def test_any_event_can_happen(sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """A made-up event is in the log like any other."""
    made = emulator.event("customer.subscription.updated", {"id": "sub_1", "status": "unpaid"})
    found = sdk.v1.events.retrieve(made)
    assert (found.type, found.data.object["status"]) == ("customer.subscription.updated", "unpaid")
    assert "previous_attributes" not in found.data


def test_conduct_is_changed_step_by_step(emulator: RemoteEmulator) -> None:
    """What is not named stays as it was, and the answer shows all of it."""
    emulator.webhooks(duplicate_rate=0.5)
    answer = httpx.post(f"{emulator.url}/_emulator/webhooks", json={"pause": True}).json()
    assert (answer["duplicate_rate"], answer["pause"]) == (0.5, True)
    emulator.reset()
    answer = httpx.post(f"{emulator.url}/_emulator/webhooks", json={}).json()
    assert (answer["duplicate_rate"], answer["pause"]) == (0, False)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("webhooks", {"speed": 1}),
        ("webhooks", {"drop_rate": 2}),
        ("webhooks", []),
        ("events", {"type": "x"}),
    ],
)
def test_a_wrong_wish_is_explained(emulator: RemoteEmulator, path: str, body: Any) -> None:
    """It is a 400 with the reason."""
    headers = {"authorization": f"Bearer {emulator.api_key}"}
    answer = httpx.post(f"{emulator.url}/_emulator/{path}", json=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_an_event_needs_a_key(emulator: RemoteEmulator) -> None:
    """The key says whose event it is."""
    body: Any = {"type": "customer.created", "object": {}}
    assert httpx.post(f"{emulator.url}/_emulator/events", json=body).status_code == 401
