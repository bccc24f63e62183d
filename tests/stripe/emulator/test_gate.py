"""Calls to the emulator over TCP: keys, accounts, limits, idempotency, faults, lanes, shapes."""

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib import resources
from typing import Any

import httpx
import pytest
import stripe as stripe_sdk
from jsonschema import Draft202012Validator

from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator

Connect = Callable[..., stripe_sdk.StripeClient]

METER: Any = {
    "display_name": "Tokens",
    "event_name": "tokens",
    "default_aggregation": {"formula": "sum"},
}


@pytest.fixture
def event(emulator: RemoteEmulator) -> Any:
    """The parameters of a meter event that is right."""
    customer = emulator.seed([{"account_id": "acct_1"}], ["tokens"])[0]
    payload = {"stripe_customer_id": customer, "value": "5"}
    return {"event_name": "tokens", "payload": payload, "identifier": "one"}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "You did not provide an API key"),
        ({"authorization": "Bearer nonsense"}, r"Invalid API Key provided: nonsens\*\*\*\*"),
        ({"authorization": "Basic !!!"}, "You did not provide an API key"),
    ],
)
def test_a_call_needs_a_key(
    emulator: RemoteEmulator, headers: dict[str, str], message: str
) -> None:
    """Without a key that looks like Stripe's the answer is 401, in Stripe's shape."""
    answer = httpx.get(f"{emulator.url}/v1/customers", headers=headers)
    assert answer.status_code == 401
    assert message.replace("\\", "") in answer.json()["error"]["message"]


def test_every_answer_has_a_request_id_and_the_emulated_time(emulator: RemoteEmulator) -> None:
    """The `Date` is that of the settable clock, on refusals too."""
    moment = datetime(2030, 1, 1, 12, tzinfo=UTC)
    emulator.set_clock(moment)
    for auth in ((emulator.api_key, ""), ("nonsense", "")):
        answer = httpx.get(f"{emulator.url}/v1/customers", auth=auth)
        assert answer.headers["Request-Id"].startswith("req_")
        (date,) = answer.headers.get_list("Date")
        assert timedelta(0) <= parsedate_to_datetime(date) - moment < timedelta(minutes=1)


@pytest.mark.parametrize("header", ["stripe-account", "stripe-context"])
def test_either_header_names_a_connected_account(emulator: RemoteEmulator, header: str) -> None:
    """`Stripe-Context` is the name of the same thing in v2."""
    headers = {"authorization": f"Bearer {emulator.api_key}", "stripe-account": "acct_other"}
    body: Any = {"customers": [{}]}
    httpx.post(f"{emulator.url}/_emulator/seed", json=body, headers=headers).raise_for_status()
    asked = {"authorization": f"Bearer {emulator.api_key}", header: "acct_other"}
    assert len(httpx.get(f"{emulator.url}/v1/customers", headers=asked).json()["data"]) == 1


def test_a_wrong_content_type_is_refused(emulator: RemoteEmulator) -> None:
    """JSON is not for v1, and a form is not for v2."""
    v1 = f"{emulator.url}/v1/customers"
    assert httpx.post(v1, json={}, auth=(emulator.api_key, "")).status_code == 400
    v2 = f"{emulator.url}/v2/billing/meter_events"
    headers = {"stripe-version": "2026-10-28.endive"}
    answer = httpx.post(v2, data={"a": "b"}, auth=(emulator.api_key, ""), headers=headers)
    assert answer.status_code == 415


def test_basic_authentication_is_accepted(emulator: RemoteEmulator) -> None:
    """`curl -u sk_test_...:` works as at Stripe, and every answer has a request id."""
    answer = httpx.get(f"{emulator.url}/v1/customers", auth=(emulator.api_key, ""))
    assert answer.status_code == 200
    assert answer.headers["Request-Id"].startswith("req_")


