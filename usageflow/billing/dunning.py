"""Dunning: a subscription whose invoices are not paid falls behind, and is suspended if that lasts.

An invoice is in arrears from the day it was due, or a payment of it failed, until it is paid or
void; one that was given up stays so. How long is waited is the organization's setting.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from sqlmodel import col, select

from usageflow.billing import subscriptions
from usageflow.billing.invoice_states import OWED
from usageflow.catalog import organization_settings
from usageflow.db.billing_tables import InvoiceRow, SubscriptionRow
from usageflow.db.session import Tx

Standing: TypeAlias = Literal["good", "behind", "suspended"]


def standing(since: datetime | None, now: datetime, suspend_after_days: int | None) -> Standing:
    """How a subscription stands that is in arrears `since` then; None: it is not."""
    if since is None:
        return "good"
    if suspend_after_days is None or now < since + timedelta(days=suspend_after_days):
        return "behind"
    return "suspended"


def in_arrears_since(invoices: Iterable[InvoiceRow], now: datetime) -> datetime | None:
    """Since when any of these is in arrears; None if none is."""
    return min(
        (at for one in invoices if (at := _since(one)) is not None and at <= now), default=None
    )


def mind(tx: Tx, organization_id: str, subscription_id: str) -> bool:
    """Let a subscription stand as its invoices say; whether that changed anything."""
    subscription = subscriptions.locked(tx, organization_id, subscription_id)
    if subscription is None:
        return False
    owed = tx.session.exec(
        select(InvoiceRow).where(
            col(InvoiceRow.organization_id) == organization_id,
            col(InvoiceRow.customer_id) == subscription.customer_id,  # for the index
            col(InvoiceRow.subscription_id) == subscription_id,
            col(InvoiceRow.state).in_(OWED),
        )
    )
    patience = organization_settings.read(tx, organization_id).suspend_after_days
    return _move(tx, subscription, standing(in_arrears_since(owed, tx.now), tx.now, patience))


def _since(invoice: InvoiceRow) -> datetime | None:
    moments = (invoice.due_at, invoice.payment_failed_at, invoice.ended_at)
    return min((at for at in moments if at is not None), default=None)


def _move(tx: Tx, subscription: SubscriptionRow, to: Standing) -> bool:
    """One step at most: a subscription that is to be suspended falls behind on the way."""
    if to == "good":
        return subscriptions.recover(tx, subscription)
    if to == "suspended":
        return subscriptions.suspend(tx, subscription)
    return subscriptions.mark_past_due(tx, subscription)
