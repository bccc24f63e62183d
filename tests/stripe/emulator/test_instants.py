"""Instants of v2: texts with an offset, there and back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.emulator.instants import instant, rfc3339

MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))]),
)


@given(MOMENTS)
def test_a_moment_survives_its_text_to_the_millisecond(moment: datetime) -> None:
    """What is written is UTC with a Z, and reads back as the same moment."""
    text = rfc3339(moment)
    read = instant(text)
    assert text.endswith("Z")
    assert read is not None
    assert timedelta(0) <= moment - read < timedelta(milliseconds=1)


@pytest.mark.parametrize("text", ["", "now", "2026-11-21T09:00:00", "1700000000"])
def test_what_names_no_moment(text: str) -> None:
    """No time at all, or one without an offset."""
    assert instant(text) is None
