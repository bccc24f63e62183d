"""The ASGI app that forwards every request to one upstream. It knows nothing about metering.

WebSockets are refused for now. Requests and answers are streamed in both directions; see
`forwarding` for one request and `pool` for the connections.
"""

import asyncio
from functools import partial
from typing import Final

from usageflow._types import Receive, Scope, Send
from usageflow.config import Settings
from usageflow.proxy.forwarding import Forwarding
from usageflow.proxy.headers import request_head
from usageflow.proxy.pool import ConnectionPool
from usageflow.proxy.refusals import Refusal, refuse
from usageflow.proxy.upstream import Upstream

TICK_S: Final = 0.1
"""How often timeouts and clients that left are looked for, while anything is in flight. One timer
for all requests: a timer for each would cost more than the rest of a small request."""

_POLICY_VIOLATION: Final = 1008
"""WebSocket close code (RFC 6455, section 7.4.1); before the handshake servers answer 403."""


class ReverseProxy:
    """Forwards to `upstream`, such as `http://127.0.0.1:9000`; ConfigurationError for no such URL.

    A client that leaves is noticed within two ticks; its upstream request is then broken off.
    """

    def __init__(self, upstream: str, *, settings: Settings) -> None:
        self._upstream = Upstream.parse(upstream)
        connect = partial(self._upstream.connect, settings=settings)
        self._pool = ConnectionPool(connect, settings)
        self._in_flight: set[Forwarding] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope."""
        if scope["type"] == "http":
            await self._forward(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})

    async def aclose(self) -> None:
        """Close all connections to the upstream; what is in flight fails."""
        await self._pool.aclose()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = request_head(scope, self._upstream.authority)
        if isinstance(head, Refusal):
            return await refuse(send, head)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        forwarding = Forwarding(self._pool, head, scope, receive, send)
        self._in_flight.add(forwarding)
        try:
            await forwarding.run()
        finally:
            self._in_flight.discard(forwarding)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._pool.sweep(loop.time())
        for forwarding in self._in_flight:
            forwarding.attend()
        busy = self._in_flight or not self._pool.empty
        self._timer = loop.call_later(TICK_S, self._tick) if busy else None

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})
