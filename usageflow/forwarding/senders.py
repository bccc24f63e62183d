"""Threads that make blocking calls, and what came of them, in the order they ended."""

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from usageflow.errors import UsageFlowError

T = TypeVar("T")

GATHER_S: Final = 0.01
"""How long more results are waited for once there is one: so many are settled in one commit."""

logger = logging.getLogger("usageflow.forwarding")


class Senders(Generic[T]):
    """`count` threads, each making one call at a time. Used by one thread; `close` it at the end.

    Daemons, which no executor has: a call that hangs must not hold up the exit.
    """

    def __init__(self, count: int, name: str) -> None:
        self.free = count
        self._count = count
        self._name = name
        self._started = 0
        self._calls: SimpleQueue[tuple[str, Callable[[], T]] | None] = SimpleQueue()
        self._ended: SimpleQueue[T | None] = SimpleQueue()

    @property
    def busy(self) -> int:
        """Calls begun and not gathered yet."""
        return self._count - self.free

    def begin(self, what: str, call: Callable[[], T]) -> None:
        """Let a free thread make a call. What it raises is logged with `what`, as no result."""
        self.free -= 1
        if self._started < min(self._count, self.busy):
            self._started += 1
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        self._calls.put((what, call))

    def gather(self, wait_s: float) -> list[T]:
        """The results of calls that have ended, once one has or the time is over."""
        found: list[T] = []
        while self.busy:
            try:
                result = self._ended.get(timeout=GATHER_S if found else wait_s)
            except Empty:
                break
            self.free += 1
            if result is not None:
                found.append(result)
        return found

    def close(self) -> None:
        """Let the threads end, each with the call it is in."""
        for _ in range(self._started):
            self._calls.put(None)

    def _run(self) -> None:
        while (begun := self._calls.get()) is not None:
            what, call = begun
            result: T | None = None
            try:
                result = call()
            except Exception as error:
                # What we can explain needs no traceback; a fault of ours does.
                trace = None if isinstance(error, UsageFlowError) else error
                logger.error("%s: %s", what, error, exc_info=trace)  # noqa: TRY400 - see above
            self._ended.put(result)
