"""What could not be metered by our own fault is counted, and told without flooding the log."""

from pathlib import Path

import pytest

from usageflow.config import Settings
from usageflow.middleware.settlement import LOGGED_KINDS_MAX, Settlement
from usageflow.recorder import Recorder


@pytest.fixture
def settlement(tmp_path: Path) -> Settlement:
    """A settlement whose recorder is never reached."""
    return Settlement(Recorder(Settings(spool_dir=str(tmp_path))), durable=True)


def test_every_failure_is_counted_and_each_kind_told_once(
    settlement: Settlement, caplog: pytest.LogCaptureFixture
) -> None:
    """The count goes on where the log is silent."""
    assert settlement.failures == 0
    for error in (ValueError("a"), ValueError("a"), ValueError("b")):
        settlement.log_once("record", error)
    assert settlement.failures == 3
    assert len(caplog.records) == 2


def test_failures_with_changing_texts_do_not_fill_the_memory(
    settlement: Settlement, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond a bound nothing is remembered or told; all of it is counted."""
    for number in range(LOGGED_KINDS_MAX + 5):
        settlement.log_once("match", ValueError(number))
    assert settlement.failures == LOGGED_KINDS_MAX + 5
    assert len(caplog.records) == LOGGED_KINDS_MAX
