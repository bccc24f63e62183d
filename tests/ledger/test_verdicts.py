"""How long a lane waits after each verdict."""

import pytest

from usageflow.ledger.verdicts import (
    PAUSE_S_MAX,
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Held,
    Parked,
    Quarantined,
    Queued,
    Verdict,
    failures_after,
    pause_s,
)


@pytest.mark.parametrize(
    ("verdict", "pauses"),
    [
        (Busy(), [0.5, 1, 2, 4, 8, 16, 32, 60, 60]),
        (Ambiguous("timeout"), [1, 2, 4, 8, 16, 32, 60, 60]),
        (Parked("nobody"), [30, 120, 600, 3600, 3600]),
        (Busy(retry_after_s=7.0), [7, 7]),
        (Busy(retry_after_s=0), [0.5, 0.5]),
        (Busy(retry_after_s=86_400), [300, 300]),
        (Busy(account=True), [0.2, 0.2]),
        (Queued(), [2, 2]),
        (Accepted(), [0, 0]),
        (Quarantined("code", "no"), [0, 0]),
        (Held("16 digits"), [0, 0]),
        (AccountPaused("bad key"), [0, 0]),
    ],
)
def test_pauses_grow_with_the_failures(verdict: Verdict, pauses: list[float]) -> None:
    """What decides nothing waits longer each time, up to a limit; what decides does not wait."""
    assert [pause_s(verdict, failures) for failures in range(len(pauses))] == pauses
    assert all(pause <= PAUSE_S_MAX for pause in pauses)


@pytest.mark.parametrize(
    ("verdict", "failures"),
    [
        (Busy(), 4),
        (Ambiguous("timeout"), 4),
        (Parked("nobody"), 4),
        (Busy(account=True), 3),
        (Queued(), 3),
        (Accepted(), 0),
        (Quarantined("code", "no"), 0),
    ],
)
def test_waiting_for_others_is_no_failure_of_the_lane(verdict: Verdict, failures: int) -> None:
    """Its next pause does not grow by it."""
    assert failures_after(verdict, 3) == failures
