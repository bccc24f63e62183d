"""What a recorder says that it has done."""

from collections import Counter
from collections.abc import Callable

import pytest

from usageflow.errors import DeliveryError
from usageflow.events import UsageEvent
from usageflow.recorder import MemorySink
from usageflow.recorder.figures import COMMIT_BOUNDS_S, CountedSink, RecorderFigures

EventFactory = Callable[..., UsageEvent]


class _RefusingSink(MemorySink):
    """Refuses while it is told to."""

    refuses = True

    def deliver(self, lines: bytes, events: int) -> Counter[str]:
        if self.refuses:
            raise DeliveryError("no")
        return super().deliver(lines, events)


def test_events_are_counted_by_their_state(event: EventFactory) -> None:
    """Every state is there from the beginning, so that a rate can be told from the first event."""
    figures = RecorderFigures()
    assert list(figures.events) == ["counted", "inbox", "shadow", "skipped", "gap"]
    figures.committed([event(), event(), event(state="inbox")], 0.001)
    assert figures.events == {"counted": 2, "inbox": 1, "shadow": 0, "skipped": 0, "gap": 0}


@pytest.mark.parametrize(
    ("seconds", "place"), [(0.000_25, 0), (0.000_3, 1), (10.0, 14), (11.0, 15)]
)
def test_commits_are_counted_by_their_duration(seconds: float, place: int) -> None:
    """A bucket is for what is at most its bound; the last has none."""
    figures = RecorderFigures()
    figures.committed([], seconds)
    assert figures.commits.index(1) == place
    assert len(figures.commits) == len(COMMIT_BOUNDS_S) + 1
    assert figures.commit_s == seconds


def test_deliveries_are_counted_where_they_happen(event: EventFactory) -> None:
    """What the ledger answered for, what it refused, and whether it refuses now."""
    figures, sink = RecorderFigures(), _RefusingSink()
    counted = CountedSink(sink, figures)
    with pytest.raises(DeliveryError):
        counted.deliver(b"", 1)
    assert (figures.shipped, figures.deliveries_failed, figures.shipping_failing) == (0, 1, 1)
    sink.refuses = False
    counted.deliver(b"", 7)
    assert (figures.shipped, figures.deliveries_failed, figures.shipping_failing) == (7, 1, 0)
    counted.close()
