"""The door to the SDK, against the emulator over TCP."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal

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
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.remote import RemoteEmulator
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


def test_the_key_is_never_logged(
    gateway: StripeGateway, emulator: RemoteEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even with every logger at its most talkative."""
    with caplog.at_level(logging.DEBUG):
        gateway.send_meter_event(event())
    assert caplog.records
    assert emulator.api_key not in caplog.text
    assert emulator.api_key not in repr(vars(gateway))
