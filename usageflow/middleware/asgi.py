"""UsageFlowMiddleware: moves messages, holds back the last one until its usage is on disk.

Decides nothing itself: the policies say what an exchange is worth, the Exchange says when it is
complete, the recorder says when it is durable. Changes no byte, and whatever goes wrong in metering
is logged and recorded, never raised into the app. Not a `BaseHTTPMiddleware`: no task, no queue and
no buffering per request.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Final
from weakref import ref

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Durability, Settings
from usageflow.middleware.conversation import METHOD as WEBSOCKET
from usageflow.middleware.conversation import Conversation
from usageflow.middleware.discovery import Discovery
from usageflow.middleware.exchange import NO_PROVIDERS, Exchange
from usageflow.middleware.feed import Feed, open_feed
from usageflow.middleware.limits import Limits
from usageflow.middleware.metadata import Provider, check_providers
from usageflow.middleware.parts import Pace, PartTimer
from usageflow.middleware.readiness import Readiness
from usageflow.middleware.settlement import Settlement
from usageflow.middleware.usage_asked import ask_for_usage
from usageflow.middleware.websocket import refuse_websocket, serve_websocket
from usageflow.policies import Match
from usageflow.policies.paths import route_path
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
        check_providers(metadata)
        self._app = app
        self._providers = metadata
        self._discovery: Discovery | None = None
        if feed is None and settings.discovery == "on" and settings.server is not None:
            self._discovery = Discovery(settings.discovery_endpoints_max)
        self._feed = feed or open_feed(settings, self._discovery)
        self._recorder = recorder or Recorder.of(settings)
        self._settlement = Settlement(self._recorder, durable=settings.durability == "durable")
        self._readiness = Readiness(self._feed, self._recorder, settings.policy_wait_s)
        self._limits = Limits.of(settings)
        self._pace = Pace(settings.part_interval_s, settings.part_messages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind in ("http", "websocket"):
            if not self._readiness.reached:
                await self._readiness.wait()
                if not self._readiness.reached:
                    self._readiness.miss()
            match, path = self._match(scope["method"] if kind == "http" else WEBSOCKET, scope)
            if match is not None:
                serve = self._metered if kind == "http" else self._metered_websocket
                await serve(match, path, scope, receive, send)
                return
            if self._discovery is not None and self._readiness.reached and kind == "http":
                observation = self._discovery.begin(scope, path)
                if observation is not None:
                    await observation.through(self._app, receive, send)
                    return
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def close(self) -> None:
        """Write and ship what is left, within `drain_timeout_s`, and stop. Blocks; see `aclose`."""
        self._feed.close()
        self._readiness.tell_missed()
        self._recorder.close()

    async def aclose(self) -> None:
        """Close without blocking the event loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    async def _metered(
        self, match: Match, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if match.fail_closed and not self._recorder.healthy:
            await _refuse(send)
            return
        exchange = Exchange(
            match,
            scope,
            path,
            self._limits,
            started_at_s=time.time(),
            providers=self._providers,
        )
        started_s = time.perf_counter()

        async def receive_observed() -> Message:
            message = await receive()
            exchange.received(message)
            return message

        given: Receive = receive_observed
        try:
            if match.include_usage:
                scope, given, send = await ask_for_usage(
                    scope, receive_observed, send, self._limits.body_bytes_max
                )
                exchange.scope = scope  # the one in which the app keeps its state
            await self._app(scope, given, self._holding(match, exchange, started_s, send))
        except BaseException as error:
            if not exchange.settled:
                exchange.fail(error)
                hold = self._settle(match, exchange, started_s)
                if hold is not None and isinstance(error, Exception):
                    await hold  # the server answers 500 next, and that is a complete response
            raise
        if not exchange.settled:
            exchange.abandon()
            self._settle(match, exchange, started_s)

    def _holding(self, match: Match, exchange: Exchange, started_s: float, send: Send) -> Send:
        """A `send` that holds back the message that completes the response."""
        parts: PartTimer | None = None
        if match.grows:
            stream = ref(exchange)  # a timer must not keep what is over
            parts = PartTimer(
                self._pace.seconds, lambda: self._settlement.settle_stream(match, stream())
            )

        def send_held(message: Message) -> Awaitable[None]:
            if exchange.tallies:  # an event may be measured by how long the answer took
                exchange.duration_ms = _elapsed_ms(started_s)
            if exchange.sends(message):
                hold = self._settle(match, exchange, started_s)
                return send(message) if hold is None else _send_after(hold, send, message)
            if parts is not None and exchange.tallies:
                parts.moved()
            return send(message)  # the server's own awaitable: passing costs no coroutine

        return send_held

    async def _metered_websocket(
        self, match: Match, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if match.fail_closed and not self._recorder.healthy:
            await refuse_websocket(scope, receive, send)
            return
        conversation = Conversation(
            match, scope, path, started_at_s=time.time(), providers=self._providers
        )

        def record(*, last: bool) -> Awaitable[object] | None:
            hold = self._settlement.settle_part(match, conversation, last=last)
            conversation.messages_since = 0
            return hold

        await serve_websocket(
            self._app,
            scope,
            receive,
            send,
            conversation=conversation,
            record=record,
            pace=self._pace,
        )

    def _match(self, method: str, scope: Scope) -> tuple[Match | None, str]:
        """The policies of this request and the path they matched."""
        try:
            if not isinstance(scope["headers"], list):
                scope["headers"] = list(scope["headers"])  # an iterator can be read only once
            path = route_path(scope)
            match = self._feed.current.match(
                method,
                path,
                scope["headers"],
                scope.get("query_string", b""),
                scope.get("raw_path") or b"",
            )
        except Exception as error:  # noqa: BLE001 - metering must not break the app
            self._settlement.log_once("match", error)
            return None, ""
        return match, path

    def _settle(
        self, match: Match, exchange: Exchange, started_s: float
    ) -> Awaitable[object] | None:
        exchange.duration_ms = _elapsed_ms(started_s)
        return self._settlement.settle(match, exchange)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_observed() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._recorder.start()
                await self._readiness.wait()
                await self._readiness.wait_for_keys()
            return message

        async def send_observed(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self.aclose()
            await send(message)

        await self._app(scope, receive_observed, send_observed)


def _elapsed_ms(started_s: float) -> int:
    return int((time.perf_counter() - started_s) * 1000)


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
