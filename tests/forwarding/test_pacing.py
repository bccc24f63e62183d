"""The pace follows what the far side takes, with few refusals."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usageflow.forwarding.pacing import RATE_MIN, Pacer

STEP_S = 0.005
WARM_UP_S = 30.0


class FarSide:
    """A server with a token bucket whose limit changes, and the calls on their way to it."""

    def __init__(self, pacer: Pacer, latency_s: float, burst_s: float) -> None:
        self.pacer = pacer
        self.latency_s = latency_s
        self.burst_s = burst_s
        self.now = 0.0
        self.tokens = 0.0
        self.answers: deque[tuple[float, bool]] = deque()
        self.taken = self.refused = 0
        self.permitted = 0.0

    def run(self, limit: float, seconds: float, *, counted: bool) -> None:
        """Let it take `limit` calls a second for a while."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            self.tokens = min(self.tokens + limit * STEP_S, max(1.0, limit * self.burst_s))
            while self.answers and self.answers[0][0] <= self.now:
                self.pacer.answered(self.now, refused=self.answers.popleft()[1])
            refused = [self.refuses() for _ in range(self.pacer.grant(self.now, 64))]
            if counted:
                self.permitted += limit * STEP_S
                self.refused += sum(refused)
                self.taken += len(refused) - sum(refused)

    def refuses(self) -> bool:
        """Take one call, or refuse it."""
        refused = self.tokens < 1
        self.tokens -= not refused
        self.answers.append((self.now + self.latency_s, refused))
        return refused


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(20, 100), min_size=1, max_size=4),
    st.sampled_from([0.005, 0.1]),
    st.sampled_from([0.05, 1.0]),
)
def test_few_calls_are_refused_whatever_the_limit_does(
    limits: list[int], latency_s: float, burst_s: float
) -> None:
    """Limits that change every 20 s: after 30 s at most one call in twenty is refused."""
    far = FarSide(Pacer(80), latency_s, burst_s)
    far.run(limits[0], WARM_UP_S, counted=False)
    for limit in limits:
        far.run(limit, 20, counted=True)
    assert far.refused <= 0.05 * (far.taken + far.refused)


@pytest.mark.parametrize("limit", [10, 50, 300])
def test_a_limit_that_stays_is_used(limit: int) -> None:
    """At least 85 in a hundred of what it permits, from a pace that began too high."""
    far = FarSide(Pacer(2.0 * limit), 0.05, 1.0)
    far.run(limit, WARM_UP_S, counted=False)
    far.run(limit, 60, counted=True)
    assert far.taken >= 0.85 * far.permitted


def test_a_quiet_pace_is_the_permitted_one() -> None:
    """Without refusals calls begin at the rate, and after a pause a few at once."""
    far = FarSide(Pacer(80), 0.005, 1.0)
    far.run(1_000, 10, counted=True)
    assert far.refused == 0
    assert far.taken == pytest.approx(800, abs=10)
    assert far.pacer.grant(far.now + 60, 100) == 8


def test_what_did_not_begin_may_begin_later() -> None:
    """A grant that was not used is given back."""
    pacer = Pacer(10)
    assert pacer.grant(0.0, 5) == 1
    assert pacer.grant(0.0, 5) == 0
    pacer.give_back(1)
    assert pacer.grant(0.0, 5) == 1


def test_a_far_side_that_takes_nothing_is_tried_rarely_and_seen_to_recover() -> None:
    """The rate falls to a call every other second, not to none, and grows again."""
    far = FarSide(Pacer(80), 0.005, 0.01)
    far.run(0.001, 120, counted=False)
    assert far.pacer.rate <= 2 * RATE_MIN
    far.run(1_000, 90, counted=False)
    assert far.pacer.rate == 80


def test_a_clock_that_stands_still_or_goes_back_grants_nothing_more() -> None:
    """Time that does not pass brings no tokens."""
    pacer = Pacer(1_000)
    assert pacer.grant(10.0, 500) == 1
    assert pacer.grant(9.0, 500) == 0
    assert pacer.grant(9.2, 500) == 100
