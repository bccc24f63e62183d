"""When it is tried again: from seconds to days, and then no more."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.webhooks.retries import JITTER, MAIL, WEBHOOKS, Schedule, complaint, verdict

AT = datetime(2026, 11, 21, tzinfo=UTC)
HOUR = timedelta(hours=1)


def pauses(schedule: Schedule, chance: float) -> list[timedelta]:
    """The pauses of something that always fails at once."""
    made: list[timedelta] = []
    now = AT
    while (following := schedule.next_at(len(made) + 1, AT, now, chance)) is not None:
        made.append(following - now)
        now = following
    return made


def test_the_schedule_of_webhooks() -> None:
    """5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 12 h, 24 h, 24 h, and the last at the end of 3 days."""
    first = [timedelta(seconds=5), timedelta(seconds=30), HOUR / 30, HOUR / 6, HOUR]
    assert pauses(WEBHOOKS, 0.0)[:-1] == [*first, 6 * HOUR, 12 * HOUR, 24 * HOUR, 24 * HOUR]


@pytest.mark.parametrize("schedule", [WEBHOOKS, MAIL], ids=["webhooks", "mail"])
@given(chance=st.floats(0, 1, exclude_max=True))
def test_the_last_try_is_at_the_end(schedule: Schedule, chance: float) -> None:
    """Pauses grow by the jitter alone, and together make the whole time, to the microsecond."""
    made = pauses(schedule, chance)
    assert sum(made, timedelta()) == timedelta(seconds=schedule.give_up_after_s)
    for number, pause in enumerate(made[:-1]):
        plain = schedule.pauses_s[min(number, len(schedule.pauses_s) - 1)]
        assert plain <= pause.total_seconds() <= plain * (1 + JITTER)


@pytest.mark.parametrize(
    ("status", "expected", "words"),
    [
        (200, "delivered", None),
        (204, "delivered", None),
        (299, "delivered", None),
        (301, "retry", "answered 301: redirects are not followed, give the final URL"),
        (400, "retry", "answered 400"),
        (410, "gone", "answered 410"),
        (503, "retry", "answered 503"),
    ],
)
def test_what_an_answer_means(status: int, expected: str, words: str | None) -> None:
    """2xx is success, 410 asks to be left alone, everything else is tried again."""
    assert (verdict(status), complaint(status)) == (expected, words)


def test_no_answer_is_tried_again() -> None:
    """Nobody said anything."""
    assert verdict(None) == "retry"
