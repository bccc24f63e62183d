"""How often somebody tried in vain, in bounded memory: who guesses has to wait.

What counts as an attempt, and whose it is, is the caller's to say.
"""

from collections import Counter
from threading import Lock
from typing import Final

NAMES_MAX: Final = 1_000
"""Addresses whose attempts are remembered; beyond it they are counted anew."""


class Attempts:
    """Attempts by name, of which each has `attempts_max` in `window_s`.

    `now` is seconds of a steady clock. Safe to use from any thread.
    """

    def __init__(self, attempts_max: int, window_s: float) -> None:
        self._max = attempts_max
        self.window_s = window_s
        self._since_s = 0.0
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

    def exhausted(self, name: str, now: float) -> bool:
        """Whether this one has to wait."""
        with self._lock:
            if now - self._since_s >= self.window_s or len(self._counts) > NAMES_MAX:
                self._since_s = now
                self._counts.clear()
            return self._counts[name] >= self._max

    def failed(self, name: str) -> None:
        """Count an attempt in vain."""
        with self._lock:
            self._counts[name] += 1
