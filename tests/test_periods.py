"""UTC hours."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.periods import HOUR, hour_start

instants = st.builds(
    lambda since, offset: (datetime(2026, 11, 21, tzinfo=UTC) + since).astimezone(timezone(offset)),
    st.timedeltas(timedelta(days=-9_999), timedelta(days=9_999)),
    st.timedeltas(timedelta(hours=-14), timedelta(hours=14)),
)


@given(instants)
def test_each_instant_lies_in_its_hour(instant: datetime) -> None:
    """`[start, end)`, in UTC, on the full hour, whatever zone the instant came in."""
    start = hour_start(instant)
    assert start <= instant < start + HOUR
    assert start.tzinfo is UTC
    assert (start.minute, start.second, start.microsecond) == (0, 0, 0)


def test_the_hour_is_half_open() -> None:
    """Its last microsecond belongs to it, its end to the next."""
    start = datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert hour_start(start) == start
    assert hour_start(start + HOUR - timedelta(microseconds=1)) == start
    assert hour_start(start + HOUR) == start + HOUR


def test_a_zone_of_half_hours_meets_the_utc_hour() -> None:
    """10:10 in India is 4:40 UTC."""
    india = timezone(timedelta(hours=5, minutes=30))
    instant = datetime(2026, 11, 21, 10, 10, tzinfo=india)
    assert hour_start(instant) == datetime(2026, 11, 21, 4, tzinfo=UTC)


def test_a_naive_time_is_refused() -> None:
    """Nobody knows which hour it means."""
    with pytest.raises(ValueError, match="2026-11-21T10:00:00 has no time zone"):
        hour_start(datetime(2026, 11, 21, 10))  # noqa: DTZ001 - a naive value is the point
