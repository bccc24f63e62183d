"""Deliveries of the emulator: signed, retried and disturbed, over TCP to a real receiver."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import stripe as stripe_sdk
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running


@dataclass
class Receiver:
    """What arrived, and what is answered: `answers` one after the other, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[bytes, str]] = field(default_factory=list)

    def receive(self, body: bytes, signature: str) -> int:
        """The status to answer."""
        self.got.append((body, signature))
        return self.answers.pop(0) if self.answers else 200


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks on a free port."""
    made = Receiver()

    async def hook(request: Request) -> Response:
        status = made.receive(await request.body(), request.headers["stripe-signature"])
        return Response(status_code=status, headers={"location": made.url})

    with running(Starlette(routes=[Route("/hook", hook, methods=["POST"])])) as url:
        made.url = f"{url}/hook"
        yield made


@pytest.fixture
def quick(emulator: RemoteEmulator) -> RemoteEmulator:
    """The emulator, with retries that do not keep a test waiting."""
    emulator.webhooks(retry_after_s=[0.01, 0.02])
    return emulator


def listen(
    sdk: stripe_sdk.StripeClient, url: str, *kinds: str, **options: Any
) -> stripe_sdk.WebhookEndpoint:
    """A webhook endpoint for these events."""
    params: Any = {"url": url, "enabled_events": list(kinds) or ["*"], **options}
    return sdk.v1.webhook_endpoints.create(params)


def read(
    sdk: stripe_sdk.StripeClient, receiver: Receiver, endpoint: stripe_sdk.WebhookEndpoint
) -> list[stripe_sdk.Event]:
    """The events that arrived, each checked by the SDK."""
    assert endpoint.secret is not None
    return [sdk.construct_event(body, signed, endpoint.secret) for body, signed in receiver.got]


def test_an_event_arrives_signed(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """The SDK accepts the signature, and the event is the one that can be read back."""
    endpoint = listen(sdk, receiver.url, "customer.created")
    made = sdk.v1.customers.create({"name": "Zoë"})
    sdk.v1.customers.update(made.id, {"name": "not subscribed"})
    quick.settle()
    (event,) = read(sdk, receiver, endpoint)
    assert (event.type, event.data.object["name"], event.pending_webhooks) == (
        "customer.created",
        "Zoë",
        1,
    )
    assert sdk.v1.events.retrieve(event.id).pending_webhooks == 0
    (attempt,) = quick.deliveries()
    assert (attempt["endpoint"], attempt["attempt"], attempt["status"]) == (endpoint.id, 1, 200)
