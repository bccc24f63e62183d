"""UsageFlowMiddleware: moves messages, holds back the last one until its usage is on disk.

Decides nothing itself: the policies say what an exchange is worth, the Exchange says when it is
complete, the recorder says when it is durable. Changes no byte, and whatever goes wrong in metering
is logged and recorded, never raised into the app. Not a `BaseHTTPMiddleware`: no task, no queue and
no buffering per request.
"""

import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Final

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Durability, Settings
from usageflow.middleware.conversation import METHOD as WEBSOCKET
from usageflow.middleware.exchange import NO_PROVIDERS, Exchange
from usageflow.middleware.feed import Feed
from usageflow.middleware.hops import CLAIMED
from usageflow.middleware.metadata import Provider
from usageflow.middleware.meter import Meter, elapsed_ms
from usageflow.middleware.usage_asked import ask_for_usage
from usageflow.middleware.websocket import refuse_websocket, serve_websocket
from usageflow.policies import Match
from usageflow.recorder import Recorder

RETRY_AFTER_S: Final = 5
"""What a refused client is asked to wait: a disk that is full is seldom free again sooner."""

_UNAVAILABLE: Final = (
    b'{"error":{"code":"metering_unavailable","message":"This request cannot be metered now and '
    b'is not served. Try again later."}}'
)


class UsageFlowMiddleware:
    """Meters an ASGI app.

    `server` and `api_key` name the UsageFlow server; `policies` a policy file to use instead of the
    server's; `spool_dir` must survive restarts; `durability="relaxed"` lets a response end before
    its usage is on disk, and a crash may then lose the last moments. Each falls back to its
    environment variable (`USAGEFLOW_SERVER`, ...). `settings` replaces them all. `metadata` names
    contextvars and callables of the scope that policies may identify by. `feed` and `recorder` are
    the objects the options build; pass your own to share or replace them.

    Raises ConfigurationError (PolicyFileError for an unreadable policy file) at construction.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        server: str | None = None,
        api_key: str | None = None,
        policies: str | Path | None = None,
        spool_dir: str | Path | None = None,
        durability: Durability | None = None,
        metadata: Mapping[str, Provider] = NO_PROVIDERS,
        settings: Settings | None = None,
        feed: Feed | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        settings = settings or Settings.read(
            server=server,
            api_key=api_key,
            policies=policies,
            spool_dir=spool_dir,
            durability=durability,
        )
        self._app = app
        self.meter = Meter(settings, metadata=metadata, feed=feed, recorder=recorder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            readiness = self.meter.readiness
            if not readiness.reached:
                await readiness.wait()
                if not readiness.reached:
                    readiness.miss()
            method = scope["method"] if kind == "http" else WEBSOCKET
            match, path = self.meter.match(method, scope, trusted=True)
            if match is not None:
                serve = self._metered if kind == "http" else self._metered_websocket
                await serve(match, path, scope, receive, send)
                return
            discovery = self.meter.discovery
            if (
                discovery is not None
                and readiness.reached
                and kind == "http"
                and CLAIMED not in scope
            ):
                observation = discovery.begin(scope, path)
                if observation is not None:
                    await observation.through(self._app, receive, send)
                    return
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def close(self) -> None:
        """Write and ship what is left, within `drain_timeout_s`, and stop. Blocks; see `aclose`."""
        self.meter.close()

    async def aclose(self) -> None:
        """Close without blocking the event loop."""
        await self.meter.aclose()

    async def _metered(
        self, match: Match, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self.meter.refuses(match):
            await _refuse(send)
            return
        exchange = self.meter.exchange(match, scope, path)
        started_s = time.perf_counter()

        async def receive_observed() -> Message:
            message = await receive()
            exchange.received(message)
            return message

        given: Receive = receive_observed
        try:
            if match.include_usage:
                scope, given, send = await ask_for_usage(
                    scope, receive_observed, send, self.meter.limits.body_bytes_max
                )
                exchange.scope = scope  # the one in which the app keeps its state
            await self._app(scope, given, self._holding(match, exchange, started_s, send))
        except BaseException as error:
            if not exchange.settled:
                exchange.fail(error)
                hold = self.meter.settle(match, exchange, started_s)
                if hold is not None and isinstance(error, Exception):
                    await hold  # the server answers 500 next, and that is a complete response
            raise
        if not exchange.settled:
            exchange.abandon()
            self.meter.settle(match, exchange, started_s)

    def _holding(self, match: Match, exchange: Exchange, started_s: float, send: Send) -> Send:
        """A `send` that holds back the message that completes the response."""
        parts = self.meter.part_timer(match, exchange) if match.grows else None

        def send_held(message: Message) -> Awaitable[None]:
            if exchange.tallies:  # an event may be measured by how long the answer took
                exchange.duration_ms = elapsed_ms(started_s)
            if exchange.sends(message):
                hold = self.meter.settle(match, exchange, started_s)
                return send(message) if hold is None else _send_after(hold, send, message)
            if parts is not None and exchange.tallies:
                parts.moved()
            return send(message)  # the server's own awaitable: passing costs no coroutine

        return send_held

    async def _metered_websocket(
        self, match: Match, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self.meter.refuses(match):
            await refuse_websocket(scope, receive, send)
            return
        conversation = self.meter.conversation(match, scope, path)

        def record(*, last: bool) -> Awaitable[object] | None:
            hold = self.meter.settlement.settle_part(match, conversation, last=last)
            conversation.messages_since = 0
            return hold

        await serve_websocket(
            self._app,
            scope,
            receive,
            send,
            conversation=conversation,
            record=record,
            pace=self.meter.pace,
        )

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_observed() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.meter.start()
            return message

        async def send_observed(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self.aclose()
            await send(message)

        await self._app(scope, receive_observed, send_observed)


async def _send_after(hold: Awaitable[object], send: Send, message: Message) -> None:
    await hold
    await send(message)


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_UNAVAILABLE)).encode()),
        (b"retry-after", str(RETRY_AFTER_S).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _UNAVAILABLE})
