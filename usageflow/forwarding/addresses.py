"""Whose a unit is where customers are known by their identity: nobody has to be asked."""

from collections.abc import Sequence

from usageflow.db.session import Tx
from usageflow.ledger import units
from usageflow.ledger.units import Claim


class ByIdentity:
    """The customer is the identity's value, `acct_42`. No unit is ever parked."""

    def prepare(self) -> bool:
        """There is nothing to learn."""
        return False

    def bind(self, tx: Tx, claims: Sequence[Claim]) -> list[Claim]:
        """The claims, in order, each bound to its customer."""
        new = {one.unit_id: one.identity_value for one in claims if not one.stripe_customer_id}
        return units.bind_customers(tx, claims, new)

    def look_up(self, claim: Claim) -> str:
        """The customer, which `bind` knew already."""
        return claim.identity_value
