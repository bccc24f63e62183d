"""When what could not be told is tried again, and what an answer means. Pure."""

from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

JITTER: Final = 0.1
"""A pause grows by up to this part of it, so that what failed together does not return together."""
MINUTE_S: Final = 60.0
HOUR_S: Final = 3_600.0

_SUCCESS: Final = 2
_REDIRECTION: Final = 3
"""Classes of status codes (RFC 9110, section 15)."""
_GONE: Final = 410

Verdict = Literal["delivered", "retry", "gone"]


class Schedule(NamedTuple):
    """The pauses after the first, second, ... failure; the last one is repeated until the end."""

    pauses_s: tuple[float, ...]
    give_up_after_s: float

    def next_at(
        self, attempts: int, first_at: datetime, now: datetime, chance: float
    ) -> datetime | None:
        """When to try again after `attempts` failures; None to give up.

        The last try is at the very end of the schedule. `chance` in [0, 1) is the jitter's.
        """
        ends = first_at + timedelta(seconds=self.give_up_after_s)
        if now >= ends:
            return None
        pause_s = self.pauses_s[min(attempts, len(self.pauses_s)) - 1]
        return min(now + timedelta(seconds=pause_s * (1 + JITTER * chance)), ends)


WEBHOOKS: Final = Schedule(
    (5.0, 30.0, 2 * MINUTE_S, 10 * MINUTE_S, HOUR_S, 6 * HOUR_S, 12 * HOUR_S, 24 * HOUR_S),
    72 * HOUR_S,
)
"""From a restart to a long weekend."""
MAIL: Final = Schedule((MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S, HOUR_S, 4 * HOUR_S), 24 * HOUR_S)
"""A mail that comes a day late is worth less than word that it did not come."""
FAILING_MAX: Final = timedelta(days=5)
"""An endpoint that answered nothing with success for so long is disabled."""


def verdict(status: int | None) -> Verdict:
    """What an endpoint's answer means; None is no answer. 410 Gone asks to be left alone."""
    if status is None:
        return "retry"
    if status // 100 == _SUCCESS:
        return "delivered"
    return "gone" if status == _GONE else "retry"


def complaint(status: int) -> str | None:
    """What is wrong with an answer, in words; None if nothing is."""
    if status // 100 == _SUCCESS:
        return None
    if status // 100 == _REDIRECTION:
        return f"answered {status}: redirects are not followed, give the final URL"
    return f"answered {status}"
