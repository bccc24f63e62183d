"""Deliveries of the emulator: signed, retried and disturbed, over TCP to a real receiver."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import stripe as stripe_sdk
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

Connect = Callable[..., stripe_sdk.StripeClient]


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


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is about to happen."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


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


def test_a_receiver_that_fails_is_tried_again(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """After anything but a 2xx, a redirect included, with the same bytes; until it succeeds."""
    listen(sdk, receiver.url)
    receiver.answers = [500, 302]
    sdk.v1.customers.create()
    quick.settle()
    assert [row["status"] for row in quick.deliveries()] == [500, 302, 200]
    assert len({body for body, _ in receiver.got}) == 1
    assert sdk.v1.events.list({"delivery_success": False}).data == []


def test_attempts_end(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """When the schedule is used up; the event then counts as not delivered."""
    listen(sdk, receiver.url)
    listen(sdk, "http://127.0.0.1:9/nobody")
    receiver.answers = [404] * 5
    sdk.v1.customers.create()
    quick.settle()
    assert len(receiver.got) == 3
    errors = [row["error"] for row in quick.deliveries() if row["status"] is None]
    assert errors == ["ConnectError"] * 3
    (event,) = sdk.v1.events.list({"delivery_success": False}).data
    assert event.pending_webhooks == 2


def test_deliveries_are_held_back_and_flushed(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """In a pause nothing leaves but what is flushed; after it the rest, in order."""
    endpoint = listen(sdk, receiver.url, "customer.created")
    quick.webhooks(pause=True)
    made = [sdk.v1.customers.create().id for _ in range(3)]
    with pytest.raises(TimeoutError):
        quick.settle(timeout_s=0.05)
    assert receiver.got == []
    quick.webhooks(flush=True)
    until(lambda: len(receiver.got) == 3)
    made.append(sdk.v1.customers.create().id)
    assert len(quick.deliveries()) == 3
    quick.webhooks(pause=False)
    quick.settle()
    events = read(sdk, receiver, endpoint)
    assert made == [event.data.object["id"] for event in events]


def test_shuffled_deliveries_follow_the_seed(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """One seed, one order, and not the one in which the events happened."""
    orders = []
    for _ in range(2):
        quick.reset()
        quick.webhooks(pause=True, shuffle=True, seed=7)
        endpoint = listen(sdk, receiver.url, "customer.created")
        for number in range(8):
            sdk.v1.customers.create({"name": str(number)})
        quick.webhooks(flush=True, pause=False)
        quick.settle()
        orders.append([event.data.object["name"] for event in read(sdk, receiver, endpoint)])
        receiver.got.clear()
    assert orders[0] == orders[1]
    assert orders[0] != sorted(orders[0])
    assert sorted(orders[0]) == [str(number) for number in range(8)]


def test_deliveries_are_doubled_lost_and_late(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """As often as asked; a doubled one is delivered once, a lost one never."""
    endpoint = listen(sdk, receiver.url, "customer.created")
    quick.webhooks(duplicate_rate=1, delay_s=0.01)
    sdk.v1.customers.create()
    quick.settle()
    twice = read(sdk, receiver, endpoint)
    assert len(twice) == 2
    assert len({event.id for event in twice}) == 1
    assert [row["duplicate"] for row in quick.deliveries()] == [False, True]
    assert sdk.v1.events.retrieve(twice[0].id).pending_webhooks == 0
    quick.webhooks(drop_rate=1)
    sdk.v1.customers.create()
    quick.settle()
    assert len(receiver.got) == 2
    assert quick.deliveries()[-1]["error"] == "dropped"
    assert len(sdk.v1.events.list({"delivery_success": False}).data) == 1


def test_a_retry_in_a_pause_waits(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """What was flushed and failed is held back again."""
    listen(sdk, receiver.url, "customer.created")
    quick.webhooks(pause=True)
    receiver.answers = [500]
    sdk.v1.customers.create()
    quick.webhooks(flush=True)
    until(lambda: bool(quick.deliveries()))
    quick.webhooks(pause=False)
    quick.settle()
    assert [row["status"] for row in quick.deliveries()] == [500, 200]


def test_a_disabled_endpoint_gets_nothing(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """Neither what waits when it is disabled or deleted, nor what comes."""
    first, second = (listen(sdk, receiver.url, "customer.created") for _ in range(2))
    quick.webhooks(pause=True)
    sdk.v1.customers.create()
    sdk.v1.webhook_endpoints.update(first.id, {"disabled": True})
    sdk.v1.webhook_endpoints.delete(second.id)
    sdk.v1.customers.create()
    quick.webhooks(pause=False)
    quick.settle()
    assert receiver.got == []
    assert [row["error"] for row in quick.deliveries()] == ["endpoint disabled"] * 2


@pytest.mark.parametrize(
    ("allow", "outcome"), [(False, (None, "not an address of this machine")), (True, (200, None))]
)
def test_webhooks_stay_on_this_machine_unless_let_out(
    receiver: Receiver,
    allow: bool,  # noqa: FBT001 - a case
    outcome: tuple[int | None, str | None],
) -> None:
    """An address that is not plainly of this machine is not posted to, and the log says so."""
    with running(create_emulator(allow_remote_webhooks=allow)) as url:
        emulator = RemoteEmulator(url, "sk_test_emulated")
        bases: Any = dict.fromkeys(("api", "connect", "files", "meter_events"), url)
        sdk = stripe_sdk.StripeClient("sk_test_emulated", base_addresses=bases)
        listen(sdk, receiver.url.replace("127.0.0.1", "0.0.0.0"))
        sdk.v1.customers.create()
        emulator.settle()
        (attempt,) = emulator.deliveries()
        assert (attempt["status"], attempt["error"]) == outcome


def test_a_platform_hears_its_connected_accounts(
    quick: RemoteEmulator, receiver: Receiver, connect: Connect
) -> None:
    """Connect endpoints hear them with `account`; a live one also hears test events."""
    test, live = connect("sk_test_p"), connect("sk_live_p")
    for key in ("sk_test_p", "sk_live_p"):
        headers = {"authorization": f"Bearer {key}", "stripe-account": "acct_x"}
        httpx.post(f"{quick.url}/_emulator/seed", json={}, headers=headers).raise_for_status()
    endpoints = {
        "live": listen(live, f"{receiver.url}?live", "customer.created", connect=True),
        "test": listen(test, f"{receiver.url}?test", "customer.created", connect=True),
        "own": listen(test, f"{receiver.url}?own", "customer.created"),
    }
    for sdk in (test, live):
        sdk.v1.customers.create({}, {"stripe_account": "acct_x"})
    test.v1.customers.create()
    quick.settle()
    heard = [(row["endpoint"], row["account"]) for row in quick.deliveries()]
    own = test.v1.accounts.retrieve_current().id
    assert sorted(heard) == sorted(
        [
            (endpoints["live"].id, "acct_x"),
            (endpoints["live"].id, "acct_x"),
            (endpoints["test"].id, "acct_x"),
            (endpoints["own"].id, own),
        ]
    )
    bodies = [json.loads(body) for body, _ in receiver.got]
    assert sorted((body.get("account", "-"), body["livemode"]) for body in bodies) == [
        ("-", False),
        ("acct_x", False),
        ("acct_x", False),
        ("acct_x", True),
    ]


def test_a_platform_hears_that_an_account_has_left(
    quick: RemoteEmulator, receiver: Receiver, connect: Connect
) -> None:
    """It and no other platform, though the account is gone by then."""
    ours, theirs = connect(), connect("sk_test_other")
    for key in (quick.api_key, "sk_test_other"):
        headers = {"authorization": f"Bearer {key}", "stripe-account": "acct_x"}
        httpx.post(f"{quick.url}/_emulator/seed", json={}, headers=headers).raise_for_status()
    endpoint = listen(ours, receiver.url, "account.application.deauthorized", connect=True)
    listen(theirs, receiver.url, connect=True)
    listen(ours, receiver.url)
    quick.deauthorize("acct_x")
    quick.settle()
    (event,) = read(ours, receiver, endpoint)
    assert (event.type, event.account) == ("account.application.deauthorized", "acct_x")
    assert event.data.object["object"] == "application"
    assert len(theirs.v1.customers.list({}, {"stripe_account": "acct_x"}).data) == 0


def test_a_thin_notification_has_no_data(
    quick: RemoteEmulator, receiver: Receiver, sdk: stripe_sdk.StripeClient
) -> None:
    """The SDK reads it, and fetches the event behind it."""
    destination = sdk.v2.core.event_destinations.create(
        {
            "name": "errors",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": ["v1.billing.meter.no_meter_found"],
            "webhook_endpoint": {"url": receiver.url},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    listen(sdk, receiver.url)
    ping = sdk.v2.core.event_destinations.ping(destination.id)
    quick.settle()
    ((body, signed),) = receiver.got
    assert destination.webhook_endpoint is not None
    secret = destination.webhook_endpoint.signing_secret
    assert secret is not None
    notification = sdk.parse_event_notification(body, signed, secret)
    assert (notification.id, notification.type) == (ping.id, "v2.core.event_destination.ping")
    assert "data" not in json.loads(body)
    assert notification.fetch_event().id == ping.id


def test_a_platform_hears_what_became_of_an_accounts_usage(
    quick: RemoteEmulator, receiver: Receiver, sdk: stripe_sdk.StripeClient
) -> None:
    """The notification names the account, and the SDK fetches the event from there."""
    headers = {"authorization": f"Bearer {quick.api_key}", "stripe-account": "acct_x"}
    body = {"meters": [{"event_name": "tokens"}]}
    httpx.post(f"{quick.url}/_emulator/seed", json=body, headers=headers).raise_for_status()
    destination = sdk.v2.core.event_destinations.create(
        {
            "name": "errors",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "events_from": ["@accounts"],
            "enabled_events": ["v1.billing.meter.error_report_triggered"],
            "webhook_endpoint": {"url": receiver.url},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    event: Any = {"stripe_customer_id": "cus_unknown", "value": "1"}
    sdk.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": event}, {"stripe_account": "acct_x"}
    )
    quick.advance(60)
    quick.settle()
    ((body_sent, signed),) = receiver.got
    assert destination.webhook_endpoint is not None
    secret = destination.webhook_endpoint.signing_secret
    assert secret is not None
    notification = sdk.parse_event_notification(body_sent, signed, secret)
    assert str(notification.context) == "acct_x"
    fetched = notification.fetch_event().to_dict()
    assert fetched["data"]["reason"]["error_count"] == 1


def test_a_snapshot_follows_the_endpoints_version(
    quick: RemoteEmulator, receiver: Receiver, sdk: stripe_sdk.StripeClient
) -> None:
    """What is delivered is written in the version the endpoint was made with."""
    endpoint = listen(sdk, receiver.url, api_version="2026-04-22.dahlia")
    quick.event(
        "customer.subscription.updated",
        {"id": "sub_1", "object": "subscription", "status": "unpaid"},
        previous_attributes={"status": "past_due"},
    )
    quick.settle()
    (event,) = read(sdk, receiver, endpoint)
    assert event.api_version == "2026-04-22.dahlia"
    assert event.to_dict()["data"]["previous_attributes"] == {"status": "past_due"}


def test_a_reset_forgets_what_waits(
    sdk: stripe_sdk.StripeClient, quick: RemoteEmulator, receiver: Receiver
) -> None:
    """Nothing of before arrives after it."""
    listen(sdk, receiver.url)
    quick.webhooks(delay_s=30)
    sdk.v1.customers.create()
    quick.reset()
    quick.settle()
    assert quick.deliveries() == []
    sdk.v1.customers.create()
    quick.settle()
    assert receiver.got == []
