"""Serving a metered WebSocket: moves its messages, records its usage as it goes.

The proxy moves bytes instead of messages and shares when to record, the `Session`.

Nothing is held but the close. What passed is recorded every so many seconds or messages, so that a
crash loses no more than that. The Conversation counts; who records is the middleware's business.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.middleware.conversation import Conversation
from usageflow.middleware.parts import Pace
from usageflow.policies.engine import UPGRADED

TRY_AGAIN_LATER: Final = 1013
"""Close code, IANA WebSocket registry."""
_UNAVAILABLE: Final = 503


class Record(Protocol):
    """Turns what was counted into events."""

    def __call__(self, *, last: bool) -> Awaitable[object] | None:
        """Record; with the last part comes what to await before the client may see the end."""


async def serve_websocket(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    conversation: Conversation,
    record: Record,
    pace: Pace,
) -> None:
    """Run the app for one WebSocket and record its usage."""
    session = Session(conversation, record, pace)

    async def receive_observed() -> Message:
        message = await receive()
        conversation.received(message)
        session.moved()
        return message

    async def send_observed(message: Message) -> None:
        conversation.sends(message)
        hold = session.moved()
        if hold is not None:
            await hold
        await send(message)

    try:
        await app(scope, receive_observed, send_observed)
    finally:
        session.finish()


class Session:
    """When to record: at the accept, at the pace, at the end. One timer while it is open."""

    __slots__ = (
        "_conversation",
        "_finished",
        "_loop",
        "_pace",
        "_record",
        "_started_s",
        "_timer",
    )

    def __init__(self, conversation: Conversation, record: Record, pace: Pace) -> None:
        self._conversation = conversation
        self._record = record
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._finished = False

    def moved(self) -> Awaitable[object] | None:
        """A message passed; what to await if it was the last."""
        talk = self._conversation
        if talk.ended:
            return self.finish()
        if self._timer is None and talk.status == UPGRADED:
            self._tick()  # accepted: the connection itself may be what is counted
        elif talk.messages_since >= self._pace.messages:
            self.part()
        return None

    def part(self) -> None:
        """Record what passed since the last time."""
        self._settle(last=False)

    def finish(self) -> Awaitable[object] | None:
        """Record what is left, once."""
        if self._finished:
            return None
        self._finished = True
        if self._timer is not None:
            self._timer.cancel()
        return self._settle(last=True)

    def _tick(self) -> None:
        self.part()
        self._timer = self._loop.call_later(self._pace.seconds, self._tick)

    def _settle(self, *, last: bool) -> Awaitable[object] | None:
        self._conversation.duration_ms = int((self._loop.time() - self._started_s) * 1000)
        self._conversation.messages_since = 0
        return self._record(last=last)


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a handshake because its usage cannot be recorded now."""
    await receive()  # websocket.connect comes first (ASGI)
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
        return
    start = {"type": "websocket.http.response.start", "status": _UNAVAILABLE, "headers": []}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": b""})
