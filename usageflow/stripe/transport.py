"""Every request to Stripe, and what all of its answers tell: how much was read, what time it is.

What an answer means is `answers`'s business, sending it is the pool's.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

from usageflow.forwarding.transport import Answer, Lost, Pool


class Wire:
    """A pool that looks at what goes through it. Safe to use from several threads."""

    def __init__(self, pool: Pool, *, clock: Callable[[], float] = time.time) -> None:
        self._pool = pool
        self._clock = clock
        self._lock = threading.Lock()
        self._last_date: tuple[str, float] | None = None
        self._reads = 0

    @property
    def reads(self) -> int:
        """How many requests were GETs, answered or not."""
        return self._reads

    @property
    def clock_skew_s(self) -> float:
        """How far their clock was ahead of ours at the last answer, to the second; 0 before one."""
        if self._last_date is not None:
            text, ours = self._last_date
            with suppress(ValueError):
                return parsedate_to_datetime(text).timestamp() - ours
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
            self._last_date = date, self._clock()
        return answer

    def close(self) -> None:
        """Close every connection that rests."""
        self._pool.close()
