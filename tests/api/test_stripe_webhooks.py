"""Stripe's webhooks over TCP: signed by the emulator, doubled, shuffled, lost and late."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
import stripe as stripe_sdk
from sqlalchemy import text
from sqlmodel import select

from usageflow.api import create_api
from usageflow.api.stripe_webhooks import AT_ONCE, BODY_BYTES_MAX, PATH
from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import StripeEventRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store
from usageflow.stripe import directory
from usageflow.stripe.accounts import ensure_own
from usageflow.stripe.catch_up import poll
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.events import CUSTOMERS
from usageflow.stripe.identities import whose
from usageflow.stripe.webhooks_in import Webhooks

KEY = "sk_test_webhooks"


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    """One emulator for this module."""
    with running(create_emulator(search_lag_s=0)) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str) -> RemoteEmulator:
    """The emulator, empty."""
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def gateway(emulator: RemoteEmulator) -> Iterator[StripeGateway]:
    """Stripe as our account sees it."""
    opened = StripeGateway(KEY, base=emulator.url, timeout_s=5)
    yield opened
    opened.close()


@pytest.fixture
def sdk(emulator: RemoteEmulator) -> stripe_sdk.StripeClient:
    """What people do at Stripe."""
    return stripe_sdk.StripeClient(KEY, base_addresses={"api": emulator.url})


@pytest.fixture
def account_id(database: Database) -> str:
    """Our own account, with usage known by account_id."""
    line = encode(
        UsageEvent(
            id="event-1",
            policy="calls",
            policy_version="1",
            metric="CALLS",
            identity=Identity("account_id", "a"),
            quantity=Decimal(1),
            occurred_at=datetime.now(UTC),
            state="counted",
            event_name="calls",
        )
    )
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        account_id = ensure_own(tx, organization_id, livemode=False)
        store.append(tx, organization_id, [line], unknown_metric="create")
    return account_id


@pytest.fixture
def server(
    database: Database, emulator: RemoteEmulator, sdk: stripe_sdk.StripeClient, account_id: str
) -> Iterator[str]:
    """A server that hears of customers; the URL Stripe posts to."""
    endpoint = sdk.v1.webhook_endpoints.create(
        {"url": "http://127.0.0.1:9/later", "enabled_events": [*CUSTOMERS]}
    )
    settings = Settings(
        stripe_api_key=KEY,
        stripe_api_base=emulator.url,
        stripe_webhook_secrets=endpoint.secret,
    )
    with running(create_api(database, settings)) as url:
        sdk.v1.webhook_endpoints.update(endpoint.id, {"url": url + PATH})
        yield url + PATH


@pytest.mark.usefixtures("server")
def test_the_directory_follows_whatever_the_way(
    database: Database,
    emulator: RemoteEmulator,
    sdk: stripe_sdk.StripeClient,
    gateway: StripeGateway,
    account_id: str,
) -> None:
    """Doubled, shuffled, partly lost and asked for later: in the end it is as at Stripe."""
    emulator.webhooks(duplicate_rate=0.5, shuffle=True, drop_rate=0.2, seed=7)
    customers = emulator.seed([{"account_id": value} for value in "abc"])
    for step in range(12):
        emulator.advance(step % 3)
        sdk.v1.customers.update(customers[step % 3], {"metadata": {"account_id": "abca"[step % 4]}})
    sdk.v1.customers.delete(customers[0])
    emulator.settle()
    poll(database, account_id, gateway)
    now = {one.customer_id: one.metadata["account_id"] for one in gateway.list_customers()}
    with database.reading() as tx:
        known = directory.known(tx, account_id, [("account_id", value) for value in "abc"])
        late = datetime.max.replace(tzinfo=UTC)
        for value in "abc":
            have = sorted(customer for customer, its in now.items() if its == value)
            assert whose(known.get(("account_id", value), ()), late) == have
        dealt_with = set(tx.session.exec(select(StripeEventRow.event_id)))
    since = datetime.now(UTC) - timedelta(days=1)
    assert dealt_with == {event.event_id for event in gateway.events_since(CUSTOMERS, since)}
    assert {row["status"] for row in emulator.deliveries() if row["status"]} == {200}


def statuses(emulator: RemoteEmulator) -> list[int]:
    """How we answered, each time."""
    return [row["status"] for row in emulator.deliveries()]


@pytest.mark.usefixtures("server")
def test_what_is_not_committed_comes_again(
    database: Database, emulator: RemoteEmulator, account_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is acknowledged that the database did not take."""
    caplog.set_level(logging.CRITICAL)
    emulator.webhooks(retry_after_s=[0.1] * 10)
    with database.transaction() as tx:
        tx.session.connection().execute(text("ALTER TABLE stripe_event RENAME TO elsewhere"))
    emulator.seed([{"account_id": "a"}])
    while not statuses(emulator):
        time.sleep(0.01)
    with database.transaction() as tx:
        tx.session.connection().execute(text("ALTER TABLE elsewhere RENAME TO stripe_event"))
    emulator.settle()
    assert statuses(emulator)[0] in (500, 503)
    assert statuses(emulator)[-1] == 200
    with database.reading() as tx:
        assert directory.known(tx, account_id, [("account_id", "a")])


@pytest.mark.usefixtures("server")
def test_what_stripe_cannot_be_asked_now_comes_again(
    database: Database, emulator: RemoteEmulator, account_id: str
) -> None:
    """Two changes of one second must be read, and Stripe does not answer."""
    emulator.webhooks(retry_after_s=[0.05] * 10)
    (customer,) = emulator.seed([{"account_id": "a"}])
    emulator.settle()
    emulator.fault("status", route="GET /v1/customers/", status=500)
    emulator.set_clock(datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1))
    for value in ("a", "b"):
        about = {"id": customer, "metadata": {"account_id": value}}
        emulator.event(
            "customer.updated", about, previous_attributes={"metadata": {"account_id": "x"}}
        )
    emulator.settle()
    assert statuses(emulator) == [200, 200, 503, 200]
    with database.reading() as tx:
        known = directory.known(tx, account_id, [("account_id", "a"), ("account_id", "b")])
    assert {value for _, value in known} == {"a"}


def test_a_stranger_is_told_nothing(server: str) -> None:
    """Neither what is wrong nor whether there are accounts."""
    for headers in ({}, {"stripe-signature": "t=1,v1=00"}):
        answer = httpx.post(server, content=b'{"id": "evt_1"}', headers=headers)
        assert answer.status_code == 400
        assert answer.json() == {
            "error": {"code": "invalid_signature", "message": "this is no event for us"}
        }


@pytest.mark.usefixtures("account_id")
def test_slow_webhooks_do_not_hold_up_usage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait for Stripe: they have threads of their own, and others have theirs."""
    busy, go_on = threading.Semaphore(0), threading.Event()

    def wait(*_: object) -> bool:
        busy.release()
        return go_on.wait(30)

    monkeypatch.setattr(Webhooks, "take", wait)
    with (
        running(create_api(database, Settings())) as url,
        ThreadPoolExecutor(60) as senders,
    ):
        answers = [senders.submit(httpx.post, url + PATH, timeout=30) for _ in range(60)]
        for _ in range(AT_ONCE):
            assert busy.acquire(timeout=10)
        assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        assert not busy.acquire(blocking=False)
        go_on.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_a_body_is_bounded(server: str) -> None:
    """Before anything is looked at."""
    body = json.dumps({"id": "x" * BODY_BYTES_MAX}).encode()
    assert httpx.post(server, content=body).status_code == 413
