"""Webhooks of Stripe's: whether one is genuine, and which account it is about.

Who signed decides what an event may be about. The secret of an organization's own endpoint speaks
for its account alone; those of our platform, and those in the settings, for the account that the
event names. What follows from an event is `events`'s.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from sqlmodel import select

from usageflow.catalog.secrets import Keyring, Place
from usageflow.config import Settings
from usageflow.db.session import Database, Tx
from usageflow.db.tables import StripeAccountRow, StripeWebhookRow
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe.access import access
from usageflow.stripe.accounts import OWN, Refused, accounts
from usageflow.stripe.client import WEBHOOK_AGE_S_MAX, StripeGateway, parse_webhook
from usageflow.stripe.events import AccountEvents
from usageflow.stripe.inbound import InboundEvent

ASK_TIMEOUT_S: Final = 5.0
"""Longest wait for Stripe's answer while it waits for ours."""
TOLD_MAX: Final = 100
"""Accounts that are not ours and were told of in the log; nobody needs more."""
_SIGNED_AT: Final = re.compile(r"(?:^|,)t=([0-9]{1,12})(?=,|$)")
_SIGNED: Final = re.compile(r"(?:^|,)v1=[0-9a-f]{64}(?=,|$)")
"""A SHA-256 in hexadecimal; docs.stripe.com/webhooks/signature."""

logger = logging.getLogger("usageflow.stripe")


@dataclass(frozen=True, slots=True)
class Signer:
    """A secret, and the one account it speaks for; None: any."""

    secret: str = field(repr=False)
    account_id: str | None


class Webhooks:
    """Takes webhooks over one database. `on_meters`: see `AccountEvents`."""

    def __init__(self, db: Database, settings: Settings, on_meters: Callable[[str], None]) -> None:
        self._db = db
        self._settings = settings
        self._keyring = Keyring.read(settings.encryption_keys)
        self._on_meters = on_meters
        self._opened: Mapping[tuple[str, str], str | None] = {}
        """Stored secrets by id and sealed secret; None: no key of ours opens it."""
        self._told: set[tuple[str | None, bool]] = set()

    def take(self, raw: bytes, signature: str) -> bool:
        """Deal with a webhook; False if it is not genuine.

        Raises DeliveryError or DatabaseError if it must come again.
        """
        if not is_fresh(signature, time.time()):
            return False
        with self._db.reading() as tx:
            signers = self._signers(tx)
        for signer in signers:
            event = parse_webhook(raw, signature, [signer.secret])
            if event is not None:
                self._deal(event, signer)
                return True
        return False

    def _deal(self, event: InboundEvent, signer: Signer) -> None:
        with self._db.reading() as tx:
            account_id = account_of(tx, event, signer)
        if account_id is None:
            self._tell(event)
            return
        AccountEvents(self._db, account_id, lambda: self._reach(account_id), self._on_meters).take(
            event
        )

    def _signers(self, tx: Tx) -> list[Signer]:
        """Every secret that a webhook may be signed with."""
        given = (self._settings.stripe_webhook_secrets or "").split(",")
        signers = [Signer(secret.strip(), None) for secret in given if secret.strip()]
        kinds = {row.id: row.kind for row in accounts(tx)}
        rows = tx.session.exec(select(StripeWebhookRow)).all()
        self._opened = opened = self._open(rows)
        for row in rows:
            secret, own = opened[row.id, row.secret], kinds[row.account_id] == OWN
            if secret is not None:
                signers.append(Signer(secret, row.account_id if own else None))
        return signers

    def _open(self, rows: Sequence[StripeWebhookRow]) -> Mapping[tuple[str, str], str | None]:
        """The stored secrets, each opened once; one that no key opens is told of and left out."""
        before, opened = self._opened, dict[tuple[str, str], str | None]()
        for row in rows:
            key = row.id, row.secret
            if key in before:
                opened[key] = before[key]
                continue
            try:
                opened[key] = self._keyring.open(row.secret, Place.of(row))
            except ConfigurationError as error:
                opened[key] = None
                logger.warning("webhooks of %s are refused: %s", row.endpoint_id, error)
        return opened

    @contextmanager
    def _reach(self, account_id: str) -> Iterator[StripeGateway]:
        settings = self._settings
        timeout_s = min(settings.stripe_timeout_s, ASK_TIMEOUT_S)
        with self._db.reading() as tx:
            row = tx.session.get_one(StripeAccountRow, account_id)
            reached = access(row, settings, self._keyring)
        if isinstance(reached, Refused):
            raise DeliveryError(reached.reason)
        gateway = reached.gateway(settings.with_changes(stripe_timeout_s=timeout_s))
        try:
            yield gateway
        finally:
            gateway.close()

    def _tell(self, event: InboundEvent) -> None:
        key = event.account, event.livemode
        if key not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(key)
            logger.warning(
                "webhooks of %r in %s mode are ignored: it is none of our accounts, or several",
                event.account or "one's own account",
                "live" if event.livemode else "test",
            )


def is_fresh(signature: str, now_s: float) -> bool:
    """Whether a `Stripe-Signature` has the form of one, and of a time that may still be taken."""
    at = _SIGNED_AT.search(signature)
    if at is None or _SIGNED.search(signature) is None:
        return False
    return int(at[1]) >= now_s - WEBHOOK_AGE_S_MAX


def account_of(tx: Tx, event: InboundEvent, signer: Signer) -> str | None:
    """Our account that an event is about; None if there is none, or one cannot tell which."""
    name = event.account or OWN
    ours = [
        row.id
        for row in accounts(tx)
        if row.account == name
        and row.livemode == event.livemode
        and signer.account_id in (None, row.id)
    ]
    return ours[0] if len(ours) == 1 else None
