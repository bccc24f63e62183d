"""Which connection carries the next exchange: a bounded pool of keep-alive connections.

The most recently used connection goes first, so that spare ones grow old and are closed. The pool
opens connections through the function it is given; it knows nothing about requests.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from usageflow.config import Settings
from usageflow.errors import UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.connection import UpstreamConnection

OnLost = Callable[[UpstreamConnection], None]


class ConnectionPool:
    """At most `upstream_connections_max` connections, open or being opened; the rest wait in line.

    Whoever acquires a connection gives it back with `release`, in whatever state it is.
    `sweep` must be called several times a second while the pool is not `empty`.
    """

    def __init__(
        self, connect: Callable[[OnLost], Awaitable[UpstreamConnection]], settings: Settings
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._open: set[UpstreamConnection] = set()
        self._idle: list[UpstreamConnection] = []
        self._waiting: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._slots_taken = 0

    @property
    def empty(self) -> bool:
        """There is nothing to watch over."""
        return self._slots_taken == 0

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
        if not connection.reusable:
            connection.close()
            return
        connection.rest(asyncio.get_running_loop().time())
        if not self._hand_on(connection):
            self._idle.append(connection)

    def drop_idle(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()

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
            connection = await self._connect(self._forget)
        except BaseException:
            self._vacate()
            raise
        if connection.open:
            self._open.add(connection)
        else:
            self._vacate()
        return connection

    def _forget(self, connection: UpstreamConnection) -> None:
        if connection in self._open:  # one that was lost at once is counted by _open_one
            self._open.remove(connection)
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
