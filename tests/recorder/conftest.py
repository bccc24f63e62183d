"""What the recorder's tests share: events to record and a limit on the disk."""

import itertools
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from usageflow.events import Identity, UsageEvent

EventFactory = Callable[..., UsageEvent]
DiskLimit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def event() -> EventFactory:
    """Make events that differ in id, each counting 1 for acct_1 unless told otherwise."""
    numbers = itertools.count(1)

    def make(**changes: object) -> UsageEvent:
        facts: dict[str, object] = {
            "id": f"event-{next(numbers):06}",
            "policy": "calls",
            "policy_version": "1",
            "metric": "API_CALL",
            "identity": Identity("account_id", "acct_1"),
            "quantity": Decimal(1),
            "occurred_at": datetime(2026, 11, 21, 12, 30, tzinfo=UTC),
            "state": "counted",
        }
        return UsageEvent(**(facts | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def disk_limit() -> DiskLimit:
    """A context in which no file of this process may grow beyond some bytes: a full disk."""

    @contextmanager
    def limit(file_bytes_max: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limit
