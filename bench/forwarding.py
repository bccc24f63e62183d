"""The way to Stripe under measurement: an emulator in a process of its own, a ledger on this disk,
and a forwarder in this process, so that its processor time is ours.
"""

import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import httpx

from bench.servers import MEASURED_CORE, OTHER_CORE, free_port, pinned, running, scratch
from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings, StripeApi
from usageflow.db.session import Database
from usageflow.errors import DeliveryError
from usageflow.events import Identity, UsageEvent, encode
from usageflow.forwarding.forwarder import Forwarder
from usageflow.forwarding.sink import Sink
from usageflow.ledger import store, units
from usageflow.stripe import accounts
from usageflow.stripe.access import CONNECT_CALLS_PER_S, OWN_LIVE_CALLS_PER_S
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.customers import StripeAddresses
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.meter_event_sink import StripeMeterEvents
from usageflow.stripe.meter_event_stream import StripeStream
from usageflow.stripe.meters import Meters

KEY = "sk_live_bench"
CONNECTED = "acct_bench"
EVENT_NAME = "tokens"
METER_EVENTS = "POST /v1/billing/meter_events"
BATCH_EVENTS = 5_000
"""Events in one transaction, as a server takes them at the most."""
REST_S = 0.05
"""Pause of a forwarder that has nothing to do, as a worker makes at first."""
LOOK_S = 0.25
"""How often it is looked whether anything is left."""
STALL_S_MAX = 120.0
"""With nothing settled for so long a run has failed."""


def quiet(command: Sequence[str], log: Path) -> list[str]:
    """A command whose output goes to a file: a full pipe would stop it."""
    return ["sh", "-c", f'exec "$@" >"{log}" 2>&1', "sh", *command]


def usageflow(*arguments: str) -> list[str]:
    """A command line of UsageFlow."""
    return [sys.executable, "-m", "usageflow", *arguments]


@dataclass(frozen=True)
class Emulator(RemoteEmulator):
    """A running emulator, and whether usage goes to an account connected to it."""

    connected: bool = False

    def customers(self, count: int, formula: str) -> None:
        """Make customers `acct_0` and so on, and a meter of EVENT_NAME."""
        headers = {"authorization": f"Bearer {KEY}"}
        if self.connected:
            headers["stripe-account"] = CONNECTED
        body = {
            "customers": [{"metadata": {"account_id": f"acct_{each}"}} for each in range(count)],
            "meters": [{"event_name": EVENT_NAME, "formula": formula}],
        }
        url = f"{self.url}/_emulator/seed"
        httpx.post(url, json=body, headers=headers, timeout=60).raise_for_status()

    def calls(self) -> dict[str, int]:
        """How many calls that send one meter event were answered with which status."""
        found: dict[str, int] = defaultdict(int)
        for account in self.state()["accounts"]:
            for status, number in account["calls"].get(METER_EVENTS, {}).items():
                found[status] += number
        return found


@contextmanager
def emulating(directory: Path, *, connected: bool = False) -> Iterator[Emulator]:
    """Run an emulator on the other core."""
    port = free_port()
    command = quiet(usageflow("stripe-emulator", "--port", str(port)), directory / "emulator.log")
    with running(command, port, OTHER_CORE):
        yield Emulator(f"http://127.0.0.1:{port}", KEY, connected)


