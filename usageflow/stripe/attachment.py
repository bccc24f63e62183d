"""Saying whose usage is: a person's word for what Stripe's metadata do not tell."""

from usageflow.catalog import audit
from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow
from usageflow.errors import ConfigurationError
from usageflow.stripe import directory
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.identities import Identity


def attach(
    db: Database,
    account_id: str,
    gateway: StripeGateway,
    identity: Identity,
    stripe_customer_id: str,
    *,
    actor: str,
) -> int:
    """An identity is this Stripe customer; how many lanes go on whose usage was parked.

    It holds for all usage that is not on its way yet, and for what comes, above what Stripe says.
    Raises ConfigurationError if Stripe has no such customer, DeliveryError if it cannot be asked.
    """
    if gateway.customer(stripe_customer_id) is None:
        raise ConfigurationError(f"there is no customer {stripe_customer_id} in this account")
    field, value = identity
    with db.transaction() as tx:
        meant = directory.known(tx, account_id, [identity]).get(identity, ())
        before = sorted({one.customer_id for one in meant if one.valid_until is None})
        released = directory.attach(tx, account_id, identity, stripe_customer_id)
        account = tx.session.get_one(StripeAccountRow, account_id)
        audit.record(
            tx,
            account.organization_id,
            actor=actor,
            action="inbox.attach",
            subject=f"{field} {value}",
            before={"stripe_customers": before},
            after={"stripe_customers": [stripe_customer_id]},
        )
    return released
