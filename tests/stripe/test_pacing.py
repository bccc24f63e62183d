"""The token bucket."""

from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.pacing import TokenBucket


def test_a_burst_then_the_rate() -> None:
    """After a quiet time `burst` calls begin at once, then one each interval."""
    bucket = TokenBucket(per_s=10, burst=3)
    assert [round(bucket.take(100.0), 9) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    assert bucket.take(100.3) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_rate_is_kept_whatever_the_pauses(pauses: list[float]) -> None:
    """In any span, no more calls begin than the burst and the rate allow."""
    bucket, now = TokenBucket(per_s=10, burst=3), 1_000.0
    begun = []
    for pause in pauses:
        now += pause
        now += bucket.take(now)
        begun.append(now)
    for first in range(len(begun)):
        for last in range(first, len(begun)):
            assert last - first + 1 <= 3 + (begun[last] - begun[first]) * 10 + 1e-6
