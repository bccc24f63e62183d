"""The running proxy of one process: what its connections share, and its beginning and end.

Makes the protocol for each client's connection, and for each request what is to happen to it. It
binds no socket and catches no signal: see `serve`.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final
from urllib.parse import unquote

from usageflow._types import Scope
from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.middleware.conversation import METHOD as WEBSOCKET
from usageflow.middleware.hops import CLAIMED
from usageflow.middleware.meter import Meter
from usageflow.policies.hops import HOP_HEADER, unless_accepted
from usageflow.proxy.access_log import AccessLog
from usageflow.proxy.client_connection import ClientConnection
from usageflow.proxy.figures import Figures
from usageflow.proxy.forwarded import TrustedPeers, forwarded_fields
from usageflow.proxy.headers import (
    FORWARDED,
    asks_websocket,
    connection_fields,
    seen_fields,
    values,
)
from usageflow.proxy.heads import Fields, RequestHead
from usageflow.proxy.journal import Journal
from usageflow.proxy.refusals import Refusal
from usageflow.proxy.targets import Target
from usageflow.proxy.transit import Transit
from usageflow.proxy.upstreams import Upstreams
from usageflow.proxy.watch import ExchangeWatch, HandshakeWatch, ObservationWatch, Watch

TICK_S: Final = 0.25
"""How often times are looked at. One timer for all: one for each request would cost more than the
rest of a small request."""
DRAIN_IDLE_S: Final = 1.0
"""How long a resting connection stays open when the proxy stops: a request that is on its way to us
at that moment is still answered, and told that the connection ends."""

logger = logging.getLogger("usageflow.proxy")

_CLOSED: Final = Refusal(
    503,
    "metering_unavailable",
    "This request cannot be metered now and is not served. Try again later.",
)
_NO_WEBSOCKETS: Final = Refusal(501, "websockets_off", "WebSockets are switched off here.")
_TOO_MANY: Final = Refusal(503, "too_many_connections", "Too many connections are open.")


class Gateway:
    """One proxy. `start` it, serve `connection` on a socket, `drain` and `aclose` it.

    `figures` and `meter` are made from the settings unless they are given. Raises
    ConfigurationError (PolicyFileError for an unreadable policy file) at construction.
    """

    now = staticmethod(time.monotonic)

    def __init__(
        self, settings: Settings, *, figures: Figures | None = None, meter: Meter | None = None
    ) -> None:
        self.settings = settings
        self.figures = figures or Figures()
        self.upstreams = Upstreams(settings)
        self.meter = meter or Meter(settings, app=False)
        self.draining = False
        self.times_metering = settings.server_timing == "on"
        self._trusted = TrustedPeers.parse(settings.trusted_proxies)
        self.journal = Journal(self.figures, AccessLog.open(settings.access_log), self._trusted)
        self._connections: set[ClientConnection] = set()
        self._admitted = 0
        self._peers: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._host = _host_setting(settings)
        self._keeps_host = settings.upstream_host == "keep"
        self._timer: asyncio.TimerHandle | None = None

    # Beginning and end

    async def start(self) -> None:
        """Wait for the first policies, at most `policy_wait_s`; begin to look after upstreams."""
        self._loop = asyncio.get_running_loop()
        self.upstreams.start()
        await self.meter.start()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def connection(self) -> ClientConnection:
        """A protocol for the next connection."""
        return ClientConnection(self)

    def drain(self) -> None:
        """Begin to stop: requests that are there are served, and their connections then end."""
        self.draining = True
        deadline_s = self.now() + DRAIN_IDLE_S
        for connection in self._connections:
            connection.retire(deadline_s)

    @property
    def policies(self) -> int:
        """How many policies are in force."""
        return self.meter.feed.current.size

    @property
    def drained(self) -> bool:
        """No connection is left."""
        return not self._connections

    async def aclose(self, ship_s: float | None = None) -> int:
        """Cut what is left, write what was metered, ship it within `ship_s`, and stop.

        Returns how many events the disk did not take: they are lost.
        """
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._connections):
            connection.end()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.upstreams.aclose()
        lost = await self.meter.aclose(ship_s)
        for connection in tuple(self._connections):
            connection.abort()
        self.journal.close()
        return lost

    def reload(self) -> None:
        """Look for new policies now, and begin a new access log if the old one was moved away."""
        self.journal.reopen()
        self.figures.reloads += 1
        self.meter.feed.refresh()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self.upstreams.sweep(self._loop.time())
        now = self.now()
        for connection in tuple(self._connections):
            try:
                connection.check(now)
            except Exception:  # one must not keep the others from being looked at
                logger.exception("a connection is ended because of a mistake of ours")
                connection.abort()
        self.figures.metering_failures = self.meter.settlement.failures
        self.journal.flush()

    # What connections ask

    def admit(self, client: ClientConnection) -> Refusal | None:
        """Count a connection of `client.peer`, or refuse it; who is refused keeps nobody else out.

        What was admitted is given up by `forget`.
        """
        peer, settings = client.peer, self.settings
        client.trusted = self._trusted.trusts(peer)
        crowded = self._peers[peer] >= settings.connections_per_client_max
        if self._admitted >= settings.connections_max or (crowded and not client.trusted):
            self.figures.connections_refused += 1
            return _TOO_MANY
        self._admitted += 1
        self._peers[peer] += 1
        client.admitted = True
        return None

    def join(self, client: ClientConnection) -> None:
        """Look after a connection from now on."""
        self._connections.add(client)
        self.figures.connections_accepted += 1
        self.figures.connections_open += 1

    def forget(self, client: ClientConnection) -> None:
        """A connection is gone."""
        if client in self._connections:
            self._connections.remove(client)
            self.figures.connections_open -= 1
        if client.admitted:
            client.admitted = False
            self._admitted -= 1
            self._peers[client.peer] -= 1
            if not self._peers[client.peer]:
                del self._peers[client.peer]

    def first_head_until(self) -> float:
        """When a new connection has to have sent its first request."""
        draining, settings = self.draining, self.settings
        return self.now() + (DRAIN_IDLE_S if draining else settings.client_header_timeout_s)

    def idle_until(self) -> float:
        """When a connection that rests from now on is closed."""
        idle_s = DRAIN_IDLE_S if self.draining else self.settings.client_idle_timeout_s
        return self.now() + idle_s

    def transit(self, client: ClientConnection, head: RequestHead) -> Transit:
        """What is to happen to a request. The hot path."""
        started_at_s = self.now()
        self.figures.in_flight += 1
        named = head.named
        upgrading = b"upgrade" in named and asks_websocket(head)
        added, told = self._added(client, head)
        if upgrading or b"te" in named:
            added = [*added, *connection_fields(head, upgrading=upgrading)]
        scope = _scope(head, client, told)
        watch, refusal = self._watch(head, scope, trusted=client.trusted, upgrading=upgrading)
        if CLAIMED in scope:
            hop = self.meter.hops.header(scope["method"], scope)
            if hop is not None:
                added = [*added, (HOP_HEADER, hop)]
        return Transit(
            self,
            client,
            head,
            added=added,
            watch=watch,
            refusal=refusal,
            started_at_s=started_at_s,
        )

    def _added(self, client: ClientConnection, head: RequestHead) -> tuple[Fields, Fields]:
        """What tells the upstream who called, as it is sent and with lower-case names.

        A client that keeps asking one host is told of alike.
        """
        host = head.named.get(b"host", b"")
        if client.trusted:
            inbound = values(head, FORWARDED)
        elif client.forwarded is not None and client.forwarded[0] == host:
            return client.forwarded[1:]
        else:
            inbound = {}
        scheme = b"https" if client.secure else b"http"
        fields = forwarded_fields(
            inbound, peer=client.peer, scheme=scheme, host=host, trusted=client.trusted
        )
        client.forwarded = host, fields, [(name.lower(), value) for name, value in fields]
        return client.forwarded[1:]

    def host_for(self, target: Target, head: RequestHead) -> bytes | None:
        """What replaces the Host that the client sent, if anything does."""
        if self._keeps_host:
            return None if b"host" in head.named else target.authority
        return target.authority if self._host == b"upstream" else self._host

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what has to wait."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch(
        self, head: RequestHead, scope: Scope, *, trusted: bool, upgrading: bool
    ) -> tuple[Watch | None, Refusal | None]:
        meter = self.meter
        if upgrading and self.settings.websockets == "off":
            return None, _NO_WEBSOCKETS
        if not meter.readiness.reached and not meter.readiness.look():
            meter.readiness.miss()
        first = HOP_HEADER not in head.named
        if upgrading:
            return self._handshake(scope, trusted=trusted, first=first)
        match, path = meter.match(scope["method"], scope, trusted=trusted, first=first)
        if match is not None and meter.refuses(match):
            return None, _CLOSED
        if match is not None:
            return ExchangeWatch(meter, match, scope, path), None
        if meter.discovery is not None and meter.readiness.reached and CLAIMED not in scope:
            observation = meter.discovery.begin(scope, path)
            if observation is not None:
                return ObservationWatch(observation), None
        return None, None

    def _handshake(
        self, scope: Scope, *, trusted: bool, first: bool
    ) -> tuple[Watch | None, Refusal | None]:
        """The policies of the WebSocket, and those of the GET that it is unless it is accepted."""
        meter, as_get = self.meter, dict(scope)
        match, path = meter.match(WEBSOCKET, scope, trusted=trusted, first=first)
        plain, _ = meter.match(scope["method"], as_get, trusted=trusted, first=first)
        if any(each is not None and meter.refuses(each) for each in (match, plain)):
            return None, _CLOSED
        if CLAIMED in as_get:
            path_claimed, claims = as_get[CLAIMED]
            _, accepted = scope.get(CLAIMED, (path_claimed, frozenset()))
            scope[CLAIMED] = path_claimed, accepted | unless_accepted(claims - accepted)
        return HandshakeWatch(meter, match, plain, scope, path), None


def _scope(head: RequestHead, client: ClientConnection, told: Fields) -> Scope:
    """The request as the upstream sees it, as policies know requests: as an ASGI scope.

    `told` are the fields that say who called.
    """
    raw_path, _, query = head.target.partition(b"?")
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "http_version": "1.1" if head.minor else "1.0",
        "method": head.method.decode("ascii"),
        "scheme": "https" if client.secure else "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "headers": seen_fields(head, told, trusted=client.trusted),
        "client": (client.peer, 0),
    }


def _host_setting(settings: Settings) -> bytes:
    try:
        return settings.upstream_host.encode("idna" if settings.upstream_host else "ascii")
    except UnicodeError:
        raise ConfigurationError(
            f"USAGEFLOW_UPSTREAM_HOST {settings.upstream_host!r} must be keep, upstream or a name"
        ) from None
