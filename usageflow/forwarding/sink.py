"""What a place that takes usage is to the forwarder: its properties, and one call that sends.

A sink never decides what is tried again; it says what came of each unit. Stripe's two are in
`usageflow.stripe`, CloudEvents' beside this module. `conformance` tells whether one keeps this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol

from usageflow.ledger.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What a sink declares; the forwarder and the ledger act on it.

    `window_s`: how long it knows an identifier again, None for ever. `digits_max`: of a quantity
    in plain notation, None any. `late_s_max` and `ahead_s_max`: how old or how far ahead usage may
    be, None any. `batch_max`: units in one call. `calls_per_s`: calls it permits. `folding`:
    `meters` that add up, or `all`. `readable`: what it has counted can be read and compared.
    """

    window_s: float | None
    digits_max: int | None
    late_s_max: float | None
    ahead_s_max: float | None
    batch_max: int
    calls_per_s: float
    folding: Literal["meters", "all"]
    readable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One unit as it is sent. The same `identifier` always comes with the same rest.

    `customer` is whom the sink knows: a Stripe customer, or the identity's value.
    """

    identifier: str
    event_name: str
    customer: str
    identity_field: str
    identity_value: str
    quantity: Decimal
    occurred_at: datetime


class Sink(Protocol):
    """A place that takes usage. Safe to use from several threads."""

    @property
    def properties(self) -> Properties:
        """What it promises and permits; the same for its life."""
        ...

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Send at most `batch_max` units in one call; a verdict for each, in order. Never raises.

        A unit of which it is not known whether it arrived is `Ambiguous`. One that had arrived
        before is `Accepted`.
        """
        ...

    def close(self) -> None:
        """Give up every connection and file; a second time does nothing."""
        ...
