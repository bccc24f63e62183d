"""How fast calls may begin: a token bucket. Pure; the clock is the caller's. Not thread-safe."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """`per_s` calls a second on average, and `burst` at once after a quiet time."""

    per_s: float
    burst: int
    _ready: float = 0.0

    def take(self, now: float) -> float:
        """Reserve one call; how many seconds from `now` until it may begin."""
        interval = 1 / self.per_s
        self._ready = max(self._ready, now - (self.burst - 1) * interval)
        wait = max(0.0, self._ready - now)
        self._ready += interval
        return wait
