"""The door to the SDK, against the emulator over TCP."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import stripe as stripe_sdk

from usageflow.errors import DeliveryError
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)
from usageflow.stripe import inbound, transport
from usageflow.stripe.client import StripeGateway, parse_webhook
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.inbound import Connected
from usageflow.stripe.meter_events import Meter, MeterEvent

DAY_S = 86_400


def event(customer: str = "cus_1", name: str = "tokens", identifier: str = "one") -> MeterEvent:
    """A meter event of now."""
    payload = {"stripe_customer_id": customer, "value": "5"}
    return MeterEvent(name, identifier, int(time.time()), payload)


@contextmanager
def answering(text: bytes) -> Iterator[str]:
    """The URL of a server that answers one connection with these bytes, then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(text)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def test_an_event_is_accepted_once(gateway: StripeGateway, emulator: RemoteEmulator) -> None:
    """The second send of an identifier is a duplicate, which is as good as accepted."""
    customer = emulator.seed([{}], ["tokens"])[0]
    assert gateway.send_meter_event(event(customer)) == Accepted()
    assert gateway.send_meter_event(event(customer)) == Accepted(duplicate=True)
    assert len(list(emulator.journal())) == 1


def test_a_refused_event_says_why(gateway: StripeGateway) -> None:
    """Stripe's message is kept for the human who will read it."""
    assert gateway.send_meter_event(event()) == Quarantined(
        "http_400", 'No active meter found for event name "tokens"'
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AccountPaused), (403, AccountPaused), (409, Busy), (429, Busy), (500, Ambiguous)],
)
def test_statuses_become_verdicts(
    gateway: StripeGateway, emulator: RemoteEmulator, status: int, kind: type[Verdict]
) -> None:
    """Each error class of the SDK arrives as its verdict, after one attempt."""
    customer = emulator.seed([{}], ["tokens"])[0]
    emulator.fault("status", status=status)
    assert isinstance(gateway.send_meter_event(event(customer)), kind)
    assert gateway.send_meter_event(event(customer)) == Accepted()


def test_a_lost_answer_is_ambiguous(gateway: StripeGateway, emulator: RemoteEmulator) -> None:
    """A reset and a timeout decide nothing; a refused connection says that nothing was sent."""
    customer = emulator.seed([{}], ["tokens"])[0]
    emulator.fault("reset")
    assert isinstance(gateway.send_meter_event(event(customer)), Ambiguous)
    emulator.fault("slow", seconds=0.5)
    for base, kind in ((emulator.url, Ambiguous), ("http://127.0.0.1:1", Busy)):
        impatient = StripeGateway(emulator.api_key, base=base, timeout_s=0.2)
        assert isinstance(impatient.send_meter_event(event(customer)), kind)
        impatient.close()


@pytest.mark.parametrize("body", [b"not json", b""])
def test_a_success_that_cannot_be_read_is_ambiguous(body: bytes) -> None:
    """A 200 from something that is not Stripe proves nothing."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    with answering(head + body) as url:
        gateway = StripeGateway("sk_test_x", base=url, timeout_s=2)
        assert isinstance(gateway.send_meter_event(event()), Ambiguous)
        gateway.close()


def test_every_attempt_has_an_idempotency_key_of_its_own(
    gateway: StripeGateway, emulator: RemoteEmulator
) -> None:
    """A stored 500 is not replayed: the next attempt learns what really happened."""
    customer = emulator.seed([{}], ["tokens"])[0]
    emulator.fault("status", status=500, after_commit=True)
    assert isinstance(gateway.send_meter_event(event(customer)), Ambiguous)
    assert gateway.send_meter_event(event(customer)) == Accepted(duplicate=True)


def test_meters_are_listed_with_what_they_expect(
    gateway: StripeGateway, emulator: RemoteEmulator
) -> None:
    """Formula, status, time window and payload keys come from Stripe; more than a page is read."""
    names = [f"meter_{number:03}" for number in range(120)]
    emulator.seed([], [*names, {"event_name": "seats", "formula": "last"}])
    meters = {meter.event_name: meter for meter in gateway.list_meters()}
    assert len(meters) == 121
    assert meters["seats"] == Meter(
        event_name="seats", meter_id=meters["seats"].meter_id, formula="last"
    )
    assert meters["seats"].meter_id.startswith("mtr_")


def test_customers_are_listed_searched_and_read(
    gateway: StripeGateway, emulator: RemoteEmulator, sdk: stripe_sdk.StripeClient
) -> None:
    """Lists follow their pages; quotes and backslashes in a value are searched literally."""
    odd = 'a"b\\c'
    emulator.seed([{"account_id": f"acct_{number}"} for number in range(120)])
    wanted = emulator.seed([{"account_id": odd}])[0]
    assert len({customer.customer_id for customer in gateway.list_customers()}) == 121
    found = gateway.search_customers("account_id", odd)
    assert [(one.customer_id, one.metadata) for one in found] == [(wanted, {"account_id": odd})]
    assert gateway.customer(wanted) == found[0]
    sdk.v1.customers.delete(wanted)
    assert gateway.customer(wanted) is None
    assert gateway.customer("cus_unknown") is None


def test_summaries_are_exact_as_shown(gateway: StripeGateway, emulator: RemoteEmulator) -> None:
    """0.1 and 0.2 make 0.3 for whoever reads the shortest form of Stripe's float."""
    customer = emulator.seed([{}], ["tokens"])[0]
    meter = next(gateway.list_meters())
    midnight = int(time.time()) // DAY_S * DAY_S - DAY_S
    for number, value in enumerate(("0.1", "0.2")):
        payload = {"stripe_customer_id": customer, "value": value}
        gateway.send_meter_event(MeterEvent("tokens", str(number), midnight, payload))
    start, end = (datetime.fromtimestamp(midnight + at, UTC) for at in (0, DAY_S))
    for window in ("hour", "day"):
        rows = gateway.event_summaries(meter.meter_id, customer, start, end, window)
        assert list(rows) == [(start, Decimal("0.3"))]


