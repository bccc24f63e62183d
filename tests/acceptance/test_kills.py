"""G1 and G2 under kill -9: no completed response is lost, none is counted or applied twice.

Two edges and the server are killed again and again under load, at moments nobody chose. Requests
have identities of their own, so that each can be followed: what the client saw complete must be in
the ledger and at Stripe exactly once; what it did not see complete, at most once.
"""

import asyncio
import itertools
import os
import random
import threading
from collections import Counter
from typing import Any, Self

import httpx
import pytest

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
TIMES = 10 if TORTURE else 1
KILLS = {"app": 22 * TIMES, "proxy": 22 * TIMES, "server": 10 * TIMES}
LIFE_S = {"app": (0.05, 0.8), "proxy": (0.05, 0.8), "server": (0.5, 3.0)}
"""How long each lives; the server long enough to begin sending."""
CLIENTS = 8
OWN_MAX = 2_500 * TIMES
"""Customers that are followed to Stripe: each start of a server lists all of them anew."""
REST_S = 0.05
"""Between two requests of a client."""
AGAIN_S = 0.2
"""After one that failed: an edge takes that long to start."""
SHARED = 5
"""Every fourth request is made for one of a few customers, whose usage folds into units."""
KEPT = "k-"
"""Every other request is followed to the ledger only, where it has an identity of its own, too."""
SLOW_CALLS = 1_500 * TIMES


class Load:
    """Clients that call both edges until told to stop.

    Half of the requests are followed to the ledger, a quarter to Stripe, a quarter share customers.
    """

    def __init__(self, urls: list[str]) -> None:
        self.completed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._urls = urls
        self._numbers = itertools.count()
        self._own = iter(range(OWN_MAX))
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

    def _identity(self, n: int) -> str:
        if n % 2:
            return f"{KEPT}{n}"
        own = None if n % 4 else next(self._own, None)
        return f"shared-{n % SHARED}" if own is None else f"r-{own}"

    async def _client(self, client: httpx.AsyncClient, number: int) -> None:
        url = self._urls[number % len(self._urls)]
        while not self._stop.is_set():
            n = next(self._numbers)
            identity = self._identity(n)
            path = "kept" if identity.startswith(KEPT) else "calls"
            try:
                answer = await client.get(f"{url}/{path}/{n}", headers={"x-account-id": identity})
                good = answer.status_code == 200 and answer.content == b"ok"
            except httpx.HTTPError:
                good = False
            (self.completed if good else self.failed)[identity] += 1
            await asyncio.sleep(REST_S if good else AGAIN_S)


def _kill_again_and_again(stack: Any, name: str, seed: int) -> None:
    moments = random.Random(seed)
    for _ in range(KILLS[name]):
        threading.Event().wait(moments.uniform(*LIFE_S[name]))
        stack.kill(name)
        stack.start(name)


@pytest.mark.kill
@pytest.mark.timeout(3600 if TORTURE else 420)
def test_every_completed_response_is_counted_and_applied_exactly_once(stack: Any) -> None:
    """More than 50 kills of app, proxy and server under load."""
    stack.add_stripe()
    stack.seed(OWN_MAX, shared=SHARED)
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
            threading.Thread(target=_kill_again_and_again, args=(stack, name, seed))
            for seed, name in enumerate(KILLS)
        ]
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
    assert load.completed.total() > 500, "the load was too thin to prove anything"
    assert load.failed, "no kill hit a request"

    stack.wait_for(lambda: stack.spooled() == 0, 60, "the spools are empty")
    ledger = stack.ledger()
    stack.wait_for(lambda: stack.unsettled() == 0, 180, "the outcome of every unit is known")
    applied = stack.applied()

    sent = load.completed + load.failed
    lost = {i: n for i, n in load.completed.items() if ledger.get(i, 0) < n}
    doubled = {i: n for i, n in ledger.items() if n > sent[i]}
    assert (lost, doubled) == ({}, {})
    forwarded = {i: n for i, n in ledger.items() if not i.startswith(KEPT)}
    assert {i: value for i, (value, _) in applied.items()} == forwarded
    own = {i: events for i, (_, events) in applied.items() if i.startswith("r-")}
    assert set(own.values()) == {1}
