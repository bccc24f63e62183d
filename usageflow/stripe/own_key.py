"""The key of an organization's own account: looked at, sealed and stored; or removed."""

from contextlib import closing

from usageflow.catalog import audit
from usageflow.catalog.organizations import DEFAULT, organization
from usageflow.catalog.secrets import Keyring
from usageflow.config import Settings, problem_of
from usageflow.db.session import Database, Tx
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe import accounts
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.inbound import AccountInfo
from usageflow.stripe.meters import ANOTHER_ACCOUNT, is_strange


def store(
    db: Database,
    settings: Settings,
    organization_id: str,
    api_key: str,
    *,
    actor: audit.Actor | str,
) -> AccountInfo | None:
    """Store the key after a look at Stripe with it; whose it is, None if it may not tell.

    Raises ConfigurationError if it is no key, is of another account than the one before, could not
    be sealed, or if the organization has another account, or the key of the environment;
    DeliveryError if Stripe refuses it.
    """
    problem = problem_of("stripe_api_key", api_key)
    if problem is not None:
        raise ConfigurationError(f"the key {problem}")
    if settings.stripe_api_key is not None and settings.stripe_client_id is None:
        with db.reading() as tx:
            served = organization(tx, DEFAULT)
        if served == organization_id:
            raise ConfigurationError("USAGEFLOW_STRIPE_API_KEY is set, which goes before")
    keyring = Keyring.read(settings.encryption_keys)
    keyring.require()
    gateway = StripeGateway(
        api_key, timeout_s=settings.stripe_timeout_s, base=settings.stripe_api_base
    )
    with closing(gateway):
        owner = _owner(gateway)
        listed = list(gateway.list_meters())
    with db.transaction() as tx:
        before = accounts.own_account(tx, organization_id)
        if before is not None and is_strange(tx, before.id, listed):
            raise ConfigurationError(ANOTHER_ACCOUNT)
        accounts.store_key(tx, organization_id, api_key, keyring, actor=actor)
    return owner


def remove(tx: Tx, organization_id: str, *, actor: audit.Actor | str) -> bool:
    """Forget the key, and stop sending with any; False if there is nothing to end.

    What was not sent yet stays, for another key of the same account.
    """
    removed = accounts.remove_key(tx, organization_id, actor=actor)
    if removed:
        audit.record(
            tx, organization_id, actor=actor, action="stripe.key.remove", subject=accounts.OWN
        )
    return removed


def _owner(gateway: StripeGateway) -> AccountInfo | None:
    """Whose key it is. A restricted one need not be allowed to tell, nor need we be told."""
    try:
        return gateway.account_info()
    except DeliveryError as error:
        if not error.refused:
            raise
        return None