@pytest.mark.parametrize(("status", "refused"), [(401, True), (403, True), (500, False)])
def test_reading_fails_with_an_explanation(
    gateway: StripeGateway, emulator: RemoteEmulator, status: int, *, refused: bool
) -> None:
    """Every read raises DeliveryError, which tells a refused key from a bad moment."""
    emulator.fault("status", route="GET /v1/", status=status, count=4)
    for read in (
        lambda: list(gateway.list_meters()),
        lambda: list(gateway.list_customers()),
        lambda: gateway.search_customers("a", "b"),
        lambda: gateway.customer("cus_1"),
    ):
        with pytest.raises(DeliveryError, match=r"^Stripe: ") as caught:
            read()
        assert caught.value.refused == refused


def test_a_connected_account_is_spoken_to(emulator: RemoteEmulator) -> None:
    """`account` becomes the Stripe-Account header: an unknown one is refused as such."""
    gateway = StripeGateway(emulator.api_key, base=emulator.url, timeout_s=5, account="acct_x")
    with pytest.raises(DeliveryError, match="acct_x") as caught:
        list(gateway.list_meters())
    assert caught.value.refused
    gateway.close()


@pytest.mark.parametrize(
    ("key", "livemode"),
    [("sk_live_x", True), ("rk_live_x", True), ("sk_test_x", False), ("rk_test_x", False)],
)
def test_the_mode_is_told_by_the_key(key: str, *, livemode: bool) -> None:
    """Stripe's prefixes say which mode a key is for."""
    gateway = StripeGateway(key, timeout_s=1)
    assert gateway.livemode == livemode
    gateway.close()


