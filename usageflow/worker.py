"""The worker: one thread that does what is due, at once after news and rarely while all is quiet.

It decides only when. What is due is a duty: a function that does a piece of work and says how much
it did. Several workers may share a PostgreSQL database: the ledger leases units, nobody owns them.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from usageflow.errors import UsageFlowError

PAUSE_S_MIN: Final = 0.05
"""First pause after a round that did nothing; doubles up to PAUSE_S_MAX."""
PAUSE_S_MAX: Final = 1.0
"""Longest pause: the grain of retries, and how late news of another server are seen."""

Duty = Callable[[], int]
"""Does what is due now and says how much that was; 0: nothing. May raise: it is asked again."""

logger = logging.getLogger("usageflow.worker")


class Worker:
    """Does its duties, by name, in a thread of its own while entered.

    `stop_s_max` bounds the wait for a round in progress when it is told to stop.
    """

    def __init__(self, duties: Mapping[str, Duty], *, stop_s_max: float) -> None:
        self._duties = duties
        self._stop_s_max = stop_s_max
        self._failing: dict[str, str] = {}
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usageflow-worker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the round in progress end; nothing new is begun."""
        self._stopping.set()
        self._news.set()
        self._thread.join(self._stop_s_max)
        if self._thread.is_alive():
            logger.warning("stopped in the middle of a call; its outcome is settled at next start")

    def wake(self) -> None:
        """There is something to do: do not wait for the pause to end. For any thread."""
        self._news.set()

    def run_once(self) -> int:
        """One round of every duty, in order; how much they did. A duty that fails ends no other."""
        return sum(self._attempt(name, duty) for name, duty in self._duties.items())

    def _run(self) -> None:
        pause_s = PAUSE_S_MIN
        while not self._stopping.is_set():
            self._news.clear()  # before looking: what arrives from here on ends the next pause
            if self.run_once() or self._news.wait(pause_s):
                pause_s = PAUSE_S_MIN
            else:
                pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def _attempt(self, name: str, duty: Duty) -> int:
        try:
            done = duty()
        except Exception as error:  # noqa: BLE001 - the thread must live; whatever it is, it is told
            self._complain(name, error)
            return 0
        if self._failing.pop(name, None) is not None:
            logger.info("%s works again", name)
        return done

    def _complain(self, name: str, error: Exception) -> None:
        """Once per kind of failure, until the duty works again: it is tried every second."""
        kind = type(error).__name__
        if self._failing.get(name) != kind:
            self._failing[name] = kind
            # What we can explain needs no traceback; a fault of ours does.
            trace = None if isinstance(error, UsageFlowError) else error
            logger.error("%s failed, and is tried again: %s", name, error, exc_info=trace)
