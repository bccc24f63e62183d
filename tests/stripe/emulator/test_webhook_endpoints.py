"""Webhook endpoints of the emulator, driven by the official SDK over TCP."""

from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator import listeners

HOOK: Any = {
    "url": "http://127.0.0.1:9/hook",
    "enabled_events": ["customer.created", "customer.deleted"],
    "description": "ours",
    "metadata": {"a": "1"},
}


def given(**changes: Any) -> Any:
    """The parameters with these changes; None leaves one out."""
    return {name: value for name, value in {**HOOK, **changes}.items() if value is not None}


def test_an_endpoint_is_made_changed_and_deleted(sdk: stripe_sdk.StripeClient) -> None:
    """The secret is shown once; every other property can be read back."""
    made = sdk.v1.webhook_endpoints.create(HOOK)
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    found = sdk.v1.webhook_endpoints.retrieve(made.id)
    assert not hasattr(found, "secret")
    assert (found.url, found.enabled_events, found.status) == (
        HOOK["url"],
        HOOK["enabled_events"],
        "enabled",
    )
    change: Any = {
        "disabled": True,
        "enabled_events": ["*"],
        "description": "",
        "metadata": {"b": "2"},
    }
    changed = sdk.v1.webhook_endpoints.update(made.id, change)
    assert (changed.status, changed.enabled_events, changed.description) == (
        "disabled",
        ["*"],
        None,
    )
    assert changed.metadata.to_dict() == {"a": "1", "b": "2"}
    assert changed.url == HOOK["url"]
    assert sdk.v1.webhook_endpoints.update(made.id, {"disabled": False}).status == "enabled"
    assert [made.id] == [one.id for one in sdk.v1.webhook_endpoints.list().data]
    assert sdk.v1.webhook_endpoints.delete(made.id).deleted
    assert sdk.v1.webhook_endpoints.list().data == []


def test_an_unknown_endpoint_is_missing(sdk: stripe_sdk.StripeClient) -> None:
    """Every call on an endpoint that does not exist is a 404."""
    endpoints = sdk.v1.webhook_endpoints
    for act in (endpoints.retrieve, endpoints.update, endpoints.delete):
        with pytest.raises(stripe_sdk.InvalidRequestError, match="No such webhook endpoint"):
            act("we_unknown")


def test_there_are_at_most_sixteen(sdk: stripe_sdk.StripeClient) -> None:
    """In one account and mode, event destinations included."""
    destination: Any = {
        "name": "x",
        "type": "webhook_endpoint",
        "event_payload": "snapshot",
        "enabled_events": ["*"],
        "webhook_endpoint": {"url": HOOK["url"]},
    }
    sdk.v2.core.event_destinations.create(destination)
    for _ in range(listeners.LISTENERS_MAX - 1):
        sdk.v1.webhook_endpoints.create(HOOK)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="maximum of 16"):
        sdk.v1.webhook_endpoints.create(HOOK)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="maximum of 16"):
        sdk.v2.core.event_destinations.create(destination)


def test_wrong_metadata_and_events_are_refused(sdk: stripe_sdk.StripeClient) -> None:
    """At creation and at a change; thin events are not for v1 endpoints."""
    made = sdk.v1.webhook_endpoints.create(HOOK)
    wrong: Any = {"k" * 41: "v"}
    with pytest.raises(stripe_sdk.InvalidRequestError, match="40 characters"):
        sdk.v1.webhook_endpoints.create(given(metadata=wrong))
    with pytest.raises(stripe_sdk.InvalidRequestError, match="40 characters"):
        sdk.v1.webhook_endpoints.update(made.id, {"metadata": wrong})
    thin: Any = ["v1.billing.meter.no_meter_found"]
    with pytest.raises(stripe_sdk.InvalidRequestError, match="enabled_events"):
        sdk.v1.webhook_endpoints.create(given(enabled_events=thin))


@pytest.mark.parametrize(
    "url", ["hooks", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:99999/", "http://[::1/"]
)
def test_an_address_that_is_none_is_refused(sdk: stripe_sdk.StripeClient, url: str) -> None:
    """At creation and at a change."""
    made = sdk.v1.webhook_endpoints.create(HOOK)
    with pytest.raises(stripe_sdk.InvalidRequestError, match="Invalid URL") as caught:
        sdk.v1.webhook_endpoints.create(given(url=url))
    assert caught.value.param == "url"
    with pytest.raises(stripe_sdk.InvalidRequestError, match="Invalid URL"):
        sdk.v1.webhook_endpoints.update(made.id, {"url": url})
