"""The journal: every meter event that reached the emulator and what became of it, in order.

It is only ever appended to, so that a test can be the judge. What an event's values mean, and
whether it is right, is decided in `meter_events`.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

Kind = Literal["applied", "duplicate", "refused", "rejected", "cancelled"]
"""`refused` at once, in the answer; `rejected` after it had been accepted."""


@dataclass(slots=True, eq=False)
class MeterEvent:
    """One meter event as it was sent, and in `state` what it came to last.

    `customer` and `value` are empty where the payload has none; a count meter needs no value, so
    there it is 1.
    """

    account: str
    livemode: bool
    event_name: str
    identifier: str
    customer: str
    value: str
    timestamp: int
    received_at: datetime
    state: Kind | None = None

    @property
    def quantity(self) -> Decimal:
        """The value of an event that was found to be right."""
        return Decimal(self.value)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal. `code` is Stripe's word for what was wrong."""

    sequence: int
    kind: Kind
    event: MeterEvent
    at: datetime
    code: str | None

    @property
    def counts(self) -> bool:
        """Whether this is an event that was applied and still counts."""
        return self.kind == "applied" == self.event.state
