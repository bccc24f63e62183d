"""Every request to Stripe, and what all of its answers tell: how much was read, what time it is.

What an answer means is `answers`'s business, sending it is the pool's.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

from usageflow.forwarding.transport import Answer, Lost, Pool


def boot_time_s() -> float:
    """A clock that nobody can set, and that goes on while the machine sleeps (Linux)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Wire:
    """A pool that looks at what goes through it. Safe to use from several threads."""

    def __init__(
        self,
        pool: Pool,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = boot_time_s,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._steady = steady
        self._lock = threading.Lock()
        self._last_date: tuple[str, float] | None = None
        self._reads = 0

    @property
    def reads(self) -> int:
        """How many requests were GETs, answered or not."""
        return self._reads

    @property
    def clock_skew_s(self) -> float:
        """How far their clock is ahead of ours now, to the second; 0 before the first answer.

        Their time goes on with a clock that nobody can set: so it is known at once when ours is.
        """
        if self._last_date is not None:
            text, then_s = self._last_date
            with suppress(ValueError):
                theirs_s = parsedate_to_datetime(text).timestamp() + self._steady() - then_s
                return round(theirs_s - self._clock(), 3)
        return 0.0

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | str | None = None
    ) -> Answer | Lost:
        """Send one request, once."""
        if method == "GET":
            with self._lock:
                self._reads += 1
        answer = self._pool.request(method, url, headers, body)
        if isinstance(answer, Answer) and (date := answer.headers.get("date")):
            self._last_date = date, self._steady()
        return answer

    def close(self) -> None:
        """Close every connection that rests."""
        self._pool.close()
