"""Whose a unit is where customers are known by their identity: nobody has to be asked."""

from collections.abc import Sequence
from dataclasses import replace

from usageflow.db.session import Tx
from usageflow.ledger import units
from usageflow.ledger.units import Claim


class ByIdentity:
    """The customer is the identity's value, `acct_42`. No unit is ever parked."""

    def prepare(self) -> None:
        """Nothing to learn."""

    def bind(self, tx: Tx, claims: Sequence[Claim]) -> list[Claim]:
        """The claims, in order, each bound to its customer."""
        new: dict[str, list[int]] = {}
        for claim in claims:
            if claim.stripe_customer_id is None:
                new.setdefault(claim.identity_value, []).append(claim.unit_id)
        units.bind_customers(tx, new)
        return [
            replace(claim, stripe_customer_id=claim.stripe_customer_id or claim.identity_value)
            for claim in claims
        ]

    def look_up(self, claim: Claim) -> str:
        """The customer, which `bind` knew already."""
        return claim.identity_value
