"""kill -9 of the real server, again and again, while Stripe loses three of ten answers.

Usage comes in over HTTP, as edges ship it: a batch is sent again until it is acknowledged. What is
judged is what the emulator counted and what the ledger recorded, and nothing the server said.
"""

import itertools
import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

import httpx
import pytest

from usageflow.db.session import Database
from usageflow.events import Identity, UsageEvent, encode_lines
from usageflow.recorder.sink import API_KEY_HEADER, EVENTS_PATH
from usageflow.stripe.accounts import accounts
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.reconciliation import reconcile

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
KILLS = 50 if TORTURE else 8
LIFE_S = (0.05, 0.9)
"""How long each life of the server lasts once it listens."""
CUSTOMERS = 6
BATCH = 5
REST_S = 0.03
LOST = {"route": "/v1/billing/meter_events", "kind": "reset", "rate": 0.15}
PLAN = {"seed": 4, "rules": [LOST | {"after_commit": True}, LOST]}
AGO = timedelta(hours=4)
"""The hour of this usage is over, so that it is compared while the server is killed."""
LATER = timedelta(hours=3)
STRIPE_KEY = "sk_test_acceptance"


class Edge:
    """Ships batches of usage from a thread, each until it is acknowledged."""

    def __init__(self, url: str, key: str) -> None:
        self.shipped = 0
        self._http = httpx.Client(
            base_url=url, headers={API_KEY_HEADER: key}, timeout=5, trust_env=False
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        numbers = itertools.count()
        while not self._stop.is_set():
            lines = encode_lines([_event(next(numbers)) for _ in range(BATCH)])
            while not self._shipped(lines):
                self._stop.wait(REST_S)
            self.shipped += BATCH
            self._stop.wait(REST_S)

    def _shipped(self, lines: bytes) -> bool:
        try:
            return self._http.post(EVENTS_PATH, content=lines).status_code == 200
        except httpx.HTTPError:
            return False


def _event(number: int) -> UsageEvent:
    return UsageEvent(
        id=f"event-{number:06}",
        policy="calls",
        policy_version="1",
        metric="API_CALL",
        identity=Identity("account_id", f"r-{number % CUSTOMERS}"),
        quantity=Decimal(number % 7 + 1),
        occurred_at=datetime.now(UTC) - AGO,
        state="counted",
        event_name="api_request",
    )


class Emulator:
    """The emulator of the stack."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)

    def plan(self, plan: dict[str, Any]) -> None:
        """Let calls fail by chance."""
        self.http.post("/_emulator/faults", json=plan).raise_for_status()

    def journal(self) -> list[dict[str, Any]]:
        """All that happened to meter events."""
        answer = self.http.get("/_emulator/journal?all=1").raise_for_status().json()
        assert not answer["has_more"]
        rows: list[dict[str, Any]] = answer["journal"]
        return rows

    def payers(self) -> dict[str, str]:
        """Customer -> its identity."""
        listed = self.http.get("/v1/customers?limit=100").raise_for_status().json()["data"]
        return {one["id"]: one["metadata"]["account_id"] for one in listed}


@pytest.fixture
def emulator(stack: Any) -> Iterator[Emulator]:
    """The emulator as a process, with its customers and its meter."""
    stack.add_stripe()
    stack.seed(CUSTOMERS)
    opened = Emulator(stack.url("stripe"), STRIPE_KEY)
    yield opened
    opened.http.close()


def later() -> datetime:
    """The time when sums of now are believed."""
    return datetime.now(UTC) + LATER


def compare_later(database: Database, emulator: Emulator) -> None:
    """Compare once more, as the server would after some hours."""
    seconds = LATER.total_seconds()
    emulator.http.post("/_emulator/clock", json={"advance_s": seconds}).raise_for_status()
    url = str(emulator.http.base_url).rstrip("/")
    with (
        database.reading() as tx,
        closing(StripeGateway(STRIPE_KEY, base=url, timeout_s=20)) as gateway,
    ):
        (account,) = accounts(tx)
        reconcile(database, account.id, gateway, reads_per_day=100_000)


@pytest.mark.kill
@pytest.mark.timeout(1_800 if TORTURE else 240)
def test_the_server_is_killed_while_answers_are_lost(
    stack: Any, emulator: Emulator, judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every life and death: what was acknowledged counts once, and the ledger knows it."""
    for name in ("RECONCILE_S", "POLL_S"):
        monkeypatch.setenv(f"USAGEFLOW_STRIPE_{name}", "1")
    monkeypatch.setenv("USAGEFLOW_STRIPE_READS_PER_DAY", "100000")
    emulator.plan(PLAN)
    stack.add_server()
    moments = random.Random(5)
    with Edge(stack.url("server"), stack.api_key()) as edge:
        for _ in range(KILLS):
            threading.Event().wait(moments.uniform(*LIFE_S))
            stack.kill("server")
            stack.start("server")
    emulator.plan({"rules": []})
    stack.wait_for(lambda: stack.unsettled() == 0, 90, "every unit is accepted")
    assert stack.stop("server") == 0

    assert sum(stack.ledger().values()) == sum(n % 7 + 1 for n in range(edge.shipped))
    with closing(Database.open(stack.database, clock=later)) as database:
        compare_later(database, emulator)
        assert judge(database, emulator.payers()).faults(emulator.journal()) == []
    repeats = sum(row["kind"] == "duplicate" for row in emulator.journal())
    assert repeats > 0, "no answer was lost"
