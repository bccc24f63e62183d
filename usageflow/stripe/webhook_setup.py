"""The webhooks that Stripe is asked for: made at Stripe, their signing secrets kept sealed.

There are two for an account, or for our platform and all that are connected to it: one of snapshot
events, and one of the thin events that tell of dropped usage. What they bring is read elsewhere.

`invoice.created` is not among them: were we slow to answer, Stripe would hold back invoices of the
account's own customers. What happens to issued ones waits for nobody.
"""

import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlmodel import col, or_, select

from usageflow.catalog import audit
from usageflow.catalog.secrets import Keyring, Place
from usageflow.config import Settings
from usageflow.db.session import Database, Tx
from usageflow.db.tables import StripeAccountRow, StripeWebhookRow
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe.access import access, platform
from usageflow.stripe.accounts import CONNECT, Refused
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.connect import public_url
from usageflow.stripe.events import DEAUTHORIZED, SNAPSHOTS
from usageflow.stripe.inbound import ERROR_REPORT, NO_METER_FOUND, Endpoint

PATH: Final = "/stripe/webhooks"
SNAPSHOT: Final = "snapshot"
THIN: Final = "thin"
THIN_EVENTS: Final = (ERROR_REPORT, NO_METER_FOUND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook that was made. One `for_all` is our platform's, and of every organization."""

    row_id: str
    account_id: str
    endpoint_id: str
    kind: str
    url: str
    created_at: datetime
    for_all: bool


def create(
    db: Database, settings: Settings, account_id: str, *, actor: str
) -> list[StripeWebhookRow]:
    """Make what is missing of an account's webhooks, or of its platform's; what was made.

    Raises ConfigurationError if their secrets could not be sealed, Stripe could not reach us, or
    there is no key; DeliveryError if Stripe refuses. What was made before that is kept.
    """
    keyring = Keyring.read(settings.encryption_keys)
    keyring.require()  # before Stripe makes a secret that could not be kept
    url = public_url(settings) + PATH
    with db.reading() as tx:
        account = tx.session.get_one(StripeAccountRow, account_id)
        there = {row.kind for row in bringing(tx, account) if row.url == url}
        tx.session.expunge_all()  # it is read after the transaction
    if account.livemode and not url.startswith("https://"):
        raise ConfigurationError(
            "Stripe sends live webhooks to https addresses only; set USAGEFLOW_PUBLIC_URL to the "
            "one of this server"
        )
    made = []
    with closing(_gateway(settings, account, keyring)) as gateway:
        for kind in (SNAPSHOT, THIN):
            if kind not in there:
                endpoint = _made(gateway, kind, url, connect=account.kind == CONNECT)
                row = StripeWebhookRow(
                    id=str(uuid.uuid4()),
                    organization_id=account.organization_id,
                    account_id=account.id,
                    endpoint_id=endpoint.endpoint_id,
                    kind=kind,
                    url=url,
                )
                row.secret = keyring.seal(endpoint.secret, Place.of(row))
                made.append(_stored(db, row, actor))
    return made


def webhooks(tx: Tx, organization_id: str) -> list[Webhook]:
    """The webhooks of this organization's account, and those of our platform, oldest first."""
    found = tx.session.exec(
        select(StripeWebhookRow, StripeAccountRow)
        .join(StripeAccountRow, col(StripeAccountRow.id) == col(StripeWebhookRow.account_id))
        .where(
            or_(
                col(StripeWebhookRow.organization_id) == organization_id,
                col(StripeAccountRow.kind) == CONNECT,
            )
        )
        .order_by(col(StripeWebhookRow.created_at), col(StripeWebhookRow.kind))
    )
    return [
        Webhook(
            row_id=row.id,
            account_id=row.account_id,
            endpoint_id=row.endpoint_id,
            kind=row.kind,
            url=row.url,
            created_at=row.created_at,
            for_all=account.kind == CONNECT,
        )
        for row, account in found
    ]


def bringing(tx: Tx, account: StripeAccountRow) -> Sequence[StripeWebhookRow]:
    """The webhooks that bring what this account needs: its own, or any of its platform's."""
    found = select(StripeWebhookRow).join(
        StripeAccountRow, col(StripeAccountRow.id) == col(StripeWebhookRow.account_id)
    )
    if account.kind == CONNECT:
        found = found.where(col(StripeAccountRow.kind) == CONNECT)
    else:
        found = found.where(col(StripeAccountRow.id) == account.id)
    return tx.session.exec(
        found.order_by(col(StripeWebhookRow.created_at), col(StripeWebhookRow.kind))
    ).all()


def remove(db: Database, settings: Settings, webhook: Webhook, *, actor: str) -> str | None:
    """Delete a webhook at Stripe and forget it; None, or why Stripe did not delete it.

    In either case what it brings is refused from now on.
    """
    objection = _deleted(db, settings, webhook)
    with db.transaction() as tx:
        row = tx.session.get(StripeWebhookRow, webhook.row_id)
        if row is not None:
            tx.session.delete(row)
            _record(tx, row, "stripe.webhook.remove", actor)
    return objection


def _deleted(db: Database, settings: Settings, webhook: Webhook) -> str | None:
    """Stripe first: were we to fail in between, it can be removed once more."""
    with db.reading() as tx:
        account = tx.session.get_one(StripeAccountRow, webhook.account_id)
        tx.session.expunge(account)  # it is read after the transaction
    try:
        keyring = Keyring.read(settings.encryption_keys)
        with closing(_gateway(settings, account, keyring)) as gateway:
            if webhook.kind == THIN:
                gateway.delete_event_destination(webhook.endpoint_id)
            else:
                gateway.delete_webhook_endpoint(webhook.endpoint_id)
    except (ConfigurationError, DeliveryError) as error:
        return str(error)
    return None


def _gateway(settings: Settings, account: StripeAccountRow, keyring: Keyring) -> StripeGateway:
    if account.kind == CONNECT:
        return platform(settings)
    reached = access(account, settings, keyring)
    if isinstance(reached, Refused):
        raise ConfigurationError(reached.reason)
    return reached.gateway(settings)


def _made(gateway: StripeGateway, kind: str, url: str, *, connect: bool) -> Endpoint:
    if kind == THIN:
        return gateway.create_event_destination(url, THIN_EVENTS, connected=connect)
    events = (*SNAPSHOTS, DEAUTHORIZED) if connect else SNAPSHOTS
    return gateway.create_webhook_endpoint(url, events, connect=connect)


def _stored(db: Database, row: StripeWebhookRow, actor: str) -> StripeWebhookRow:
    with db.transaction() as tx:
        row.created_at = tx.now
        tx.session.add(row)
        _record(tx, row, "stripe.webhook.create", actor)
        tx.session.flush()
        tx.session.expunge(row)  # it is shown after the transaction
    return row


def _record(tx: Tx, row: StripeWebhookRow, action: str, actor: str) -> None:
    audit.record(
        tx,
        row.organization_id,
        actor=actor,
        action=action,
        subject=row.endpoint_id,
        after={"kind": row.kind, "url": row.url},
    )
