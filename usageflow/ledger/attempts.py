"""One attempt to send a unit: whether it may begin, and what its verdict makes of the unit. Pure.

Two clocks matter: ours and the sink's. Whichever makes the attempt look older decides whether a
unit may be sent again, for after its window the sink would count it twice.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from usageflow.ledger.unit_states import following
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

CLOCK_BACK_S_MAX: Final = 60.0
"""A clock that is set back by more makes every window doubtful; a resend has hours to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the sink permits of one attempt; None: anything.

    `resend_s_max`: how long after the first attempt the same identifier may be sent again, None for
    ever. `late_s_max`, `ahead_s_max`: how old usage may be, and how far ahead of now. `skew_s`: the
    sink's clock minus ours.
    """

    resend_s_max: float | None
    late_s_max: float | None = None
    ahead_s_max: float | None = None
    skew_s: float = 0.0

    def resend_until(self, now: datetime) -> datetime | None:
        """The end of the window of a unit that is first sent now; None if it has none."""
        if self.resend_s_max is None:
            return None
        return now + timedelta(seconds=self.resend_s_max + min(self.skew_s, 0.0))

    def theirs(self, now: datetime) -> datetime:
        """What time it is by the sink's clock."""
        return now + timedelta(seconds=self.skew_s)


AHEAD_WAIT: Final = timedelta(hours=1)
"""Usage that is further ahead than this is not waited for: a clock is wrong, not late."""

Start: TypeAlias = Literal["send", "expired", "late", "early", "beyond"]
"""`expired`: only reconciliation can tell; `late`: too old for the sink; `early`: soon it is time;
`beyond`: so far ahead that a person must look."""


def start(
    *,
    occurred_at: datetime,
    sent: bool,
    resend_until: datetime | None,
    now: datetime,
    limits: Limits,
) -> Start:
    """Whether a unit may be sent now. `sent`: it may have been already."""
    theirs = limits.theirs(now)
    if sent and resend_until is not None and max(now, theirs) >= resend_until:
        return "expired"
    age_s = (theirs - occurred_at).total_seconds()
    if not sent and limits.late_s_max is not None and age_s > limits.late_s_max:
        return "late"
    if limits.ahead_s_max is None or -age_s <= limits.ahead_s_max:
        return "send"
    return "beyond" if not sent and -age_s > AHEAD_WAIT.total_seconds() else "early"


class Outcome(NamedTuple):
    """What an attempt leaves: the state, why, and whether the sink may still have the unit."""

    state: str
    reason: str | None
    attempted: bool


def outcome(verdict: Verdict, *, undecided: bool) -> Outcome:
    """What `verdict` makes of a unit that was being sent.

    `undecided`: an earlier attempt may have been applied, of which this one says nothing.
    """
    match verdict:
        case Accepted():
            return Outcome(following("sending", "accept"), None, attempted=True)
        case Quarantined(code, message):
            doubt = "; an earlier attempt without an answer may have been applied"
            reason = f"{code}: {message}{doubt if undecided else ''}"
            return Outcome(following("sending", "refuse"), reason, attempted=undecided)
        case Ambiguous(reason):
            return Outcome(following("sending", "lose"), reason, attempted=True)
        case Held(reason):
            trigger = "lose" if undecided else "hold"
            return Outcome(following("sending", trigger), reason, attempted=undecided)
        case Parked(reason):
            trigger = "lose" if undecided else "park"
            return Outcome(following("sending", trigger), reason, attempted=undecided)
        case Busy() | Queued() | AccountPaused() | Addressed():
            trigger = "lose" if undecided else "postpone"
            return Outcome(following("sending", trigger), None, attempted=undecided)