def account_of(database: Database, *, connected: bool) -> tuple[str, str]:
    """Make the default organization and its live account; the ids of both."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        if not connected:
            return organization_id, accounts.ensure_own(tx, organization_id, livemode=True)
        account_id = accounts.connect(tx, organization_id, CONNECTED, livemode=True)
        assert isinstance(account_id, str), account_id
        return organization_id, account_id


def event(number: int, customer: str, quantity: Decimal, at: datetime) -> bytes:
    """An event as an edge ships it."""
    return encode(
        UsageEvent(
            id=f"event-{number:09}",
            policy="chat",
            policy_version="1",
            metric="TOKENS",
            identity=Identity("account_id", customer),
            quantity=quantity,
            occurred_at=at,
            state="counted",
            event_name=EVENT_NAME,
            request_method="POST",
            request_route="/v1/chat",
            request_status=200,
        )
    )


@dataclass
class Way:
    """A ledger, and the forwarder that drains it into an emulator."""

    database: Database
    organization_id: str
    emulator: Emulator
    forwarder: Forwarder
    addresses: StripeAddresses
    metered: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """What was ingested, by customer."""

    def ingest(self, events: int, customers: int, moments: Callable[[int], datetime]) -> float:
        """Append random usage, event by event of the given moments; seconds that appending took."""
        rng, took_s = random.Random(events), 0.0
        for start in range(0, events, BATCH_EVENTS):
            lines = []
            for number in range(start, min(start + BATCH_EVENTS, events)):
                customer = f"acct_{rng.randrange(customers)}"
                quantity = Decimal(rng.randrange(1, 10_000)).scaleb(-2)
                self.metered[customer] += quantity
                lines.append(event(number, customer, quantity, moments(number)))
            began_s = time.perf_counter()
            with self.database.transaction() as tx:
                taken = store.append(tx, self.organization_id, lines, unknown_metric="create")
            took_s += time.perf_counter() - began_s
            assert {one.status for one in taken} == {"accepted"}
        return took_s

    def forward(self, until: Callable[[], bool]) -> None:
        """Forward as the worker does, until this is so, asked after each round."""
        while not until():
            try:
                idle = not self.forwarder.forward_once()
            except DeliveryError:  # Stripe would not list its customers; the worker tries again too
                idle = True
            if idle:
                time.sleep(REST_S)

    def forward_for(self, seconds: float) -> None:
        """Forward for so long."""
        end_s = time.monotonic() + seconds
        self.forward(lambda: time.monotonic() >= end_s)

    def drain(self) -> None:
        """Forward until nothing is left. SystemExit if it does not get on."""
        left, since_s = self.left(), time.monotonic()
        while left:
            self.forward_for(LOOK_S)
            before, left = left, self.left()
            if left < before:
                since_s = time.monotonic()
            if time.monotonic() - since_s > STALL_S_MAX:
                raise SystemExit(f"{left} units do not get on")

    def left(self) -> int:
        """How many units are still to be sent."""
        with self.database.reading() as tx:
            return units.pending(tx)

    def applied_exactly(self) -> bool:
        """Whether the emulator has just what was ingested; of a sum meter."""
        applied = self.emulator.applied("account_id")
        return applied == {(who, EVENT_NAME): sum_ for who, sum_ in self.metered.items()}


@contextmanager
def way(
    formula: str,
    customers: int,
    *,
    connected: bool = False,
    api: StripeApi = "v1",
    calls_per_s: float | None = None,
) -> Iterator[Way]:
    """A way from an empty ledger to an empty emulator, at the product's own settings."""
    settings = Settings()
    with ExitStack() as stack:
        directory = stack.enter_context(scratch())
        emulator = stack.enter_context(emulating(directory, connected=connected))
        emulator.customers(customers, formula)
        stack.enter_context(pinned(MEASURED_CORE))
        database = stack.enter_context(closing(Database.open(f"sqlite:///{directory / 'u.db'}")))
        database.migrate()
        organization_id, account_id = account_of(database, connected=connected)
        gateway = StripeGateway(
            KEY,
            timeout_s=settings.stripe_timeout_s,
            base=emulator.url,
            account=CONNECTED if connected else None,
            connections_max=settings.stripe_concurrency,
        )
        stack.enter_context(closing(gateway))
        meters = Meters(database, account_id, gateway)
        meters.refresh()
        usual = CONNECT_CALLS_PER_S if connected else OWN_LIVE_CALLS_PER_S
        sink: Sink = (
            StripeMeterEvents(gateway, meters, calls_per_s=calls_per_s or usual)
            if api == "v1"
            else StripeStream(gateway, meters)
        )
        addresses = StripeAddresses(database, account_id, gateway)
        forwarder = Forwarder(
            database,
            account_id,
            sink,
            addresses,
            concurrency=settings.stripe_concurrency,
            resend_s_max=settings.stripe_resend_s_max,
            lease_s=4 * settings.stripe_timeout_s,
            stop_s_max=5,
            skew_s=lambda: gateway.clock_skew_s,
        )
        stack.enter_context(forwarder)
        yield Way(database, organization_id, emulator, forwarder, addresses)
