"""What both faces of the edge meter with: the policies in force, the recorder, and their readiness.

The ASGI middleware and the proxy move messages in their own ways; what a request is worth, when it
is recorded and what happens before there are policies is here, once. It moves nothing itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping

from usageflow._types import Scope
from usageflow.config import Settings
from usageflow.middleware.conversation import Conversation
from usageflow.middleware.discovery import Discovery
from usageflow.middleware.exchange import NO_PROVIDERS, Exchange
from usageflow.middleware.feed import Feed, open_feed
from usageflow.middleware.hops import Hops
from usageflow.middleware.limits import Limits
from usageflow.middleware.metadata import Provider, check_providers
from usageflow.middleware.parts import Pace, PartTimer
from usageflow.middleware.readiness import Readiness
from usageflow.middleware.settlement import Settlement
from usageflow.policies import Match
from usageflow.policies.paths import route_path
from usageflow.recorder import Recorder
from usageflow.recorder.spool import require_directory


class Meter:
    """The metering of one edge. Nothing of it raises for what a client or an app sends.

    `app` tells that the edge is in the process of the app, which may then say whose a request is,
    and behind which there is no other edge. `hops` is what it knows of other edges.

    Raises ConfigurationError at construction (PolicyFileError for a policy file that is of no use).
    A spool directory that cannot be used is such an error where there is no app to be kept running.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metadata: Mapping[str, Provider] = NO_PROVIDERS,
        feed: Feed | None = None,
        recorder: Recorder | None = None,
        app: bool = True,
    ) -> None:
        check_providers(metadata)
        if recorder is None and not app:
            require_directory(settings.spool_path)
        self.providers = metadata
        self.discovery: Discovery | None = None
        if feed is None and settings.discovery == "on" and settings.server is not None:
            self.discovery = Discovery(settings.discovery_endpoints_max)
        self.feed = feed or open_feed(settings, self.discovery, app=app)
        self.hops = Hops(settings)
        self._app = app
        self.recorder = recorder or Recorder.of(settings)
        self.settlement = Settlement(self.recorder, durable=settings.durability == "durable")
        self.readiness = Readiness(self.feed, self.recorder, settings.policy_wait_s)
        self.limits = Limits.of(settings)
        self.pace = Pace(settings.part_interval_s, settings.part_messages)

    async def start(self) -> None:
        """Start recording; wait for the first policies and keys, at most `policy_wait_s` each."""
        self.recorder.start()
        await self.readiness.wait()
        await self.readiness.wait_for_keys()

    def match(
        self, method: str, scope: Scope, *, trusted: bool = False, first: bool = False
    ) -> tuple[Match | None, str]:
        """The policies of this request that no edge before this one records, and its path.

        `trusted`: the peer may be such an edge, and is believed if it signs. What is recorded by
        any edge is then noted in the scope. `first`: no other edge has said anything of it.
        """
        try:
            if not isinstance(scope["headers"], list):
                scope["headers"] = list(scope["headers"])  # an iterator can be read only once
            path = route_path(scope)
            policies = self.feed.current
            match = policies.match(
                method,
                path,
                scope["headers"],
                scope.get("query_string", b""),
                scope.get("raw_path") or b"",
            )
            if match is not None or not (first or self._app):
                match = self.hops.unclaimed(
                    policies, match, method, scope, trusted=trusted, first=first
                )
        except Exception as error:  # noqa: BLE001 - metering must not break the app
            self.settlement.log_once("match", error)
            return None, ""
        return match, path

    def refuses(self, match: Match) -> bool:
        """Whether a request must not be served, because the disk fails and its policy is closed."""
        return match.fail_closed and not self.recorder.healthy

    def exchange(self, match: Match, scope: Scope, path: str) -> Exchange:
        """Begin to watch an HTTP request."""
        return Exchange(
            match, scope, path, self.limits, started_at_s=time.time(), providers=self.providers
        )

    def conversation(self, match: Match, scope: Scope, path: str) -> Conversation:
        """Begin to watch a WebSocket."""
        return Conversation(match, scope, path, started_at_s=time.time(), providers=self.providers)

    def settle(
        self, match: Match, exchange: Exchange, started_s: float
    ) -> Awaitable[object] | None:
        """Record what an exchange is worth, once; what its end must wait for.

        `started_s` is when it began, by `time.perf_counter`.
        """
        exchange.duration_ms = elapsed_ms(started_s)
        return self.settlement.settle(match, exchange)

    def part_timer(self, match: Match, exchange: Exchange) -> PartTimer:
        """What records a growing stream in parts."""
        return PartTimer(self.pace.seconds, self.settlement.of_stream(match, exchange))

    def close(self, ship_s: float | None = None) -> int:
        """Write what is left, ship it within `ship_s`, and stop. Blocks; see `aclose`.

        The time is `drain_timeout_s` unless it is given. Returns how many events the disk did not
        take: they are lost.
        """
        self.feed.close()
        self.readiness.tell_missed()
        return self.recorder.close(ship_s)

    async def aclose(self, ship_s: float | None = None) -> int:
        """Close without blocking the event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, self.close, ship_s)


def elapsed_ms(started_s: float) -> int:
    """Whole milliseconds since then."""
    return int((time.perf_counter() - started_s) * 1000)
