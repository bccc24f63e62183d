"""The worker: one thread that does what is due, at once after news and rarely while all is quiet.

It decides only when; what there is to do is given to it as duties. Several workers may share a
PostgreSQL database: the ledger leases units, nobody owns them.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from usageflow.errors import UsageFlowError

PAUSE_S_MIN: Final = 0.05
"""First pause after a round that did nothing; doubles up to PAUSE_S_MAX."""
PAUSE_S_MAX: Final = 1.0
"""Longest pause: the grain of retries, and how late news of another server are seen."""
RETRY_S_MAX: Final = 10.0
"""Longest pause of a duty that failed, however rarely it is due."""

logger = logging.getLogger("usageflow.worker")


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to do again and again.

    `do` does what is due now and says how much that was. While it is nothing, it is asked again
    after `interval_s` (0: in every round). It may raise: that is told, and it is tried again.
    """

    name: str
    do: Callable[[], int]
    interval_s: float = 0.0


class Worker:
    """Does its duties in a thread of its own while entered.

    `stop_s_max` bounds the wait for a round in progress when it is told to stop.
    """

    def __init__(
        self,
        duties: Sequence[Duty],
        *,
        stop_s_max: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._duties = duties
        self._stop_s_max = stop_s_max
        self._clock = clock
        self._due_s: dict[str, float] = {}
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
        """One round of every duty that is due, in order; how much they did.

        A duty that fails keeps none of the others from being done.
        """
        return sum(self._attempt(duty) for duty in self._duties)

    def _run(self) -> None:
        pause_s = PAUSE_S_MIN
        while not self._stopping.is_set():
            self._news.clear()  # before looking: what arrives from here on ends the next pause
            if self.run_once() or self._news.wait(pause_s):
                pause_s = PAUSE_S_MIN
            else:
                pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def _attempt(self, duty: Duty) -> int:
        if self._clock() < self._due_s.get(duty.name, 0.0):
            return 0
        try:
            done = duty.do()
        except Exception as error:  # noqa: BLE001 - the thread must live; whatever it is, it is told
            self._complain(duty, error)
            return self._next(duty, min(duty.interval_s, RETRY_S_MAX))
        if self._failing.pop(duty.name, None) is not None:
            logger.info("%s: works again", duty.name)
        return done or self._next(duty, duty.interval_s)

    def _next(self, duty: Duty, pause_s: float) -> int:
        """Nothing was done, and the duty is due again after the pause."""
        self._due_s[duty.name] = self._clock() + pause_s
        return 0

    def _complain(self, duty: Duty, error: Exception) -> None:
        """Once per kind of failure, until the duty works again: it may be tried every second."""
        kind = type(error).__name__
        if self._failing.get(duty.name) != kind:
            self._failing[duty.name] = kind
            # What we can explain needs no traceback; a fault of ours does.
            trace = None if isinstance(error, UsageFlowError) else error
            logger.error("%s: %s", duty.name, error, exc_info=trace)
