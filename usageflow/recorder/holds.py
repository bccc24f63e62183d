"""Responses that wait for the disk on one event loop, and the moment they wait no longer.

One timer per loop, armed only while something waits: a timer per request would cost more than the
rest of the wait.
"""

import asyncio
from collections import deque

Hold = asyncio.Future[bool]
"""True: durable. False: the disk failed or stalled; the response goes on without."""


class Holds:
    """The waiting responses of one loop, oldest first. All methods run on that loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self.stalled = 0
        self._loop = loop
        self._timeout_s = timeout_s
        self._open: deque[tuple[float, Hold]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self) -> Hold:
        """One more waiting response; done at the latest after the timeout."""
        hold: Hold = self._loop.create_future()
        waiting = self._open
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((self._loop.time() + self._timeout_s, hold))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._expire)
        return hold

    def _expire(self) -> None:
        now = self._loop.time()
        waiting = self._open
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            hold = waiting.popleft()[1]
            if not hold.done():
                self.stalled += 1
                hold.set_result(False)
        if waiting:
            self._timer = self._loop.call_at(waiting[0][0], self._expire)
        else:
            self._timer = None


def release(holds: list[Hold], durable: bool) -> None:  # noqa: FBT001 - the future's own result
    """Let these responses go; those that gave up waiting are passed over."""
    for hold in holds:
        if not hold.done():
            hold.set_result(durable)