def test_accounts_and_modes_are_isolated(emulator: RemoteEmulator, connect: Connect) -> None:
    """Keys of one account share its objects; other accounts and the other mode do not see them."""
    made = connect("sk_test_A").v1.customers.create()
    assert [made.id] == [item.id for item in connect("rk_test_A").v1.customers.list().data]
    assert connect("sk_live_A").v1.customers.list().data == []
    assert connect("sk_test_B").v1.customers.list().data == []
    assert connect("sk_live_A").v1.customers.create().livemode
    assert not made.livemode
    own = emulator.state()["accounts"][0]["id"]
    assert len(connect("sk_test_A", stripe_account=own).v1.customers.list().data) == 1


def test_a_connected_account_must_be_known(emulator: RemoteEmulator, connect: Connect) -> None:
    """`Stripe-Account` opens a seeded account and refuses any other with `account_invalid`."""
    stranger = connect(emulator.api_key, stripe_account="acct_other")
    with pytest.raises(stripe_sdk.PermissionError, match="does not have access") as caught:
        stranger.v1.customers.list()
    assert caught.value.error is not None
    assert caught.value.error.code == "account_invalid"
    headers = {"authorization": f"Bearer {emulator.api_key}", "stripe-account": "acct_other"}
    body: Any = {"customers": [{}, {}]}
    httpx.post(f"{emulator.url}/_emulator/seed", json=body, headers=headers).raise_for_status()
    assert len(stranger.v1.customers.list().data) == 2
    assert connect().v1.customers.list().data == []


def test_an_unknown_route_is_a_404(emulator: RemoteEmulator) -> None:
    """What the API description does not have is said so."""
    answer = httpx.get(f"{emulator.url}/v1/nothing", auth=(emulator.api_key, ""))
    assert answer.status_code == 404
    assert "Unrecognized request URL" in answer.json()["error"]["message"]


def test_what_is_not_emulated_is_said_so(sdk: stripe_sdk.StripeClient) -> None:
    """A real operation that the emulator lacks is a 501, never a wrong answer."""
    with pytest.raises(stripe_sdk.APIError, match="does not emulate POST /v1/account_links yet"):
        sdk.v1.account_links.create({"account": "acct_1", "type": "account_onboarding"})


