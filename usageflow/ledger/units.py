"""The life of a unit after it has been filled: sealed, claimed by a sender, settled by a verdict.

A unit is what one Stripe meter event carries. Filling units is `folding`'s, talking to Stripe is
`usageflow.stripe`'s.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from usageflow.db.session import Tx
from usageflow.ledger.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A unit that is ours to send until the lease ends, with everything its payload needs.

    `stripe_customer_id` is None until `bind_customer`; once bound, it is the same for ever, like
    the rest of the payload. `undecided`: an earlier attempt may have reached Stripe.
    `occurred_at` is the time Stripe is told: that of the unit's first event, within `hour`.
    """

    unit_id: int
    lane_id: int
    organization_id: str
    account_id: str
    customer_id: str
    identity_field: str
    identity_value: str
    event_name: str
    hour: datetime
    occurred_at: datetime
    quantity: Decimal
    events: int
    identifier: str
    stripe_customer_id: str | None
    attempts: int
    first_attempt_at: datetime
    undecided: bool


def claim(
    tx: Tx, account_id: str, *, owner: str, limit: int, lease_s: float, resend_s_max: float
) -> list[Claim]:
    """At most `limit` units to send now, one of each free lane, marked as being sent by `owner`.

    Commit before the first byte leaves. A lane is free again when its verdict is settled, or when
    the lease ends without one; then its unit counts as possibly sent. A unit that may have been
    sent more than `resend_s_max` ago is held for a human, not sent again. None if the account is
    paused.
    """
    raise NotImplementedError


def bind_customer(tx: Tx, claim: Claim, stripe_customer_id: str) -> Claim:
    """Fix the customer of the claim's payload. Must be committed before the first byte leaves:
    a claim found without a customer after a crash is known never to have been sent.
    """
    raise NotImplementedError


def settle(tx: Tx, claim: Claim, verdict: Verdict) -> bool:
    """Apply a verdict and free the lane.

    False, and nothing changes, if the lease had ended and the unit has been claimed anew since.
    """
    raise NotImplementedError


def recover(tx: Tx) -> int:
    """Free every lane whose sender is gone; how many. Only for the one server of a database."""
    raise NotImplementedError


def pending(tx: Tx) -> int:
    """How many units are still to be sent, over all organizations."""
    raise NotImplementedError


def summary(tx: Tx, organization_id: str) -> dict[str, int]:
    """How many units are in each state; states without units are left out."""
    raise NotImplementedError
