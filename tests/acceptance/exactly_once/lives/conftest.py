"""Lives of the server: each has all of the way to Stripe, and may end at any moment.

Forwarder, sink, addresses and meters are the product's. A life ends before or after a commit or a
request; what was in memory is gone then, and the next life finds what a start finds.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from usageflow.db.session import Database, Tx
from usageflow.forwarding.forwarder import Forwarder
from usageflow.forwarding.sink import Sink
from usageflow.forwarding.transport import Answer, Lost, Pool
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.customers import StripeAddresses
from usageflow.stripe.meter_event_sink import StripeMeterEvents
from usageflow.stripe.meters import Meters

RESEND_S_MAX = 72_000.0
LEASE_S = 60.0
TIMEOUT_S = 0.3
"""Of a call to the emulator, which answers in a few milliseconds."""


# Death


class Killed(Exception):  # noqa: N818 - the state, not the act, is what happened
    """The server is dead: whichever thread notices does nothing more."""


class Fuse:
    """Crossed before and after each commit and each request; once blown, it stays blown."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.blown = False
        self._lock = threading.Lock()

    def cross(self) -> None:
        """Go on, if this is not the end. Raises Killed."""
        with self._lock:
            if self.left is not None and not self.blown:
                self.left -= 1
                self.blown = self.left <= 0
            if self.blown:
                raise Killed


class MortalDatabase(Database):
    """A database as one life of the server sees it."""

    def __init__(self, whole: Database, fuse: Fuse) -> None:
        self.__dict__.update(whole.__dict__)
        self._fuse = fuse

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """The same, but the end may come before it, before its commit, or after it."""
        self._fuse.cross()
        with super().transaction() as tx:
            yield tx
            self._fuse.cross()
        self._fuse.cross()


class Flights:
    """The calls in flight: two at once for one customer and meter are noted."""

    def __init__(self) -> None:
        self.together: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._flying: list[tuple[tuple[str, str], Fuse]] = []

    @contextmanager
    def of(self, pairs: Sequence[tuple[str, str]], fuse: Fuse) -> Iterator[None]:
        """A call about these customers and meters. That of a dead server is nobody's any more."""
        mine = [(pair, fuse) for pair in pairs]
        with self._lock:
            alive = {pair for pair, other in self._flying if not other.blown}
            self.together += alive & set(pairs)
            self._flying += mine
        try:
            yield
        finally:
            with self._lock:
                for one in mine:
                    self._flying.remove(one)


class MortalPool(Pool):
    """The connections of one life of the server."""

    def __init__(
        self,
        whole: Pool,
        fuse: Fuse,
        flights: Flights,
        carried: Callable[[str, bytes | str], Sequence[Mapping[str, str]]],
    ) -> None:
        self.__dict__.update(whole.__dict__)
        self._fuse, self._flights, self._carried = fuse, flights, carried

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> Answer | Lost:
        """The same, but the end may come before the first byte, or before the answer is read."""
        told = self._carried(url, body or b"") if method == "POST" else []
        self._fuse.cross()
        with self._flights.of([(one["customer"], one["event_name"]) for one in told], self._fuse):
            answer = super().request(method, url, headers, body)
        self._fuse.cross()
        return answer


@dataclass(kw_only=True)
class Build:
    """What a life of the server is made of; a wrong variant replaces a part."""

    forwarder: type[Forwarder] = Forwarder
    sink: Callable[[Sink], Sink] = lambda sink: sink
    resend_s_max: float = RESEND_S_MAX
    lease_s: float = LEASE_S
    concurrency: int = 2


class Life:
    """The inside of one server between two deaths."""

    def __init__(
        self, stripe: Any, database: Database, account_id: str, build: Build, flights: Flights
    ) -> None:
        self.fuse = fuse = Fuse()
        self.database = MortalDatabase(database, fuse)
        self.gateway = StripeGateway(
            stripe.key, base=stripe.url, account=stripe.account, timeout_s=TIMEOUT_S
        )
        wire = self.gateway._wire
        wire._clock = lambda: stripe.clocks.ours().timestamp()
        vars(wire)["_steady"] = lambda: stripe.clocks.true.timestamp()  # noqa: PLW0108 - the time it is then
        wire._pool = MortalPool(wire._pool, fuse, flights, stripe.meter_events)
        self.meters = Meters(self.database, account_id, self.gateway)
        ticks = itertools.count()  # the pace is not what is tried here
        self.forwarder = build.forwarder(
            self.database,
            account_id,
            build.sink(StripeMeterEvents(self.gateway, self.meters, calls_per_s=1_000)),
            StripeAddresses(
                self.database,
                account_id,
                self.gateway,
                clock=lambda: float(next(ticks)),
                sleep=lambda _: None,
            ),
            concurrency=build.concurrency,
            resend_s_max=build.resend_s_max,
            lease_s=build.lease_s,
            stop_s_max=1.0,
            skew_s=lambda: self.gateway.clock_skew_s,
            ready=lambda: self.meters.known,
            clock=lambda: float(next(ticks)),
        )

    def end(self) -> None:
        """Kill it: threads that are in a call notice when they come back."""
        self.fuse.blown = True
        self.forwarder._senders.close()
        self.forwarder._finders.close()
        self.gateway.close()

    def land(self) -> None:
        """Wait until no call is in flight; its answer need not have been looked at."""
        for senders in (self.forwarder._senders, self.forwarder._finders):
            while senders._ended.qsize() < senders.busy:
                time.sleep(0.001)


@dataclass(frozen=True)
class Lives:
    """What lives are made of."""

    begin: type[Life] = Life
    build: type[Build] = Build
    flights: type[Flights] = Flights
    killed: type[Exception] = Killed


@pytest.fixture(scope="session")
def lives() -> Lives:
    """Whatever begins and ends a life."""
    return Lives()
