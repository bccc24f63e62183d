"""What Stripe's answer, or the lack of one, means for a unit; and how long its lane then waits.

Pure: the answers themselves are read in `usageflow.stripe`, the verdicts applied in `units`.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

QUEUED_PAUSE_S: Final = 2.0
"""Pause of a lane whose customer could not be looked up because others were."""
RATE_PAUSE_S: Final = 0.2
"""Pause of a lane after a refusal that concerns the whole account, whose rate is lowered for it."""
UNDECIDED_PAUSE_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Pauses after answers that were lost."""
BUSY_PAUSE_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Pauses after 409 and 429 without a Retry-After."""
PARKED_PAUSE_S: Final = (30.0, 120.0, 600.0, 3600.0)
"""Pauses while no Stripe customer is found: soon at first, then without straining the search."""
RETRY_AFTER_S_MAX: Final = 300.0
"""Longest Retry-After that is believed: a mistaken one must not stop a lane for days."""
PAUSE_S_MAX: Final = max(*UNDECIDED_PAUSE_S, *BUSY_PAUSE_S, *PARKED_PAUSE_S, RETRY_AFTER_S_MAX)
"""Longest pause there is: a lane that is blocked for longer was blocked by a wrong clock."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Stripe has the unit. `duplicate`: it had it already from an attempt whose answer was lost."""

    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Stripe refuses this unit for good."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class AccountPaused:
    """Stripe refuses the key or the connection: nothing of this account can be sent.

    `deauthorized`: the account's owner has withdrawn it, so that another key would not help.
    """

    message: str
    deauthorized: bool = False


@dataclass(frozen=True, slots=True)
class Busy:
    """Stripe did not take the unit now. `retry_after_s` is its own wish, if it told one.

    `account`: it is the rate of the whole account that was too high, not this lane's.
    """

    retry_after_s: float | None = None
    account: bool = False


@dataclass(frozen=True, slots=True)
class Queued:
    """No byte was sent: there is no room now to find out whose the unit is."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The answer was lost: Stripe may or may not have the unit."""

    reason: str


@dataclass(frozen=True, slots=True)
class Parked:
    """No byte was sent: there is not exactly one Stripe customer to send it for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Addressed:
    """No byte was sent; it has become clear whose the unit is, so it may go at once."""


@dataclass(frozen=True, slots=True)
class Held:
    """No byte was sent, and none will be before a human has looked."""

    reason: str


Verdict: TypeAlias = (
    Accepted | Quarantined | AccountPaused | Busy | Queued | Ambiguous | Addressed | Parked | Held
)


def pause_s(verdict: Verdict, failures: int) -> float:
    """How long the lane waits after `verdict`, after `failures` others that decided nothing."""
    match verdict:
        case Busy(retry_after_s=wish) if wish is not None:
            return min(max(wish, BUSY_PAUSE_S[0]), RETRY_AFTER_S_MAX)
        case Busy(account=True):
            return RATE_PAUSE_S
        case Queued():
            return QUEUED_PAUSE_S
        case Busy():
            return _step(BUSY_PAUSE_S, failures)
        case Ambiguous():
            return _step(UNDECIDED_PAUSE_S, failures)
        case Parked():
            return _step(PARKED_PAUSE_S, failures)
        case _:
            return 0.0


def failures_after(verdict: Verdict, failures: int) -> int:
    """How many answers in a row have decided nothing, with `verdict`.

    One that waits for its turn, or for the whole account, says nothing of this lane.
    """
    match verdict:
        case Busy(account=True) | Queued():
            return failures
        case Busy() | Ambiguous() | Parked():
            return failures + 1
        case _:
            return 0


def _step(pauses: tuple[float, ...], failures: int) -> float:
    return pauses[min(failures, len(pauses) - 1)]
