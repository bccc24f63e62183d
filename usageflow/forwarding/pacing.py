"""How fast calls may begin: a token bucket whose rate follows what the far side takes.

Pure; the clock is the caller's. Not thread-safe.

The rate begins at what the account is permitted. When a call is refused for its rate, the rate is
halved for a moment in which answers are counted: if there were refusals even then, what was taken
meanwhile is what the far side takes now, and the rate becomes that; if there were none, the rate
was only just too high. Afterwards it grows again, slowly, up to what is permitted.
"""

from dataclasses import dataclass, field
from typing import Final

BURST_S: Final = 0.1
"""Calls that may begin at once, as time at the present rate: more than the pause between rounds."""
RATE_MIN: Final = 0.5
"""Calls a second that are tried however often they are refused, so that an end of it is seen."""
GROWTH_PER_S: Final = 0.1
"""How much of itself the rate grows in a second: back in half a minute, with few refusals."""
PROBE_S_MIN: Final = 0.25
"""Shortest moment in which answers are counted; an answer takes about that long."""
PROBE_S_MAX: Final = 4.0
PROBE_CALLS: Final = 8
"""Calls that should begin in that moment, so that it says something."""
BACK_OFF: Final = 0.9
"""The part of a rate that was only just too high."""
TAKEN: Final = 0.95
"""The part of what the far side takes that is used: it counts in seconds of its own."""


@dataclass(slots=True)
class Probe:
    """A moment of counted answers: since when, until when, and the rate before it."""

    since: float
    until: float
    rate_before: float
    taken: int = 0
    refused: int = 0


@dataclass(slots=True)
class Pacer:
    """Lets calls begin at `rate` per second, never above `calls_per_s`."""

    calls_per_s: float
    rate: float = field(init=False)
    _tokens: float = 1.0
    _at: float | None = None
    _probe: Probe | None = None

    def __post_init__(self) -> None:
        """Begin with what is permitted."""
        self.rate = self.calls_per_s

    def grant(self, now: float, wanted: int) -> int:
        """How many of `wanted` calls may begin now; they count as begun."""
        self._pass(now)
        given = max(0, min(wanted, int(self._tokens)))
        self._tokens -= given
        return given

    def give_back(self, calls: int) -> None:
        """So many of the calls that were granted did not begin."""
        self._tokens += calls

    def answered(self, now: float, *, refused: bool) -> None:
        """A call was answered; `refused`: for the rate of the account."""
        self._pass(now)
        if self._probe is not None:
            self._probe.taken += not refused
            self._probe.refused += refused
        elif refused:
            before = self.rate
            self.rate = max(RATE_MIN, before / 2)
            length = min(PROBE_S_MAX, max(PROBE_S_MIN, PROBE_CALLS / self.rate))
            self._probe = Probe(now, now + length, before)
            self._tokens = min(self._tokens, 0.0)

    def _pass(self, now: float) -> None:
        """Let time pass: tokens come, a probe ends, the rate grows."""
        elapsed = max(0.0, now - self._at) if self._at is not None else 0.0
        self._at = now
        self._tokens = min(self._tokens + elapsed * self.rate, max(1.0, self.rate * BURST_S))
        if self._probe is None:
            self.rate = min(self.calls_per_s, self.rate * (1 + GROWTH_PER_S * elapsed))
        elif now >= self._probe.until:
            self._end(self._probe, now)

    def _end(self, probe: Probe, now: float) -> None:
        if probe.refused:
            taken = probe.taken / (now - probe.since)
            self.rate = max(RATE_MIN, min(self.rate, taken * TAKEN))
        else:
            self.rate = max(RATE_MIN, probe.rate_before * BACK_OFF)
        self._probe = None
