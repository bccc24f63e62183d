"""A world in which everything may go wrong: one ledger, Stripe, and all that may happen to either.

Clocks stand still until they are moved, and the emulator fails as it is told. What came of it is
for the judge to say.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.errors import DatabaseError, DeliveryError
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store, units
from usageflow.ledger.statement import statement, verify
from usageflow.server.duties import assign
from usageflow.stripe import accounts, catch_up, corrections, differences
from usageflow.stripe.reconciliation import reconcile

SLOW_S = 0.5
"""A call that takes longer than that."""
OUTAGE_S = 30 * 3_600.0
"""Longer than Stripe knows an identifier again."""
STEP_S = 3_600.0
ROUNDS_MAX = 120
"""Hours that the world gets to come to rest, once nothing goes wrong any more."""
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "lost": {"kind": "reset", "after_commit": True},
    "lost before": {"kind": "reset"},
    "stored 500": {"kind": "status", "status": 500, "after_commit": True},
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503},
    "429": {"kind": "status", "status": 429},
    "409": {"kind": "status", "status": 409},
    "slow": {"kind": "slow", "seconds": SLOW_S},
    "slow answer": {"kind": "slow", "seconds": SLOW_S, "after_commit": True},
}
FINAL = {"settled", "reissued", "written_off", "quarantined"}
QUIET_ROUNDS, SLOW_ROUNDS = 1, 32
"""Hours without a change after which there will be none: a day and more while something waits."""
QUICK = [name for name in FAULTS if not name.startswith("slow")]
ROUTE = "/v1/billing/meter_events"


class World:
    """One ledger and Stripe, with all that may happen to either. Each step survives a kill."""

    def __init__(self, url: str, stripe: Any, lives: Any, **parts: Any) -> None:
        self.stripe, self.clocks = stripe, stripe.clocks
        self._lives, self._build = lives, lives.build(**parts)
        self.url = url
        self.database = Database.open(url, clock=self.clocks.ours)
        with self.database.transaction() as tx:
            self.organization_id = default_organization(tx)
        self.stripe.connect(connected=True)
        self._connect()
        self.flights = lives.flights()
        self.payers: dict[str, str] = {}
        """Stripe customer -> the identity whose usage it pays for."""
        self.having: dict[str, list[str]] = {}
        """Identity -> the Stripe customers that have it in their metadata now."""
        self.complaints: list[str] = []
        self._spool: list[bytes] = []
        self._numbers = itertools.count()
        self.start()

    def start(self) -> None:
        """What a start does, with whatever the last life left behind."""
        with self.database.transaction() as tx:
            accounts.resume(tx, self.account_id)
            if self.database.dialect == "sqlite":
                units.recover(tx)
        self.life = self._lives.begin(
            self.stripe, self.database, self.account_id, self._build, self.flights
        )

    def close(self) -> None:
        """End the last life."""
        self.life.end()
        self.database.close()

    # What the server does

    def use(self, value: str, event_name: str, quantity: Decimal, ago_s: float = 0.0) -> None:
        """Usage is recorded at an edge, and shipped until the ledger has it."""
        event = UsageEvent(
            id=f"event-{next(self._numbers):06}",
            policy="judged",
            policy_version="1",
            metric=event_name.upper(),
            identity=Identity(self.stripe.field, value),
            quantity=quantity,
            occurred_at=self.clocks.ours() - timedelta(seconds=ago_s),
            state="counted",
            event_name=event_name,
        )
        self.having.setdefault(value, [])
        self._spool.append(encode(event))
        self._do(self._ship)

    def forward(self, rounds: int = 50) -> None:
        """Let the forwarder do what is due, at most so many rounds."""
        self._do(lambda: self._forward(rounds))

    def poll(self) -> None:
        """Ask Stripe what it has told since; an account that is paused may try again."""
        self._do(self._poll)

    def reconcile(self) -> None:
        """Compare ledger and Stripe."""
        self._do(lambda: self._reconcile(everything=False))

    def kill(self, crossings: int = 0) -> None:
        """End this life, now or at a crossing to come."""
        self.life.fuse.left = crossings
        if not crossings:
            self.life.fuse.blown = True
            self._do(lambda: None)

    def die_at_work(self, value: str, event_name: str, crossings: int) -> None:
        """The server dies while it forwards, and nobody starts it before the next day."""
        self.use(value, event_name, Decimal(1))
        self.kill(crossings)
        self.forward()
        self.pass_time(OUTAGE_S)

    def _do(self, act: Callable[[], object]) -> None:
        """One step of a living server; after its death the next life begins."""
        self.clocks.true += timedelta(seconds=1)
        try:
            act()
        except (DeliveryError, DatabaseError) as error:  # told, and tried again
            self.complaints.append(str(error))
        except self._lives.killed:
            pass
        if self.life.fuse.blown:
            self.life.end()
            self.start()

    def _ship(self) -> None:
        lines = list(self._spool)
        if not lines:
            return
        with self.life.database.transaction() as tx:
            results = store.append(tx, self.organization_id, lines, unknown_metric="create")
        assert {one.status for one in results} <= {"accepted", "duplicate"}, results
        del self._spool[: len(lines)]

    def _forward(self, rounds: int) -> None:
        if self.life.meters.wanted or not self.life.meters.known:
            self.life.meters.refresh()
        assign(self.life.database)
        for _ in range(rounds):
            if not self.life.forwarder.forward_once():
                break

    def _poll(self) -> None:
        life = self.life
        with life.database.transaction() as tx:
            accounts.resume(tx, self.account_id)
        catch_up.poll(life.database, self.account_id, life.gateway, lambda _: life.meters.want())

    def _reconcile(self, *, everything: bool) -> None:
        life = self.life
        reconcile(
            life.database,
            self.account_id,
            life.gateway,
            reads_per_day=100_000,
            everything=everything,
        )

    # What happens to it

    def pass_time(self, seconds: float) -> None:
        """Time passes, here and at Stripe; much more than a call takes."""
        self.life.land()
        self.clocks.true += timedelta(seconds=seconds)

    def set_clock(self, error_s: float) -> None:
        """Our machine is wrong about the time by so much from now on."""
        self.life.land()
        self.clocks.error = timedelta(seconds=error_s)

    def fault(self, name: str, count: int = 1) -> None:
        """The next meter events fail in one of the ways of FAULTS."""
        self.stripe.control("faults", [{"route": ROUTE, "count": count, **FAULTS[name]}])

    def plan(self, seed: int, *names: str, rate: float = 0.3) -> None:
        """Meter events fail by chance, in these ways, in place of all faults asked for before."""
        rules = [{"route": ROUTE, "rate": rate / len(names), **FAULTS[name]} for name in names]
        self.stripe.control("faults", {"seed": seed, "rules": rules})

    def appear(self, value: str) -> str:
        """One more Stripe customer has this identity."""
        customer_id: str = self.stripe.customer(value)
        self.payers[customer_id] = value
        self.having.setdefault(value, []).append(customer_id)
        return customer_id

    def lose(self, value: str, *, delete: bool = False) -> None:
        """The first customer that has this identity loses it, or is deleted."""
        if having := self.having.get(value):
            customer_id = having.pop(0)
            if delete:
                self.stripe.http.delete(f"/v1/customers/{customer_id}").raise_for_status()
            else:
                self.stripe.customer("", customer_id)

    def revoke_account(self) -> None:
        """The account's owner withdraws the connection, which nobody tells us."""
        self.stripe.connect(connected=False)

    def restore_account(self) -> None:
        """The account's owner connects it again, after what was answered before is settled."""
        self.stripe.connect(connected=True)
        self.life.land()
        self.forward(1)
        self._connect()

    def _connect(self) -> None:
        with self.database.transaction() as tx:
            made = accounts.connect(tx, self.organization_id, self.stripe.account, livemode=False)
        assert isinstance(made, str), made
        self.account_id = made

    def reject_later(self, place: int) -> None:
        """Stripe drops one of the meter events that it counts, and reports it."""
        if counting := self.stripe.journal(every=False):
            identifier = counting[place % len(counting)]["identifier"]
            code = "meter_event_invalid_value"
            self.stripe.control("reject", {"identifier": identifier, "code": code})

    def happen(self, chance: Random) -> None:
        """Any step of a usual story, drawn by `chance`."""
        value, event_name = chance.choice("abc"), chance.choice(("tokens", "seconds", "calls"))
        steps: list[tuple[int, Callable[[], object]]] = [
            (8, lambda: self.use(value, event_name, Decimal(chance.randrange(1, 99)))),
            (8, lambda: self.forward(chance.randrange(1, 9))),
            (2, lambda: self.fault(chance.choice(QUICK))),
            (1, lambda: self.plan(chance.randrange(99), *QUICK)),
            (5, lambda: self.kill(chance.randrange(12))),
            (3, lambda: self.pass_time(chance.randrange(1, 90))),
            (1, lambda: self.pass_time(chance.randrange(1, 6) * 3_600)),
            (1, lambda: self.pass_time(OUTAGE_S)),
            (2, lambda: self.die_at_work(value, event_name, chance.randrange(1, 12))),
            (1, self.poll),
            (1, self.reconcile),
        ]
        weights, acts = zip(*steps, strict=True)
        chance.choices(acts, weights)[0]()

    # The end

    def heal(self) -> None:
        """Nothing goes wrong any more, and time passes until nothing changes."""
        self.life.fuse.left = None
        self.stripe.control("faults", {"rules": []})
        self.stripe.control("settings", {"search_lag_s": 0, "summary_lag_s": 0})
        self.set_clock(0)
        self.restore_account()
        for value in self.having:
            while len(self.having[value]) > 1:
                self.lose(value)
            if not self.having[value]:
                self.appear(value)
        quiet = 0
        for _ in range(ROUNDS_MAX):
            before = self.picture()
            self._rest()
            self.pass_time(STEP_S)
            quiet = quiet + 1 if self.picture() == before else 0
            if quiet > (QUIET_ROUNDS if set(before) <= FINAL else SLOW_ROUNDS):
                return
        raise AssertionError(f"the world does not come to rest: {self.picture()}")

    def _rest(self) -> None:
        """What the server does by itself, and a person who looks at all that differs."""
        self._do(self._ship)
        self.forward()
        self.poll()
        self._do(lambda: self._reconcile(everything=True))
        self._do(self._correct)

    def _correct(self) -> None:
        """A person carries out what is proposed."""
        with self.database.reading() as tx:
            found = differences.listed(tx, self.organization_id)
            proposed = [row.id or 0 for row in found if row.state == "open" and row.proposal]
        life = self.life
        for difference_id in proposed:
            corrections.apply(
                life.database, self.organization_id, difference_id, life.gateway, actor="judge"
            )

    def picture(self) -> dict[str, int]:
        """How many units are in which state, and how many differences are open."""
        with self.database.reading() as tx:
            found = units.summary(tx, self.organization_id)
            differing = len(differences.listed(tx, self.organization_id))
        return found | ({"differing": differing} if differing else {})

    def misstated(self) -> list[str]:
        """Where the statement does not add up, at this moment; and calls that flew together."""
        with self.database.reading() as tx:
            lines = statement(tx, self.organization_id)
            lanes = verify(tx, self.organization_id)
        found = [f"the statement does not add up: {line}" for line in lines if line.difference]
        found += [f"a lane does not add up: {lane}" for lane in lanes]
        return found + [f"two calls at once for {pair}" for pair in self.flights.together]


@pytest.fixture
def world(
    request: pytest.FixtureRequest, stripe: Any, lives: Any, tmp_path: Path, sqlite_template: bytes
) -> Iterator[Callable[..., World]]:
    """Makes worlds, each empty and with a database of its own; one at a time."""
    with ExitStack() as opened:

        def make(dialect: str = "sqlite", **parts: Any) -> World:
            opened.close()
            stripe.reset()
            if dialect == "postgresql":
                server = request.getfixturevalue("postgres")
                url = server.create()
                opened.callback(server.drop, url)
            else:
                directory = opened.enter_context(TemporaryDirectory(dir=tmp_path))
                path = Path(directory, "usageflow.db")
                path.write_bytes(sqlite_template)
                url = f"sqlite:///{path}"
            made = World(url, stripe, lives, **parts)
            opened.callback(made.close)
            return made

        yield make
