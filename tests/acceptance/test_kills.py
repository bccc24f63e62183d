"""G1 and G2 under kill -9: no completed response is lost, none is counted or applied twice.

Two edges and the server are killed again and again under load, at moments nobody chose. Every
request has an identity of its own, so that each can be followed: what the client saw complete must
be in the ledger and at Stripe exactly once; what it did not see complete, at most once.
"""

import asyncio
import itertools
import os
import random
import threading
from decimal import Decimal
from typing import Any, Self

import httpx
import pytest

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
TIMES = 10 if TORTURE else 1
KILLS = {"app": 21 * TIMES, "proxy": 21 * TIMES, "server": 10 * TIMES}
LIFE_S = {"app": (0.05, 0.8), "proxy": (0.05, 0.8), "server": (0.5, 3.5)}
"""How long each lives; the server long enough to begin sending."""
REQUESTS_MAX = 40_000 if TORTURE else 4_000
CLIENTS = 8
SLOW_CALLS = 1_500 * TIMES


class Load:
    """Clients that call both edges until told to stop, each request under its own identity."""

    def __init__(self, urls: list[str]) -> None:
        self.completed: set[str] = set()
        self.failed: set[str] = set()
        self._urls = urls
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            await asyncio.gather(*(self._client(client, n) for n in range(CLIENTS)))

    async def _client(self, client: httpx.AsyncClient, number: int) -> None:
        url = self._urls[number % len(self._urls)]
        while not self._stop.is_set():
            n = next(self._numbers)
            if n >= REQUESTS_MAX:
                return
            identity = f"r-{n}"
            try:
                answer = await client.get(f"{url}/calls/{n}", headers={"x-account-id": identity})
                good = answer.status_code == 200 and answer.content == b"ok"
            except httpx.HTTPError:
                good = False
                await asyncio.sleep(0.05)
            (self.completed if good else self.failed).add(identity)
            await asyncio.sleep(0.01)


def _kill_again_and_again(stack: Any, name: str, times: int, seed: int) -> None:
    moments = random.Random(seed)
    for _ in range(times):
        threading.Event().wait(moments.uniform(*LIFE_S[name]))
        stack.kill(name)
        stack.start(name)


@pytest.mark.kill
@pytest.mark.timeout(3600 if TORTURE else 420)
def test_every_completed_response_is_counted_and_applied_exactly_once(stack: Any) -> None:
    """At least 50 kills of app, proxy and server under load."""
    stack.add_stripe()
    stack.seed(REQUESTS_MAX)
    # Stripe applies at once and answers late, so that kills of the server find units in between.
    slow = {"kind": "slow", "seconds": 0.2, "after_commit": True, "count": SLOW_CALLS}
    stack.break_stripe(slow)
    stack.add_server()
    key = stack.api_key()
    stack.add_app(key)
    stack.add_upstream()
    stack.add_proxy(key, stack.url("upstream"))
    with Load([stack.url("app"), stack.url("proxy")]) as load:
        killers = [
            threading.Thread(target=_kill_again_and_again, args=(stack, name, times, number))
            for number, (name, times) in enumerate(KILLS.items())
        ]
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
    assert sum(KILLS.values()) >= 50
    assert len(load.completed) > 500, "the load was too thin to prove anything"
    assert load.failed, "no kill hit a request"

    stack.wait_for(lambda: stack.spooled() == 0, 60, "the spools are empty")
    ledger = stack.ledger()
    stack.wait_for(lambda: len(stack.applied()) >= len(ledger), 120, "all is applied at Stripe")
    applied = stack.applied()

    assert {i for i in load.completed if ledger.get(i) != 1} == set(), "lost or doubled"
    assert {i for i, quantity in ledger.items() if quantity != 1} == set(), "doubled"
    assert set(ledger) <= load.completed | load.failed
    assert {i: applied.get(i) for i in ledger} == dict.fromkeys(ledger, (Decimal(1), 1))
