"""From facts to recorded events, at the moment that the shell says. Never raises into the app."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from weakref import ref

import uuid_utils

from usageflow.events import UsageEvent
from usageflow.middleware.conversation import Conversation
from usageflow.middleware.exchange import Exchange
from usageflow.policies import Match, evaluate, evaluate_part
from usageflow.recorder import Recorder

log = logging.getLogger("usageflow.middleware")

LOGGED_KINDS_MAX: Final = 100
"""Kinds of failures told one by one; messages with changing texts must not fill the memory."""


class Settlement:
    """Evaluates and records. What it returns is to be awaited before the client may see the end.

    `failures` counts what could not be metered by our own fault; each kind is logged once.
    """

    def __init__(self, recorder: Recorder, *, durable: bool) -> None:
        self.failures = 0
        self._recorder = recorder
        self._durable = durable
        self._logged: set[str] = set()

    def settle(self, match: Match, exchange: Exchange) -> Awaitable[object] | None:
        """Record what an exchange is worth; once, when it is over."""
        exchange.settled = True
        try:
            events = evaluate(match, exchange, now=datetime.now(UTC), new_id=new_id)
            self._record(exchange, events)
        except Exception as error:  # noqa: BLE001 - metering must not break the app
            self.log_once("record", error)
        return exchange.held

    def settle_part(
        self, match: Match, facts: Exchange | Conversation, *, last: bool
    ) -> Awaitable[object] | None:
        """Record what passed since the last time; only the end of a WebSocket is waited for."""
        try:
            events = evaluate_part(match, facts, last=last, now=datetime.now(UTC), new_id=new_id)
            self._record(facts, events)
        except Exception as error:  # noqa: BLE001 - metering must not break the app
            self.log_once("record", error)
        return facts.held

    def of_stream(self, match: Match, exchange: Exchange) -> Callable[[], None]:
        """What records a part of a stream, unless it is over or its request not complete yet."""
        stream = ref(exchange)  # a timer must not keep what is over

        def settle_stream() -> None:
            growing = stream()
            if growing is None or growing.settled:
                return
            if match.needs_request_body and growing.request_body.unfinished is not None:
                return
            self.settle_part(match, growing, last=False)

        return settle_stream

    def log_once(self, where: str, error: Exception) -> None:
        """Metering failed: counted, and told once for each kind of failure."""
        self.failures += 1
        key = f"{where}: {error!r}"
        if key not in self._logged and len(self._logged) < LOGGED_KINDS_MAX:
            self._logged.add(key)
            log.error("metering failed in %s; requests are served", where, exc_info=error)

    def _record(self, facts: Exchange | Conversation, events: Sequence[UsageEvent]) -> None:
        """What is held is this commit, or that of the part before, which may be under way."""
        if events:
            loop = asyncio.get_running_loop() if self._durable else None
            facts.held = self._recorder.record(events, loop)


def new_id() -> str:
    """The id of an event, minted here and nowhere else (RFC 9562, version 7)."""
    return str(uuid_utils.uuid7())
