"""When an attempt may begin, and what its verdict makes of a unit."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.ledger.attempts import Limits, Outcome, outcome, start
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Addressed,
    Ambiguous,
    Busy,
    Held,
    Parked,
    Quarantined,
    Queued,
    Verdict,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOURS = st.floats(-48, 48, allow_nan=False)


@given(HOURS, HOURS, st.floats(0, 48), st.floats(-0.5, 0.5))
def test_nothing_is_sent_again_when_stripe_may_have_forgotten_it(
    skew_before_h: float, skew_after_h: float, passed_h: float, wrong_h: float
) -> None:
    """Whatever our clock said at the two attempts, and Stripe's as we saw it, half an hour wrong.

    With 20 h of window a resend happens at most 21 h after the first attempt by Stripe's clock.
    """
    first = Limits(resend_s_max=72_000, skew_s=(skew_before_h + wrong_h) * 3600)
    later = Limits(resend_s_max=72_000, skew_s=(skew_after_h - wrong_h) * 3600)
    ours_then = NOON - timedelta(hours=skew_before_h)
    ours_now = NOON + timedelta(hours=passed_h - skew_after_h)
    ready = start(
        occurred_at=NOON,
        sent=True,
        resend_until=first.resend_until(ours_then),
        now=ours_now,
        limits=later,
    )
    if passed_h > 21:
        assert ready == "expired"


@pytest.mark.parametrize(
    ("age_s", "sent", "ready"),
    [
        (0, False, "send"),
        (100, False, "send"),
        (101, False, "late"),
        (101, True, "send"),
        (-10, False, "send"),
        (-11, False, "early"),
        (-11, True, "early"),
        (-3600, False, "early"),
        (-3601, False, "beyond"),
        (-3601, True, "early"),
    ],
)
def test_usage_is_told_while_stripe_takes_it(age_s: int, sent: object, ready: str) -> None:
    """Too old is held, unless it may be there already; too far ahead waits."""
    limits = Limits(resend_s_max=60, late_s_max=100, ahead_s_max=10)
    until = limits.resend_until(NOON) if sent else None
    occurred = NOON - timedelta(seconds=age_s)
    assert (
        start(occurred_at=occurred, sent=bool(sent), resend_until=until, now=NOON, limits=limits)
        == ready
    )


def test_a_sink_that_never_forgets_may_be_asked_for_ever() -> None:
    """There is no window that could end."""
    limits = Limits(resend_s_max=None)
    assert limits.resend_until(NOON) is None
    later = NOON + timedelta(days=3_650)
    ready = start(occurred_at=NOON, sent=True, resend_until=None, now=later, limits=limits)
    assert ready == "send"


@pytest.mark.parametrize(
    ("verdict", "first", "again"),
    [
        (Accepted(), "accepted", "accepted"),
        (Quarantined("x", "no"), "quarantined", "quarantined"),
        (Ambiguous("?"), "ambiguous", "ambiguous"),
        (Held("why"), "held", "ambiguous"),
        (Parked("who"), "parked", "ambiguous"),
        (Busy(), "sealed", "ambiguous"),
        (Addressed(), "sealed", "ambiguous"),
        (Queued(), "sealed", "ambiguous"),
        (AccountPaused("key"), "sealed", "ambiguous"),
    ],
)
def test_a_verdict_says_nothing_of_an_earlier_attempt(
    verdict: Verdict, first: str, again: str
) -> None:
    """What was not taken now may have been taken before: then the unit stays undecided."""
    assert outcome(verdict, undecided=False).state == first
    assert outcome(verdict, undecided=True).state == again
    kept = isinstance(verdict, Accepted | Ambiguous)
    assert outcome(verdict, undecided=False).attempted == kept
    assert outcome(verdict, undecided=True).attempted


def test_a_refusal_of_what_was_tried_before_says_so() -> None:
    """A person who sends it again must know."""
    said = Quarantined("meter_inactive", "No meter.")
    assert outcome(said, undecided=False) == Outcome(
        "quarantined", "meter_inactive: No meter.", attempted=False
    )
    assert "may have been applied" in str(outcome(said, undecided=True).reason)
