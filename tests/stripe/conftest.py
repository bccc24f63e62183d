"""What the tests of the way to Stripe share: an emulator on TCP, a ledger, and the way between."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import stripe as stripe_sdk
from sqlmodel import col, select

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import UnitRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.forwarding.forwarder import Forwarder
from usageflow.ledger import store, units
from usageflow.stripe import accounts
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.customers import StripeAddresses
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.meter_event_sink import StripeMeterEvents
from usageflow.stripe.meters import Meters

KEY = "sk_test_emulated"


@pytest.fixture(scope="session")
def emulator_url() -> Iterator[str]:
    """One emulator on a free port for the whole session."""
    with running(create_emulator(search_lag_s=0)) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str) -> RemoteEmulator:
    """The emulator, empty."""
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def connect(
    emulator: RemoteEmulator, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., stripe_sdk.StripeClient]:
    """The official SDK, pointed at the emulator with a given key, without retries of its own."""
    monkeypatch.setattr(stripe_sdk, "enable_telemetry", False)

    def client(key: str = KEY, **options: Any) -> stripe_sdk.StripeClient:
        bases: Any = dict.fromkeys(("api", "connect", "files", "meter_events"), emulator.url)
        return stripe_sdk.StripeClient(key, base_addresses=bases, **options)

    return client


@pytest.fixture
def sdk(connect: Callable[..., stripe_sdk.StripeClient]) -> stripe_sdk.StripeClient:
    """The official SDK with the key of `emulator`."""
    return connect()


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """The time it shows."""
        return self.now


class Way:
    """A ledger, an account and a forwarder to the emulator, with the steps that tests repeat."""

    def __init__(self, database: Database, clock: Clock, emulator: RemoteEmulator) -> None:
        self.database = database
        self.clock = clock
        self.emulator = emulator
        self.gateway = self.of_our_time(StripeGateway(KEY, base=emulator.url, timeout_s=5))
        self.forwarders: list[Forwarder] = []
        self.meters: Meters
        self._numbers = itertools.count(1)
        with database.transaction() as tx:
            self.organization_id = default_organization(tx)
            self.account_id = accounts.ensure_own(tx, self.organization_id, livemode=False)

    def of_our_time(self, gateway: StripeGateway) -> StripeGateway:
        """The gateway, by whose clocks it is as late as by the database's."""
        gateway._wire._clock = gateway._wire._steady = self.seconds
        return gateway

    def seconds(self) -> float:
        """The time of the clock, for what counts in seconds."""
        return self.clock.now.timestamp()

    def forwarder(
        self,
        gateway: StripeGateway | None = None,
        *,
        listed: bool = True,
        calls_per_s: float = 1_000,
        **options: Any,
    ) -> Forwarder:
        """One more forwarder, which knows the meters; they are `self.meters` afterwards."""
        gateway = self.of_our_time(gateway or self.gateway)
        self.meters = meters = Meters(self.database, self.account_id, gateway)
        limits = {"concurrency": 4, "resend_s_max": 72_000, "lease_s": 60, "stop_s_max": 10}
        made = Forwarder(
            self.database,
            self.account_id,
            StripeMeterEvents(gateway, meters, calls_per_s=calls_per_s),
            StripeAddresses(self.database, self.account_id, gateway),
            skew_s=lambda: gateway.clock_skew_s,
            ready=lambda: meters.known,
            **{**limits, **options},
        )
        self.forwarders.append(made)
        if listed:
            meters.refresh()
        return made

    def use(self, *quantities: str | int, customer: str = "acct_1", **changes: Any) -> None:
        """Record usage events of one customer."""
        lines = [
            encode(
                UsageEvent(
                    **{
                        "id": f"event-{next(self._numbers):06}",
                        "policy": "chat",
                        "policy_version": "1",
                        "metric": "TOKENS",
                        "identity": Identity("account_id", customer),
                        "quantity": Decimal(quantity),
                        "occurred_at": self.clock.now,
                        "state": "counted",
                        "event_name": "tokens",
                        **changes,
                    }
                )
            )
            for quantity in quantities
        ]
        with self.database.transaction() as tx:
            results = store.append(tx, self.organization_id, lines, unknown_metric="create")
        assert {result.status for result in results} == {"accepted"}

    def forward(self, forwarder: Forwarder) -> None:
        """Let the forwarder do all that is due now."""
        for _ in range(2_000):
            if not forwarder.forward_once():
                return
        raise AssertionError("the forwarder does not come to rest")

    def forward_all(self, forwarder: Forwarder) -> None:
        """Let the forwarder work, and time pass, until nothing is left to send."""
        for _ in range(100):
            self.forward(forwarder)
            with self.database.reading() as tx:
                if not units.pending(tx):
                    return
            self.pass_time(60)
        raise AssertionError(f"units are left: {self.states()}")

    def pass_time(self, seconds: float) -> None:
        """Let time pass here and at Stripe."""
        self.clock.now += timedelta(seconds=seconds)
        self.emulator.advance(seconds)

    def units(self) -> list[UnitRow]:
        """Every unit, in order."""
        with self.database.reading() as tx:
            found = list(tx.session.exec(select(UnitRow).order_by(col(UnitRow.id))))
            tx.session.expunge_all()
        return found

    def states(self) -> list[tuple[str, str]]:
        """(state, quantity) of every unit, in order."""
        return [(unit.state, format(unit.quantity, "f")) for unit in self.units()]

    def applied(self) -> dict[tuple[str, str], str]:
        """What the emulator counted per customer's account_id and event name."""
        counted = self.emulator.applied("account_id")
        return {key: format(value, "f") for key, value in counted.items()}

    def calls(self, route: str = "POST /v1/billing/meter_events") -> dict[str, int]:
        """How many calls of a route ended in which way."""
        counts: dict[str, int] = self.emulator.state()["accounts"][0]["calls"].get(route, {})
        return counts

    def close(self) -> None:
        """End every forwarder."""
        for forwarder in self.forwarders:
            forwarder.close()
        self.gateway.close()


@pytest.fixture
def clock() -> Clock:
    """The clock of `database`."""
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """An open database whose time is `clock`'s, on SQLite and on PostgreSQL in turn."""
    opened = Database.open(database_url, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def way(database: Database, clock: Clock, emulator: RemoteEmulator) -> Iterator[Way]:
    """A way from an empty ledger to an empty emulator."""
    made = Way(database, clock, emulator)
    yield made
    made.close()


@pytest.fixture
def gateway(emulator: RemoteEmulator) -> Iterator[StripeGateway]:
    """Stripe as the account of `emulator` sees it."""
    opened = StripeGateway(KEY, base=emulator.url, timeout_s=5)
    yield opened
    opened.close()
