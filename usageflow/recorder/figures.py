"""What a recorder has done, as plain numbers: events, commits, deliveries.

Each number is written by one thread alone and may be read by any, so none needs a lock. What waits
in the spool is not counted here but looked up when somebody asks; see `inspection`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, get_args

from usageflow.events import EventState, UsageEvent
from usageflow.recorder.sink import Sink

COMMIT_BOUNDS_S: Final = (
    *(0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the histogram: from a fast disk's fsync (0.2 ms) to one that hangs."""

GAUGE: Final = {"gauge": True}
"""Marks a field that tells how it is now; the others only grow."""


@dataclass(slots=True)
class RecorderFigures:
    """Counts since the process began. `events` are those on disk, by their state.

    `commits` counts the commits by duration, fsync included, with one more place for those beyond
    the last of COMMIT_BOUNDS_S; it includes commits that only delete acknowledged rows.
    `overflowed` events were counted together in gap events, as the queue was full. Of the gauges,
    `waiting` are events in memory, on their way to the disk; those that fail are 0 or 1.
    """

    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(EventState), 0))
    overflowed: int = 0
    commits: list[int] = field(default_factory=lambda: [0] * (len(COMMIT_BOUNDS_S) + 1))
    commit_s: float = 0.0
    commits_failed: int = 0
    shipped: int = 0
    deliveries_failed: int = 0
    waiting: int = field(default=0, metadata=GAUGE)
    disk_failing: int = field(default=0, metadata=GAUGE)
    shipping_failing: int = field(default=0, metadata=GAUGE)

    def committed(self, events: Iterable[UsageEvent], seconds: float) -> None:
        """A commit of these events took so long."""
        for event in events:
            self.events[event.state] += 1
        self.commits[bisect_left(COMMIT_BOUNDS_S, seconds)] += 1
        self.commit_s += seconds


class CountedSink:
    """A sink that counts what another one delivers."""

    def __init__(self, sink: Sink, figures: RecorderFigures) -> None:
        self._sink = sink
        self._figures = figures

    def deliver(self, lines: bytes, events: int) -> Counter[str]:
        """See Sink."""
        figures = self._figures
        try:
            outcome = self._sink.deliver(lines, events)
        except Exception:
            figures.deliveries_failed += 1
            figures.shipping_failing = 1
            raise
        figures.shipped += events
        figures.shipping_failing = 0
        return outcome

    def close(self) -> None:
        """See Sink."""
        self._sink.close()