def test_a_repeated_idempotency_key_replays_the_first_answer(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """Same key and parameters: the same object, marked as replayed; after 24 hours a new one."""
    options: Any = {"idempotency_key": "k1"}
    first = sdk.v1.customers.create({"name": "Ada"}, options)
    again = sdk.v1.customers.create({"name": "Ada"}, options)
    assert first.id == again.id
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    emulator.advance(86_400)
    assert first.id != sdk.v1.customers.create({"name": "Ada"}, options).id


def test_an_idempotency_key_belongs_to_its_parameters(sdk: stripe_sdk.StripeClient) -> None:
    """The same key with other parameters, or one too long, is an idempotency error."""
    sdk.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k1"})
    with pytest.raises(stripe_sdk.IdempotencyError, match="same parameters"):
        sdk.v1.customers.create({"name": "Bob"}, {"idempotency_key": "k1"})
    with pytest.raises(stripe_sdk.IdempotencyError, match="up to 255"):
        sdk.v1.customers.create({"name": "Bob"}, {"idempotency_key": "k" * 256})


def test_a_stored_500_is_replayed_and_hides_what_happened(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """Under the key of a 500 nothing but that 500 comes back; a fresh key tells the truth."""
    emulator.fault("status", status=500, after_commit=True)
    for _ in range(2):
        with pytest.raises(stripe_sdk.APIError):
            sdk.v1.billing.meter_events.create(event, {"idempotency_key": "k1"})
    with pytest.raises(stripe_sdk.InvalidRequestError, match="already exists"):
        sdk.v1.billing.meter_events.create(event, {"idempotency_key": "k2"})


@pytest.mark.parametrize("status", [401, 409, 429, 503])
def test_what_did_not_run_is_not_kept(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any, status: int
) -> None:
    """After a refusal that ran nothing, the same idempotency key works."""
    emulator.fault("status", status=status)
    with pytest.raises(stripe_sdk.StripeError) as caught:
        sdk.v1.billing.meter_events.create(event, {"idempotency_key": "k1"})
    assert status == caught.value.http_status
    assert sdk.v1.billing.meter_events.create(event, {"idempotency_key": "k1"}).identifier == "one"


def test_a_key_in_use_is_a_conflict(sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """While the first call of a key runs, a second one with it is a 409."""
    emulator.fault("slow", route="POST /v1/customers", seconds=0.5)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sdk.v1.customers.create, {}, {"idempotency_key": "k1"})
        _wait_until(lambda: emulator.state()["faults"] == [])
        with pytest.raises(stripe_sdk.APIError) as caught:
            sdk.v1.customers.create({}, {"idempotency_key": "k1"})
        assert first.result(timeout=5).id
    assert caught.value.error is not None
    assert (caught.value.http_status, caught.value.error.code) == (409, "idempotency_key_in_use")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_reset_is_a_broken_connection(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any, moment: str
) -> None:
    """The SDK sees no answer at all; whether the event counted depends on when it broke."""
    sdk.v1.customers.list()  # so that a kept-alive connection is the one that breaks
    emulator.fault("reset", after_commit=moment == "after")
    with pytest.raises(stripe_sdk.APIConnectionError, match="reset by peer"):
        sdk.v1.billing.meter_events.create(event)
    assert bool(list(emulator.journal())) == (moment == "after")
    assert _calls(emulator) == {"reset": 1}


def test_without_our_server_a_reset_is_an_exception() -> None:
    """In process there is no connection to break, so the client sees a Python error instead."""

    async def call() -> None:
        transport = httpx.ASGITransport(create_emulator())
        async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as client:
            fault = [{"route": "GET /v1/customers", "kind": "reset"}]
            await client.post("/_emulator/faults", json=fault)
            await client.get("/v1/customers", headers={"authorization": "Bearer sk_test_A"})

    with pytest.raises(ConnectionResetError):
        asyncio.run(call())


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_500_before_or_after_the_effect(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any, moment: str
) -> None:
    """The same answer hides two truths; that is what makes it ambiguous."""
    emulator.fault("status", status=500, after_commit=moment == "after", count=2)
    for _ in range(2):
        with pytest.raises(stripe_sdk.APIError):
            sdk.v1.billing.meter_events.create(event)
    assert bool(list(emulator.journal())) == (moment == "after")
    assert _calls(emulator) == {"500": 2}


def test_a_rate_limit_says_its_reason_but_not_when_to_come_back(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """429 carries Stripe's reason header and no Retry-After."""
    emulator.fault("status", status=429)
    with pytest.raises(stripe_sdk.RateLimitError) as caught:
        sdk.v1.billing.meter_events.create(event)
    assert caught.value.headers is not None
    assert caught.value.headers["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
    assert "Retry-After" not in caught.value.headers


def test_faults_strike_their_route_in_order(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """A fault waits for its own route, and the first that was asked for strikes first."""
    emulator.fault("status", status=503)
    emulator.fault("status", status=500)
    sdk.v1.customers.list()
    for status in (503, 500):
        with pytest.raises(stripe_sdk.APIError) as caught:
            sdk.v1.billing.meter_events.create(event)
        assert status == caught.value.http_status
    sdk.v1.billing.meter_events.create(event)


def test_one_call_at_a_time_per_customer_and_meter(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """A second concurrent call is a lock timeout; another customer's call is not held up."""
    other = emulator.seed([{"account_id": "acct_2"}])[0]
    payload = {**event["payload"], "stripe_customer_id": other}
    second: Any = {**event, "identifier": "two"}
    neighbour: Any = {**event, "payload": payload, "identifier": "three"}
    emulator.fault("slow", seconds=0.5)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sdk.v1.billing.meter_events.create, event)
        _wait_until(lambda: emulator.state()["faults"] == [])
        with pytest.raises(stripe_sdk.RateLimitError) as caught:
            sdk.v1.billing.meter_events.create(second)
        sdk.v1.billing.meter_events.create(neighbour)
        first.result(timeout=5)
    assert caught.value.error is not None
    assert caught.value.headers is not None
    assert caught.value.error.code == "lock_timeout"
    assert "Stripe-Rate-Limited-Reason" not in caught.value.headers
    assert [row["identifier"] for row in emulator.journal()] == ["three", "one"]


def test_v2_has_a_conflict_for_a_second_call(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """The lane is one for both versions; each refuses in its own words."""
    second: Any = {**event, "identifier": "two"}
    emulator.fault("slow", seconds=0.5)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sdk.v1.billing.meter_events.create, event)
        _wait_until(lambda: emulator.state()["faults"] == [])
        with pytest.raises(stripe_sdk.APIError) as caught:
            sdk.v2.billing.meter_events.create(second)
        first.result(timeout=5)
    assert caught.value.error is not None
    assert caught.value.http_status == 409
    assert caught.value.error.code == "too_many_concurrent_requests"


def test_a_slow_answer_after_the_effect(
    emulator: RemoteEmulator, connect: Connect, event: Any
) -> None:
    """The event counts at once; only the answer is late."""
    impatient = connect(http_client=stripe_sdk.RequestsClient(timeout=0.2))
    emulator.fault("slow", seconds=0.4, after_commit=True)
    with pytest.raises(stripe_sdk.APIConnectionError):
        impatient.v1.billing.meter_events.create(event)
    assert len(list(emulator.journal())) == 1


def test_a_slow_call_takes_effect_although_nobody_waits(
    emulator: RemoteEmulator, connect: Connect, event: Any
) -> None:
    """A client that gave up cannot know: the event is counted later."""
    impatient = connect(http_client=stripe_sdk.RequestsClient(timeout=0.2))
    emulator.fault("slow", seconds=1.5)  # long enough to look at the journal before it ends
    with pytest.raises(stripe_sdk.APIConnectionError):
        impatient.v1.billing.meter_events.create(event)
    assert list(emulator.journal()) == []
    _wait_until(lambda: bool(list(emulator.journal())))


def test_every_object_has_the_published_shape(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, event: Any
) -> None:
    """Replies are valid by the response schemas of the API description."""
    document = json.loads(
        resources.files("usageflow.stripe.emulator").joinpath("openapi-slice.json").read_text()
    )
    schemas = _nullable(document["components"]["schemas"])
    meter = emulator.state()["accounts"][0]["meters"][0]["id"]
    customer = event["payload"]["stripe_customer_id"]
    sdk.v1.billing.meter_events.create(event)
    window = f"customer={customer}&start_time=0&end_time={int(time.time()) // 60 * 60 + 60}"
    objects = {
        "customer": f"customers/{customer}",
        "billing.meter": f"billing/meters/{meter}",
        "billing.meter_event_summary": f"billing/meters/{meter}/event_summaries?{window}",
        "error": "nothing",
    }
    for name, path in objects.items():
        shown = httpx.get(f"{emulator.url}/v1/{path}", auth=(emulator.api_key, "")).json()
        shown = shown["data"][0] if "data" in shown else shown
        Draft202012Validator(schemas[name]).validate(shown)


def _nullable(node: Any) -> Any:
    """The schema with OpenAPI's `nullable` written as JSON Schema has it."""
    if isinstance(node, list):
        return [_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _nullable(value) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def _calls(emulator: RemoteEmulator) -> Any:
    return emulator.state()["accounts"][0]["calls"]["POST /v1/billing/meter_events"]


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
