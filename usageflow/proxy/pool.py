"""Which connection to one target carries the next exchange: a bounded pool, kept alive.

The most recently used connection goes first, so that spare ones grow old and are closed. The pool
opens connections through the function it is given; it knows nothing about requests.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

from usageflow.config import Settings
from usageflow.errors import UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.upstream_connection import UpstreamConnection

OnLost: TypeAlias = Callable[[UpstreamConnection], None]
Connect: TypeAlias = Callable[[OnLost], Awaitable[tuple[UpstreamConnection, str]]]
"""Opens a connection, which will tell of its end; gives it and the address it leads to."""


class ConnectionPool:
    """At most `upstream_connections_max` connections, open or being opened; the rest wait in line.

    Whoever acquires a connection gives it back with `release`, in whatever state it is.
    `sweep` must be called several times a second while the pool is not `empty`.
    """

    __slots__ = (
        "_connect",
        "_idle",
        "_open",
        "_retired",
        "_settings",
        "_slots_taken",
        "_waiting",
    )

    def __init__(self, connect: Connect, settings: Settings) -> None:
        self._connect = connect
        self._settings = settings
        self._open: dict[UpstreamConnection, str] = {}
        self._idle: list[UpstreamConnection] = []
        self._retired: set[UpstreamConnection] = set()
        self._waiting: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._slots_taken = 0

    @property
    def empty(self) -> bool:
        """There is nothing to watch over."""
        return self._slots_taken == 0

    @property
    def full(self) -> bool:
        """Whoever comes now has to wait."""
        return not self._idle and self._slots_taken >= self._settings.upstream_connections_max

    @property
    def load(self) -> int:
        """Exchanges in flight and in line."""
        return self._slots_taken - len(self._idle) + len(self._waiting)

    @property
    def open(self) -> int:
        """Connections that are open."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """Of these, how many carry nothing."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._waiting)

    def take_idle(self) -> UpstreamConnection | None:
        """A connection that can be used at once, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def acquire(self) -> UpstreamConnection:
        """An idle connection, a new one, or the first that becomes free.

        Raises UpstreamTimeout when none became free in time, UpstreamUnreachable when a new one
        could not be opened.
        """
        connection = self.take_idle()
        if connection is None and self._slots_taken >= self._settings.upstream_connections_max:
            connection = await self._turn()
        elif connection is None:
            self._slots_taken += 1
        return connection or await self._open_one()

    def release(self, connection: UpstreamConnection) -> None:
        """Take a connection back: to the first in line, to rest, or to be closed."""
        if not connection.reusable or connection in self._retired:
            connection.close()
            return
        connection.rest(asyncio.get_running_loop().time())
        if not self._hand_on(connection):
            self._idle.append(connection)

    def drop_idle(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()

    def retire(self, addresses: Collection[str]) -> None:
        """Close the connections that lead there, each as soon as it carries nothing."""
        for connection in [item for item, address in self._open.items() if address in addresses]:
            if connection in self._idle:
                self._idle.remove(connection)
                connection.close()
            else:
                self._retired.add(connection)

    def sweep(self, now: float) -> None:
        """Close what was idle for too long; fail exchanges that were silent for too long."""
        keepalive_s = self._settings.upstream_keepalive_s
        while self._idle and now - self._idle[0].idle_since >= keepalive_s:
            self._idle.pop(0).close()
        for connection in tuple(self._open):
            if connection.silence_s(now) > self._settings.upstream_read_timeout_s:
                connection.time_out()

    async def aclose(self) -> None:
        """Close every connection; exchanges still in flight fail."""
        self.drop_idle()
        for connection in tuple(self._open):
            connection.fail(UpstreamUnreachable("The proxy is shutting down."))
        while self._open:  # noqa: ASYNC110 - each is lost in the next turn of the loop
            await asyncio.sleep(0)

    async def _open_one(self) -> UpstreamConnection:
        try:
            connection, address = await self._connect(self._forget)
        except BaseException:
            self._vacate()
            raise
        if connection.open:
            self._open[connection] = address
        else:
            self._vacate()
        return connection

    def _forget(self, connection: UpstreamConnection) -> None:
        if connection in self._open:  # one that was lost at once is counted by _open_one
            del self._open[connection]
            self._retired.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._vacate()

    def _vacate(self) -> None:
        """One slot is free: the first in line may open a connection."""
        if not self._hand_on(None):
            self._slots_taken -= 1

    def _hand_on(self, connection: UpstreamConnection | None) -> bool:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return True
        return False

    async def _turn(self) -> UpstreamConnection | None:
        """Wait in line. None: a slot is ours, open a connection."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[UpstreamConnection | None] = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self._settings.upstream_pool_timeout_s, self._give_up, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            self._pass_on(turn)
            raise
        finally:
            timer.cancel()

    def _give_up(self, turn: "asyncio.Future[UpstreamConnection | None]") -> None:
        if not turn.done():
            self._waiting.remove(turn)
            turn.set_exception(UpstreamTimeout("All connections to the upstream are in use."))

    def _pass_on(self, turn: "asyncio.Future[UpstreamConnection | None]") -> None:
        """The one whose turn it was has left: what it was given goes to the next."""
        if turn.cancelled():
            self._waiting.remove(turn)
        elif turn.exception() is None:
            given = turn.result()
            if given is None:
                self._vacate()
            else:
                self.release(given)
