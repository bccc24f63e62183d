"""Event destinations of the emulator, driven by the official SDK over TCP."""

from typing import Any

import pytest
import stripe as stripe_sdk

ERRORS: Any = {
    "name": "Meter errors",
    "type": "webhook_endpoint",
    "event_payload": "thin",
    "enabled_events": ["v1.billing.meter.error_report_triggered"],
    "events_from": ["@accounts"],
    "webhook_endpoint": {"url": "http://127.0.0.1:9/hook"},
}


def given(**changes: Any) -> Any:
    """The parameters with these changes; None leaves one out."""
    return {name: value for name, value in {**ERRORS, **changes}.items() if value is not None}


def shown(destination: stripe_sdk.v2.core.EventDestination) -> tuple[Any, Any]:
    """The address and the secret that are shown."""
    endpoint = destination.webhook_endpoint
    assert endpoint is not None
    return endpoint.url, endpoint.signing_secret


def test_a_destination_is_made_and_found(sdk: stripe_sdk.StripeClient) -> None:
    """Address and secret are shown on request, the secret at creation alone."""
    destinations = sdk.v2.core.event_destinations
    asked: Any = {"include": ["webhook_endpoint.signing_secret", "webhook_endpoint.url"]}
    made = destinations.create(given(**asked))
    url, secret = shown(made)
    assert url == ERRORS["webhook_endpoint"]["url"]
    assert secret.startswith("whsec_")
    assert (made.status, made.event_payload, made.events_from) == ("enabled", "thin", ["@accounts"])
    assert shown(destinations.retrieve(made.id)) == (None, None)
    assert shown(destinations.retrieve(made.id, {"include": ["webhook_endpoint.url"]})) == (
        url,
        None,
    )
    other = destinations.create(given(metadata={"a": "1"}))
    assert other.metadata is not None
    assert other.metadata.to_dict() == {"a": "1"}
    assert [other.id, made.id] == [one.id for one in destinations.list().data]


def test_a_destination_is_disabled_and_enabled(sdk: stripe_sdk.StripeClient) -> None:
    """The status says so, and who did it."""
    destinations = sdk.v2.core.event_destinations
    made = destinations.create(ERRORS)
    disabled = destinations.disable(made.id)
    assert disabled.status == "disabled"
    assert disabled.to_dict()["status_details"] == {"disabled": {"reason": "user"}}
    assert destinations.enable(made.id).status == "enabled"


def test_a_destination_is_deleted(sdk: stripe_sdk.StripeClient) -> None:
    """Once; then it is not there."""
    destinations = sdk.v2.core.event_destinations
    made = destinations.create(ERRORS)
    assert destinations.delete(made.id).id == made.id
    assert destinations.list().data == []
    with pytest.raises(stripe_sdk.InvalidRequestError, match="No such event destination"):
        destinations.delete(made.id)


def test_an_unknown_destination_is_missing(sdk: stripe_sdk.StripeClient) -> None:
    """Every call on a destination that does not exist is a 404."""
    destinations = sdk.v2.core.event_destinations
    for act in (
        destinations.retrieve,
        destinations.enable,
        destinations.disable,
        destinations.ping,
    ):
        with pytest.raises(stripe_sdk.StripeError, match="No such event destination") as caught:
            act("ed_unknown")
        assert caught.value.http_status == 404


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"type": "amazon_eventbridge"}, 501, "webhook endpoints only"),
        ({"webhook_endpoint": None}, 400, "webhook_endpoint"),
        ({"webhook_endpoint": {"url": "hooks"}}, 400, "Invalid URL"),
        ({"events_from": ["@everyone"]}, 400, "@accounts"),
        ({"metadata": {"k" * 41: "v"}}, 400, "40 characters"),
    ],
)
def test_what_cannot_be_is_refused(
    sdk: stripe_sdk.StripeClient, changes: dict[str, Any], status: int, message: str
) -> None:
    """A destination that would never get an event is not made."""
    with pytest.raises(stripe_sdk.StripeError, match=message) as caught:
        sdk.v2.core.event_destinations.create(given(**changes))
    assert caught.value.http_status == status
