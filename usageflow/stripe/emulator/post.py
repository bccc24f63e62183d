"""The post: signed deliveries over HTTP, from background tasks of the emulator's event loop.

What is due when is decided in `deliveries`. A task per listener runs while it has something to
send; it ends with the server. Only addresses of this machine are posted to, unless that is allowed.
"""

import asyncio
import ssl
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, Final

import httpx
import msgspec

from usageflow.stripe.emulator import deliveries, listeners, signatures
from usageflow.stripe.emulator.deliveries import Conduct, Delivery, Queue
from usageflow.stripe.emulator.listeners import Listener
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

ATTEMPT_TIMEOUT_S: Final = 10.0
"""How long a receiver may take to answer."""
LOG_ROWS_MAX: Final = 10_000
"""Attempts that are remembered, the latest."""


@dataclass(slots=True)
class Lane:
    """One listener's queue and the task that empties it."""

    queue: Queue = field(default_factory=Queue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Post:
    """All deliveries of one world; it takes the world's events from now on."""

    def __init__(self, world: World, *, allow_remote: bool) -> None:
        self._world = world
        self._allow_remote = allow_remote
        self._lanes: dict[str, Lane] = {}
        self.reset()
        world.deliver = self.publish
        world.on_reset.append(self.reset)

    def reset(self) -> None:
        """Forget what waits, what was sent and how it was to be sent."""
        for lane in self._lanes.values():
            if lane.task is not None:
                lane.task.cancel()
        self._lanes = {}
        self._delivered: set[tuple[str, str]] = set()
        self.log: deque[dict[str, Any]] = deque(maxlen=LOG_ROWS_MAX)
        self.conduct = Conduct()
        self._chance = Random(self.conduct.seed)  # noqa: S311 - a test's dice

    @property
    def waiting(self) -> int:
        """How many deliveries are still to be made, those being made included."""
        return sum(
            len(lane.queue) + (lane.task is not None and not lane.task.done())
            for lane in self._lanes.values()
        )

    def publish(self, account: Account, event: dict[str, Any]) -> None:
        """Queue an event for whoever listens."""
        told = list(listeners.told(self._world.accounts, account, event))
        if event["object"] == "event":
            event["pending_webhooks"] = len(told)
        for listener, connected in told:
            body = deliveries.body(listener, event, account.object_id if connected else None)
            delivery = Delivery(listener, event, account.object_id, body)
            self._queue(listener, delivery)

    def _queue(self, listener: Listener, delivery: Delivery) -> None:
        lane = self._lanes.setdefault(listener.object_id, Lane())
        plan = list(deliveries.planned(self.conduct, self._chance, delivery, time.monotonic()))
        for planned, due_s, rank in plan:
            lane.queue.add(planned, due_s, rank)
        if not plan:
            self._note(delivery, error="dropped")
        self._wake(lane)

    def arrange(self, *, flush: bool, **changes: Any) -> None:
        """Change how deliveries behave from now on; `flush` lets go of all that waits.

        Raises msgspec.ValidationError for what is no conduct.
        """
        self.conduct = msgspec.convert({**msgspec.to_builtins(self.conduct), **changes}, Conduct)
        if "seed" in changes:
            self._chance = Random(self.conduct.seed)  # noqa: S311 - a test's dice
        for lane in self._lanes.values():
            if flush:
                lane.queue.flush()
            self._wake(lane)

    def _wake(self, lane: Lane) -> None:
        lane.changed.set()
        if lane.task is None or lane.task.done():
            lane.task = asyncio.get_running_loop().create_task(self._empty(lane))

    async def _empty(self, lane: Lane) -> None:
        """Deliver until nothing is due, nor will be by itself.

        Asked again at the very end: closing connections takes a moment, in which more may come.
        """
        while lane.queue.next_s(paused=self.conduct.pause) is not None:
            async with httpx.AsyncClient(
                timeout=ATTEMPT_TIMEOUT_S, trust_env=False, verify=_tls()
            ) as client:
                await self._deliver(client, lane)

    async def _deliver(self, client: httpx.AsyncClient, lane: Lane) -> None:
        while (due_s := lane.queue.next_s(paused=self.conduct.pause)) is not None:
            lane.changed.clear()
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(lane.changed.wait(), wait_s)
            else:
                await self._attempt(client, lane, lane.queue.take())

    async def _attempt(self, client: httpx.AsyncClient, lane: Lane, delivery: Delivery) -> None:
        listener = delivery.listener
        if not listener.enabled:
            self._note(delivery, error="endpoint disabled")
            return
        if not self._allow_remote and not deliveries.is_local(listener.url):
            self._note(delivery, error="not an address of this machine")
            return
        delivery.attempts += 1
        signature = signatures.header(delivery.body, listener.secret, self._world.now())
        headers = {"content-type": "application/json", "stripe-signature": signature}
        try:
            answer = await client.post(listener.url, content=delivery.body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            self._note(delivery, error=type(problem).__name__)
            delivered = False
        else:
            self._note(delivery, status=answer.status_code)
            delivered = answer.is_success
        if delivered:
            self._succeeded(delivery)
        elif delivery.attempts <= len(self.conduct.retry_after_s):
            wait_s = self.conduct.retry_after_s[delivery.attempts - 1]
            lane.queue.add(delivery, time.monotonic() + wait_s)

    def _succeeded(self, delivery: Delivery) -> None:
        key = (delivery.listener.object_id, delivery.event["id"])
        if key not in self._delivered and "pending_webhooks" in delivery.event:
            delivery.event["pending_webhooks"] -= 1
        self._delivered.add(key)

    def _note(
        self, delivery: Delivery, *, status: int | None = None, error: str | None = None
    ) -> None:
        self.log.append(
            {
                "endpoint": delivery.listener.object_id,
                "event": delivery.event["id"],
                "type": delivery.event["type"],
                "account": delivery.account,
                "attempt": delivery.attempts,
                "duplicate": delivery.duplicate,
                "status": status,
                "error": error,
                "at": self._world.now().isoformat(),
            }
        )


@cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes longer than a delivery, so they are read once."""
    return ssl.create_default_context()
