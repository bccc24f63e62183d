"""The targets that share the load: which is next, and which is left out for a while.

It joins what others know: `targets` dials, `pool` keeps connections, `health` judges. It sends no
request and repeats none.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Final, NamedTuple

from usageflow.config import Settings
from usageflow.errors import UpstreamUnreachable
from usageflow.proxy.health import HealthChecks, Standing
from usageflow.proxy.pool import ConnectionPool, OnLost
from usageflow.proxy.targets import Dialer, Resolve, Target, look_up, parse_targets
from usageflow.proxy.upstream_connection import UpstreamConnection

logger = logging.getLogger(__name__)

COMPLAINT_PAUSE_S: Final = 10.0
"""Shortest time between two complaints about a target that fails now and then: with an endpoint
that crashes, any client could fill the log."""


class TargetFigures(NamedTuple):
    """One target at this moment: its connections, and the requests that wait for one."""

    name: str
    healthy: bool
    open: int
    idle: int
    in_use: int
    waiting: int


class Upstream:
    """What belongs to one target: how it is dialled, its connections, its standing."""

    __slots__ = (
        "_blamed",
        "_header_bytes_max",
        "_quiet_until",
        "dialer",
        "pool",
        "standing",
        "target",
    )

    def __init__(self, target: Target, settings: Settings, resolve: Resolve) -> None:
        self.target = target
        self.dialer = Dialer(target, timeout_s=settings.upstream_connect_timeout_s, resolve=resolve)
        self.pool = ConnectionPool(self._connect, settings)
        self.standing = Standing(settings)
        self._header_bytes_max = settings.upstream_header_bytes_max
        self._blamed = False
        self._quiet_until = 0.0

    def blame(self, why: str, now: float) -> None:
        """Log why an exchange failed; of failures in a row only the first."""
        if not self._blamed and now >= self._quiet_until:
            logger.warning("%s: fails: %s", self.target.name, why)
            self._blamed, self._quiet_until = True, now + COMPLAINT_PAUSE_S

    def absolve(self) -> None:
        """Log that it answers again, if it was blamed."""
        if self._blamed:
            logger.info("%s: answers again", self.target.name)
            self._blamed = False

    async def takes_connections(self) -> bool:
        """Whether it takes one, within the connect timeout."""
        try:
            transport, _, _ = await self.dialer.dial(asyncio.Protocol)
        except UpstreamUnreachable:
            return False
        transport.abort()
        return True

    async def refresh(self) -> None:
        """Look its name up again; connections to addresses that it has no more are closed."""
        self.pool.retire(await self.dialer.refresh())

    async def _connect(self, on_lost: OnLost) -> tuple[UpstreamConnection, str]:
        _, connection, address = await self.dialer.dial(
            partial(
                UpstreamConnection,
                asyncio.get_running_loop(),
                target=self.target,
                header_bytes_max=self._header_bytes_max,
                on_lost=on_lost,
            )
        )
        return connection, address

    def figures(self) -> TargetFigures:
        """For metrics and readiness."""
        pool = self.pool
        return TargetFigures(
            name=self.target.name,
            healthy=self.standing.well,
            open=pool.open,
            idle=pool.idle,
            in_use=pool.open - pool.idle,
            waiting=pool.waiting,
        )


class Upstreams:
    """All targets of the `upstream` setting. Raises ConfigurationError.

    `take` or `acquire` a connection, tell how its exchange went by `succeeded` or `failed`, and
    `release` it. Targets that are not well are left out; when none is, all are used: requests that
    may fail are better than none, and a check may be wrong about all of them alike. Each is then
    tried by ourselves, since a proxy that is not ready gets no requests to try it.
    `sweep` must be called several times a second.
    """

    take: Callable[[], UpstreamConnection | None]
    """An idle connection of the target whose turn it is, if there is one. The hot path."""

    def __init__(self, settings: Settings, *, resolve: Resolve = look_up) -> None:
        self._settings = settings
        self._all = [Upstream(target, settings, resolve) for target in parse_targets(settings)]
        self._by_target = {upstream.target: upstream for upstream in self._all}
        self._well = self._used = self._all
        self._due: list[Upstream] = []
        self._turn = 0
        self._least = settings.upstream_balance == "least-connections"
        self._checks: HealthChecks | None = None
        if settings.health_path is not None:
            dialers = [upstream.dialer for upstream in self._all]
            self._checks = HealthChecks(settings, dialers, self._checked)
        self._tasks: set[asyncio.Task[None]] = set()
        # With one target there is nothing to choose, and choosing costs nothing.
        self.take = self._take_next if len(self._all) > 1 else self._all[0].pool.take_idle

    @property
    def empty(self) -> bool:
        """There is nothing to watch over."""
        return all(upstream.pool.empty for upstream in self._all)

    def start(self) -> None:
        """Begin to check health and to look names up again."""
        if self._checks is not None:
            self._run(self._checks.run())
        if any(upstream.dialer.named for upstream in self._all):
            self._run(self._refresh())

    async def acquire(self, tried: Collection[Target] = ()) -> UpstreamConnection:
        """A connection to the next target; to another than those `tried`, if there is one.

        A target that takes no connection is told to have failed, and the next one is asked: nothing
        was sent yet. Raises UpstreamUnreachable when none took one, each within the connect
        timeout; UpstreamTimeout when none became free in time.
        """
        candidates = self._candidates(tried)
        self._turn += 1
        for upstream in candidates[:-1]:
            try:
                return await self._acquire(upstream)
            except UpstreamUnreachable:
                continue
        return await self._acquire(candidates[-1])

    def release(self, connection: UpstreamConnection) -> None:
        """Take a connection back, in whatever state it is."""
        self._by_target[connection.target].pool.release(connection)

    def drop_idle(self, target: Target) -> None:
        """Close the idle connections of a target."""
        self._by_target[target].pool.drop_idle()

    def succeeded(self, target: Target) -> None:
        """The target has answered."""
        upstream = self._by_target[target]
        if not upstream.standing.blameless:
            upstream.standing.succeeded()
            upstream.absolve()
            self._judge(upstream, None)

    def failed(self, target: Target, why: str | None = None) -> None:
        """The target broke off before its answer began, sent nonsense, or was silent for too long.

        `why` is for the log; None if it was told already.
        """
        upstream, now = self._by_target[target], asyncio.get_running_loop().time()
        if why is not None:
            upstream.blame(why, now)
        upstream.standing.failed(now)
        self._judge(upstream, f"failures in a row: {self._settings.upstream_failures_max}")

    def sweep(self, now: float) -> None:
        """Close what was idle for too long; fail exchanges that were silent for too long.

        What was left out for long enough is due to be tried: by a request, or by ourselves.
        """
        for upstream in self._all:
            upstream.pool.sweep(now)
        self._due = [upstream for upstream in self._all if upstream.standing.due(now)]
        if not self._well:
            for upstream in self._due:
                upstream.standing.leave_out(now)  # until the trial has an outcome
                self._run(self._try(upstream))
            self._due = []

    def figures(self) -> list[TargetFigures]:
        """Each target as it is now, in the order of the setting."""
        return [upstream.figures() for upstream in self._all]

    async def aclose(self) -> None:
        """Stop checking, and close every connection; exchanges still in flight fail."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for upstream in self._all:
            await upstream.pool.aclose()

    # Whose turn it is

    def _take_next(self) -> UpstreamConnection | None:
        if self._due:
            return None  # let `acquire` try it
        connection = self._in_turn(self._used)[0].pool.take_idle()
        if connection is not None:
            self._turn += 1  # otherwise `acquire` opens one where the turn is
        return connection

    def _candidates(self, tried: Collection[Target]) -> list[Upstream]:
        fresh = [upstream for upstream in self._all if upstream.target not in tried] or self._all
        chosen = self._in_turn([one for one in fresh if one in self._used] or fresh)
        if self._due:  # one request tries it; if it is not answered either, its time begins anew
            probed = self._due.pop()
            probed.standing.leave_out(asyncio.get_running_loop().time())
            chosen = [probed, *(one for one in chosen if one is not probed)]
        return chosen

    def _in_turn(self, upstreams: Sequence[Upstream]) -> list[Upstream]:
        """From the best to the worst; between equals the turn decides."""
        start = self._turn % len(upstreams)
        turned = [*upstreams[start:], *upstreams[:start]]
        return sorted(turned, key=_load if self._least else _full)

    async def _acquire(self, upstream: Upstream) -> UpstreamConnection:
        try:
            return await upstream.pool.acquire()
        except UpstreamUnreachable:
            self.failed(upstream.target)
            raise

    # Who is left out

    async def _try(self, upstream: Upstream) -> None:
        if await upstream.takes_connections():
            upstream.standing.on_trial()
            self._judge(upstream, None)

    def _checked(self, target: Target, complaint: str | None) -> None:
        upstream = self._by_target[target]
        upstream.standing.checked(good=complaint is None)
        self._judge(upstream, complaint)

    def _judge(self, upstream: Upstream, why: str | None) -> None:
        """Something was learnt of one: see whether it is used from now on."""
        well = [one for one in self._all if one.standing.well]
        if well == self._well:
            return
        self._well, self._used = well, well or self._all
        self._due = []  # it may be this one; the next sweep knows
        if upstream.standing.well:
            logger.info("%s: well again", upstream.target.name)
        else:
            logger.warning("%s: not well: %s", upstream.target.name, why)
        if not well:
            logger.warning("no upstream is well: requests are sent all the same")

    def _run(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)  # should it crash, asyncio tells

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._settings.dns_refresh_s)
            for upstream in self._all:
                if upstream.dialer.named:
                    await upstream.refresh()


def _full(upstream: Upstream) -> bool:
    return upstream.pool.full


def _load(upstream: Upstream) -> int:
    return upstream.pool.load