def test_a_report_tells_the_unit_by_its_idempotency_key(
    gateway: StripeGateway, emulator: RemoteEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key begins with the identifier, and is another one each time."""
    keys = []
    send = transport.Wire.request

    def seen(
        wire: transport.Wire,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | str | None = None,
    ) -> object:
        keys.append(headers["Idempotency-Key"])
        return send(wire, method, url, headers, body)

    monkeypatch.setattr(transport.Wire, "request", seen)
    for _ in range(2):
        gateway.send_meter_event(event(identifier="uf1_a"))
    assert len(set(keys)) == 2
    assert {key.partition(".")[0] for key in keys} == {"uf1_a"}


def test_events_are_sent_in_a_stream(gateway: StripeGateway, emulator: RemoteEmulator) -> None:
    """One call, one verdict; each counts once."""
    customer = emulator.seed([{}], ["tokens"])[0]
    events = [event(customer, identifier=str(number)) for number in range(100)]
    assert gateway.send_stream(events) == Accepted()
    assert len(list(emulator.journal())) == 100
    assert gateway.send_stream([*events, event(customer)]) == Quarantined(
        "http_400", "events must have 1 to 100 items."
    )


def test_an_event_is_taken_back(gateway: StripeGateway, emulator: RemoteEmulator) -> None:
    """Within 24 hours; what Stripe does not know, it says."""
    customer = emulator.seed([{}], ["tokens"])[0]
    gateway.send_meter_event(event(customer))
    gateway.cancel_meter_event("tokens", "one")
    assert list(emulator.journal()) == []
    with pytest.raises(DeliveryError, match=r"^Stripe: "):
        gateway.cancel_meter_event("tokens", "another")


def test_a_meter_is_made_and_woken(
    gateway: StripeGateway, sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """A `sum` unless something else is wanted; its name cannot be had twice."""
    made = gateway.create_meter("tokens", display_name="Tokens")
    assert (made.event_name, made.formula, made.status) == ("tokens", "sum", "active")
    assert gateway.create_meter("seats", display_name="Seats", formula="last").formula == "last"
    sdk.v1.billing.meters.deactivate(made.meter_id)
    with pytest.raises(DeliveryError):
        gateway.create_meter("tokens", display_name="Tokens")
    assert gateway.reactivate_meter(made.meter_id) == made


def test_events_come_oldest_first(gateway: StripeGateway, emulator: RemoteEmulator) -> None:
    """Of the types asked for, over several pages, with what changed."""
    since = datetime.now(UTC) - timedelta(minutes=1)
    for number in range(120):
        emulator.event("customer.updated", {"id": f"cus_{number}"}, previous_attributes={"a": 1})
    emulator.event("invoice.paid", {"id": "in_1"})
    found = list(gateway.events_since(["customer.updated", "customer.deleted"], since))
    assert [one.object["id"] for one in found] == [f"cus_{number}" for number in range(120)]
    assert (found[0].previous, found[0].thin, found[0].account) == ({"a": 1}, False, None)
    assert list(gateway.events_since(["invoice.paid"], since + timedelta(hours=1))) == []


def test_reports_of_dropped_events_are_read(
    gateway: StripeGateway, emulator: RemoteEmulator
) -> None:
    """All of them since a time, oldest first, or the one that a notification named."""
    customer = emulator.seed([{}], ["tokens", "calls"])[0]
    since = datetime.now(UTC) - timedelta(minutes=1)
    for name in ("tokens", "calls"):
        emulator.reject(event_name=name, code="meter_event_customer_not_found")
        gateway.send_meter_event(event(customer, name, identifier=f"uf1_{name}"))
    meters = {meter.meter_id: meter.event_name for meter in gateway.list_meters()}
    reports = list(gateway.error_reports_since(since))
    assert [meters[one.meter_id or ""] for one in reports] == ["tokens", "calls"]
    assert [one.samples[0].identifier for one in reports] == ["uf1_tokens", "uf1_calls"]
    assert gateway.error_report(reports[0].event_id) == reports[0]
    assert list(gateway.error_reports_since(since + timedelta(hours=1))) == []
    with pytest.raises(DeliveryError, match=r"^Stripe: "):
        gateway.error_report("evt_unknown")


def test_webhooks_are_asked_for(gateway: StripeGateway, sdk: stripe_sdk.StripeClient) -> None:
    """Snapshots in the SDK's version, thin events by a destination; each with its secret."""
    made = gateway.create_webhook_endpoint(
        "https://us.invalid/a", ["customer.updated"], connect=True
    )
    assert made.secret.startswith("whsec_")
    known = sdk.v1.webhook_endpoints.retrieve(made.endpoint_id)
    assert (known.url, known.api_version) == ("https://us.invalid/a", stripe_sdk.api_version)
    for connected, source in ((False, "@self"), (True, "@accounts")):
        thin = gateway.create_event_destination(
            "https://us.invalid/b", [inbound.ERROR_REPORT], connected=connected
        )
        assert thin.secret.startswith("whsec_")
        shown = sdk.v2.core.event_destinations.retrieve(thin.endpoint_id)
        assert (shown.events_from, shown.event_payload) == ([source], "thin")


@pytest.mark.parametrize(
    "body",
    [
        {"object": "event", "data": {"object": {}}, "created": 1},
        {"object": "v2.core.event", "created": "2026-11-02T10:00:00Z"},
    ],
    ids=["snapshot", "thin"],
)
def test_a_webhook_is_believed_if_a_secret_fits(body: dict[str, Any]) -> None:
    """Any of several, for they are rolled; nothing without, nothing old, nothing changed."""
    raw = json.dumps({"id": "evt_1", "type": "x", "livemode": False, **body})
    sign = stripe_sdk.WebhookSignature.generate_signature_header
    signature = sign(raw, "whsec_new")
    found = parse_webhook(raw.encode(), signature, ["whsec_old", "whsec_new"])
    assert found is not None
    assert (found.event_id, found.thin) == ("evt_1", body["object"] == "v2.core.event")
    assert parse_webhook(raw.encode(), signature, ["whsec_old"]) is None
    assert parse_webhook(raw.encode(), signature, []) is None
    assert parse_webhook(raw.encode() + b" ", signature, ["whsec_new"]) is None
    old = sign(raw, "whsec_new", int(time.time()) - 301)
    assert parse_webhook(raw.encode(), old, ["whsec_new"]) is None


@pytest.mark.parametrize("header", ["", "t=1", "v1=2", "nonsense", "t=x,v1=y", "t=1,v1=\u00e9"])
def test_a_strange_signature_is_none(header: str) -> None:
    """Whoever wrote it."""
    assert parse_webhook(b"{}", header, ["whsec_x"]) is None


@pytest.mark.parametrize("raw", ["not json", "[]", "{}"])
def test_what_is_signed_and_no_event_is_none(raw: str) -> None:
    """A secret that fits makes no event of it."""
    signature = stripe_sdk.WebhookSignature.generate_signature_header(raw, "whsec_x")
    assert parse_webhook(raw.encode(), signature, ["whsec_x"]) is None


def test_a_body_that_is_no_text_is_none() -> None:
    """Bytes that are not UTF-8 were signed by nobody."""
    assert parse_webhook(b"\xff", "t=1,v1=2", ["whsec_x"]) is None


def test_an_account_is_connected_and_disconnected(emulator: RemoteEmulator) -> None:
    """By a code, which works once; afterwards it can be acted for, until it is not."""
    platform = StripeGateway(
        emulator.api_key, base=emulator.url, timeout_s=5, client_id="ca_platform"
    )
    url = platform.authorize_url(state="s", redirect_uri="https://us.invalid/back")
    decided = httpx.get(url, params={"_emulator_decision": "connect:acct_x"} | _query(url))
    told = _query(decided.headers["location"])
    assert told["state"] == "s"
    assert platform.exchange_code(told["code"]) == Connected(
        "acct_x", livemode=False, scope="read_write"
    )
    theirs = StripeGateway(emulator.api_key, base=emulator.url, timeout_s=5, account="acct_x")
    assert theirs.account_info().account_id == "acct_x"
    assert theirs.send_stream([event()]) == Accepted()
    assert [entry["account"] for entry in emulator.journal(every=True)] == ["acct_x"]
    platform.deauthorize("acct_x")
    gone = theirs.send_meter_event(event())
    assert isinstance(gone, AccountPaused)
    assert gone.deauthorized
    with pytest.raises(DeliveryError, match=r"^Stripe: "):
        platform.deauthorize("acct_x")
    with pytest.raises(DeliveryError, match=r"^Stripe: "):
        platform.exchange_code("ac_unknown")
    for opened in (platform, theirs):
        opened.close()


def test_without_a_platform_nobody_connects(gateway: StripeGateway) -> None:
    """The client id that is missing is named."""
    with pytest.raises(DeliveryError, match="client_id"):
        gateway.authorize_url(state="s", redirect_uri="https://us.invalid/back")


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def test_reads_and_the_clock_are_known(gateway: StripeGateway, emulator: RemoteEmulator) -> None:
    """GETs are counted; a clock on the same machine differs by less than a look takes."""
    assert (gateway.reads, gateway.clock_skew_s) == (0, 0)
    gateway.send_meter_event(event())
    list(gateway.list_meters())
    assert gateway.reads == 1
    assert abs(gateway.clock_skew_s) < 60


def test_a_strange_answer_is_explained() -> None:
    """A 200 with other JSON than Stripe's is a DeliveryError like every failure."""
    body = b'{"object": "list", "data": [{"object": "billing.meter", "id": "mtr_1"}], "url": "/"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    with answering(head + body) as url:
        gateway = StripeGateway("sk_test_x", base=url, timeout_s=2)
        with pytest.raises(DeliveryError, match="cannot be understood"):
            list(gateway.list_meters())
        gateway.close()


def test_the_key_is_never_logged(
    gateway: StripeGateway, emulator: RemoteEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even with every logger at its most talkative."""
    with caplog.at_level(logging.DEBUG):
        gateway.send_meter_event(event())
        made = gateway.create_webhook_endpoint("https://us.invalid", ["*"], connect=False)
    assert caplog.records
    assert emulator.api_key not in caplog.text
    assert made.secret not in caplog.text
    assert emulator.api_key not in repr(vars(gateway))
