"""By which key an account of Stripe is reached, and how fast it may be called.

Keys come from the environment or are stored, sealed. With a client id the environment's key is that
of our Connect platform, which acts for the accounts connected to it. Which accounts there are, and
in which state, is `accounts`'s.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Final

from usageflow.catalog.secrets import Keyring, Place
from usageflow.config import Settings
from usageflow.db.session import Database, Tx
from usageflow.db.tables import StripeAccountRow
from usageflow.errors import ConfigurationError
from usageflow.stripe.accounts import (
    CONNECT,
    MODES,
    OF_STRIPE,
    Refused,
    account_of,
    accounts,
    ensure_own,
    is_live,
    resume,
)
from usageflow.stripe.client import StripeGateway

OWN_LIVE_CALLS_PER_S: Final = 900.0
"""Stripe takes 1,000 meter events a second from an account's own live key."""
CONNECT_CALLS_PER_S: Final = 80.0
"""Through a platform they count as ordinary calls, of which Stripe takes 100 a second."""
SANDBOX_CALLS_PER_S: Final = 20.0
"""In test mode Stripe takes 25."""

logger = logging.getLogger("usageflow.stripe")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountAccess:
    """How an account is reached. `stripe_account` names it if the key is our platform's."""

    account_id: str
    organization_id: str
    kind: str
    livemode: bool
    stripe_account: str | None
    calls_per_s: float
    api_key: str = field(repr=False)

    def gateway(self, settings: Settings) -> StripeGateway:
        """Stripe as this account sees it; to be closed by the caller."""
        return StripeGateway(
            self.api_key,
            timeout_s=settings.stripe_timeout_s,
            base=settings.stripe_api_base,
            account=self.stripe_account,
            connections_max=settings.stripe_concurrency,
        )


def platform_key(settings: Settings) -> str:
    """The key of our Connect platform. Raises ConfigurationError if we are none."""
    if settings.stripe_client_id is None or settings.stripe_api_key is None:
        raise ConfigurationError(
            "connecting accounts needs a Connect platform: set USAGEFLOW_STRIPE_CLIENT_ID, and "
            "USAGEFLOW_STRIPE_API_KEY to the platform's secret key"
        )
    return settings.stripe_api_key


def platform(settings: Settings) -> StripeGateway:
    """Stripe as our platform sees it; to be closed by the caller. Raises ConfigurationError."""
    return StripeGateway(
        platform_key(settings),
        timeout_s=settings.stripe_timeout_s,
        base=settings.stripe_api_base,
        client_id=settings.stripe_client_id,
    )


def start(tx: Tx, settings: Settings, organization_id: str) -> None:
    """What a start does: the environment's key serves its account, and paused ones try again.

    With a client id the environment's key is the platform's, and nobody's own. Raises
    ConfigurationError for keys that cannot be used.
    """
    keyring = Keyring.read(settings.encryption_keys)
    if settings.stripe_api_key is not None and settings.stripe_client_id is None:
        ensure_own(tx, organization_id, livemode=is_live(settings.stripe_api_key))
    for row in accounts(tx):
        if row.kind not in OF_STRIPE:
            continue
        resume(tx, row.id)
        reached = access(row, settings, keyring)
        if row.state == "active" and isinstance(reached, Refused):
            logger.warning("usage of Stripe account %s waits: %s", row.account, reached.reason)


def accounts_to_serve(db: Database, settings: Settings) -> list[AccountAccess]:
    """Every active account that can be reached from here: one query, cheap enough for each second.

    Raises ConfigurationError for encryption keys that are none.
    """
    keyring = Keyring.read(settings.encryption_keys)
    with db.reading() as tx:
        reached = [access(row, settings, keyring) for row in accounts(tx) if row.state == "active"]
    return [one for one in reached if isinstance(one, AccountAccess)]


def access(row: StripeAccountRow, settings: Settings, keyring: Keyring) -> AccountAccess | Refused:
    """How this account is reached from here, whatever its state; or why it is not."""
    if row.kind not in OF_STRIPE:
        return Refused("it is not Stripe's")
    try:
        api_key = _api_key(row, settings, keyring)
    except ConfigurationError as error:
        return Refused(str(error))
    if api_key is None:
        wanted = "USAGEFLOW_STRIPE_CLIENT_ID and " if row.kind == CONNECT else ""
        return Refused(f"there is no key for it here; it needs {wanted}USAGEFLOW_STRIPE_API_KEY")
    if is_live(api_key) != row.livemode:
        return Refused(f"it is in {MODES[row.livemode]} mode, and the key is not")
    return AccountAccess(
        account_id=row.id,
        organization_id=row.organization_id,
        kind=row.kind,
        livemode=row.livemode,
        stripe_account=row.account if row.kind == CONNECT else None,
        calls_per_s=settings.stripe_calls_per_s or _calls_per_s(row),
        api_key=api_key,
    )


@contextmanager
def reaching(
    db: Database, settings: Settings, organization_id: str, account: str | None = None
) -> Iterator[tuple[str, StripeGateway]]:
    """The id of an account of the organization, and Stripe as it sees it.

    Without a name it is the account that usage is sent to. Raises ConfigurationError if there is
    none, or none that is reached from here.
    """
    keyring = Keyring.read(settings.encryption_keys)
    with db.reading() as tx:
        reached = access(account_of(tx, organization_id, account), settings, keyring)
    if isinstance(reached, Refused):
        raise ConfigurationError(reached.reason)
    with closing(reached.gateway(settings)) as gateway:
        yield reached.account_id, gateway


def _api_key(row: StripeAccountRow, settings: Settings, keyring: Keyring) -> str | None:
    if row.secret is not None:
        return keyring.open(row.secret, Place.of(row))
    is_platform = settings.stripe_client_id is not None
    return settings.stripe_api_key if is_platform == (row.kind == CONNECT) else None


def _calls_per_s(row: StripeAccountRow) -> float:
    if not row.livemode:
        return SANDBOX_CALLS_PER_S
    return CONNECT_CALLS_PER_S if row.kind == CONNECT else OWN_LIVE_CALLS_PER_S
