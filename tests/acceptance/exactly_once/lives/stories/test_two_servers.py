"""Two servers race on one PostgreSQL, both sending and both comparing, while answers are lost.

Each has its own connections and dies now and then; nobody tells the other. Statements are read
all the while.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from usageflow.db.session import Database
from usageflow.errors import DatabaseError, DeliveryError
from usageflow.stripe.reconciliation import reconcile

STEPS = 80
STEP = timedelta(seconds=20)
"""Of the clock, which passes so much while they work for REST_S."""
REST_S = 0.03
LEASE_S = 7_200.0
"""Three minutes of theirs: longer than any call, however busy the machine is."""
KILL_EVERY = 16


class Server(threading.Thread):
    """Sends and compares from a thread; after a death it begins anew."""

    def __init__(
        self, begin: Callable[[Database], Any], world: Any, killed: type[Exception]
    ) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self.deaths = 0
        self.failure: BaseException | None = None
        self._begin, self._world, self._killed = begin, world, killed
        self.life: Any = None

    def run(self) -> None:
        """Work until told to stop."""
        try:
            with closing(Database.open(self._world.url, clock=self._world.clocks.ours)) as database:
                while not self.stopping.is_set():
                    self._live(database)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error

    def _live(self, database: Database) -> None:
        self.life = life = self._begin(database)
        rounds = 0
        try:
            while not self.stopping.is_set():
                rounds += 1
                with suppress(DeliveryError, DatabaseError):
                    self._work(life, rounds)
            life.forwarder.close()
        except self._killed:
            self.deaths += 1
        finally:
            life.end()

    def _work(self, life: Any, rounds: int) -> None:
        if not life.meters.known:
            life.meters.refresh()
        if not life.forwarder.forward_once():
            time.sleep(0.002)
        if rounds % 10 == 0:
            reconcile(life.database, self._world.account_id, life.gateway, reads_per_day=100_000)


@pytest.mark.postgres
@pytest.mark.timeout(240)
def test_two_servers_send_each_unit_once(world: Any, lives: Any, judge: Any) -> None:
    """No unit twice, no two calls at once for a customer and meter, and sums that add up."""
    ours = world(dialect="postgresql", lease_s=LEASE_S)
    build = lives.build(lease_s=LEASE_S, concurrency=3)

    def begin(database: Database) -> Any:
        return lives.begin(ours.stripe, database, ours.account_id, build, ours.flights)

    for value in "abcdef":
        ours.appear(value)
    ours.plan(11, "lost", "stored 500", "503", "429")
    servers = [Server(begin, ours, lives.killed) for _ in range(2)]
    for server in servers:
        server.start()
    for step in range(STEPS):
        ours.use("abcdef"[step % 6], ("tokens", "seconds", "calls")[step % 3], Decimal(step))
        ours.clocks.true += STEP
        if step % KILL_EVERY == KILL_EVERY - 1:
            servers[step // KILL_EVERY % 2].life.fuse.left = 1 + step % 7
        assert ours.misstated() == []
        time.sleep(REST_S)
    for server in servers:
        server.stopping.set()
    for server in servers:
        server.join(60)
        assert server.failure is None
        assert not server.is_alive()
    assert sum(server.deaths for server in servers) >= 2
    ours.heal()
    faults = judge(ours.database, ours.payers).faults(
        ours.stripe.journal(every=True), ours.stripe.calls
    )
    assert [*ours.misstated(), *faults] == []
    assert any(row["kind"] == "duplicate" for row in ours.stripe.journal(every=True))
