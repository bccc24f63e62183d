"""Saying whose usage is: a person's word for what Stripe's metadata do not tell."""

import logging
import re
from collections.abc import Collection
from typing import Final

from usageflow.catalog import audit
from usageflow.db.session import Database, Tx
from usageflow.db.tables import StripeAccountRow
from usageflow.errors import ConfigurationError
from usageflow.stripe import directory, identity_lanes
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.identities import Identity

_CUSTOMER: Final = re.compile(r"(cus|acct)_[A-Za-z0-9_]{1,250}")
"""docs.stripe.com/api/customers/object; an account can be a customer of its platform, too."""

logger = logging.getLogger("usageflow.stripe")


def attach(
    db: Database,
    account_id: str,
    gateway: StripeGateway,
    identity: Identity,
    stripe_customer_id: str,
    *,
    actor: audit.Actor | str,
) -> int:
    """An identity is this Stripe customer; how many lanes go on whose usage was parked.

    It holds for all usage that is not on its way yet, and for what comes, above what Stripe says.
    That no usage is known by such a field is told in the log. Raises ConfigurationError for what
    cannot be an identity or a customer, and if Stripe has no such customer; DeliveryError if it
    cannot be asked.
    """
    field, value = identity
    if not (field.strip() and value.strip()):
        raise ConfigurationError(
            "an identity needs a field and a value, such as account_id acct_42"
        )
    if not _CUSTOMER.fullmatch(stripe_customer_id):
        raise ConfigurationError(
            f"{stripe_customer_id!r} is no id of a Stripe customer, such as cus_NffrFeUfNV2Hib"
        )
    if gateway.customer(stripe_customer_id) is None:
        raise ConfigurationError(f"there is no customer {stripe_customer_id} in this account")
    with db.transaction() as tx:
        fields = identity_lanes.fields(tx, account_id)
        meant = directory.known(tx, account_id, [identity]).get(identity, ())
        before = {one.customer_id for one in meant if one.valid_until is None}
        released = directory.attach(tx, account_id, identity, stripe_customer_id)
        change = before, [stripe_customer_id]
        _record(tx, account_id, "attach", identity, change, actor=actor)
    if field not in fields:
        known = ", ".join(map(repr, sorted(fields))) or "none"
        logger.warning(
            "no usage is known by the field %r so far; fields of usage: %s", field, known
        )
    return released


def detach(
    tx: Tx, account_id: str, identity: Identity, *, actor: audit.Actor | str = audit.CLI
) -> bool:
    """An identity is again whose Stripe says it is; False if nobody had said otherwise.

    It holds for all usage that is not on its way yet, and for what comes.
    """
    said = directory.detach(tx, account_id, identity)
    if said is None:
        return False
    meant = directory.known(tx, account_id, [identity]).get(identity, ())
    after = {one.customer_id for one in meant if one.valid_until is None}
    _record(tx, account_id, "detach", identity, ([said], after), actor=actor)
    return True


def _record(
    tx: Tx,
    account_id: str,
    action: str,
    identity: Identity,
    change: tuple[Collection[str], Collection[str]],
    *,
    actor: audit.Actor | str,
) -> None:
    before, after = change
    audit.record(
        tx,
        tx.session.get_one(StripeAccountRow, account_id).organization_id,
        actor=actor,
        action=f"inbox.{action}",
        subject=" ".join(identity),
        before={"stripe_customers": sorted(before)},
        after={"stripe_customers": sorted(after)},
    )
