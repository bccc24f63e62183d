"""What follows from an event of Stripe's: once, in whatever order and however often it comes.

An event and what follows from it commit together; Stripe is asked before that, and only where an
event alone cannot tell. How events come here is `webhooks_in`'s and `catch_up`'s.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import Final, TypeAlias

from sqlmodel import col, delete

from usageflow.db.session import Database, Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import StripeAccountRow, StripeEventRow
from usageflow.errors import DeliveryError
from usageflow.ledger import boundaries
from usageflow.stripe import (
    accounts,
    billing_periods,
    directory,
    error_reports,
    identity_lanes,
    invoice_events,
)
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.customers import reading_time
from usageflow.stripe.inbound import ERROR_REPORT, NO_METER_FOUND, InboundEvent

DELETED: Final = "customer.deleted"
CUSTOMERS: Final = ("customer.created", "customer.updated", DELETED)
METERS: Final = (
    "billing.meter.created",
    "billing.meter.updated",
    "billing.meter.deactivated",
    "billing.meter.reactivated",
)
SUBSCRIPTIONS: Final = (
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
)
INVOICES: Final = tuple(invoice_events.KINDS)
SNAPSHOTS: Final = (*CUSTOMERS, *METERS, *SUBSCRIPTIONS, *INVOICES)
"""What can be asked for later, if it was not told."""
DEAUTHORIZED: Final = "account.application.deauthorized"
_REPORTS: Final = (ERROR_REPORT, NO_METER_FOUND)
_THIN: Final = "v1."
"""Before the name of what a thin event tells."""

Reach: TypeAlias = Callable[[], AbstractContextManager[StripeGateway]]
"""Stripe as the account sees it, for as long as it is needed; may raise DeliveryError."""
Effect: TypeAlias = Callable[[Tx], bool]
"""What follows from an event; False, and nothing follows, if Stripe must be asked first."""


class AccountEvents:
    """The events of one account. `on_meters` is called after its meters have changed."""

    def __init__(
        self, db: Database, account_id: str, reach: Reach, on_meters: Callable[[str], None]
    ) -> None:
        self._db = db
        self._account_id = account_id
        self._reach = reach
        self._on_meters = on_meters

    def take(self, event: InboundEvent) -> bool:
        """Deal with an event; False if that was done before, or nothing follows from it.

        Raises DeliveryError or DatabaseError if it must come again.
        """
        kind = event.type if event.type in _REPORTS else event.type.removeprefix(_THIN)
        if kind in CUSTOMERS:
            return self._customer(event, kind)
        if kind in METERS:
            new = self._once(event, lambda _: True)
            if new:
                self._on_meters(self._account_id)
            return bool(new)
        if kind in SUBSCRIPTIONS and not event.thin:
            return bool(self._once(event, partial(self._subscription, event)))
        if kind in INVOICES and not event.thin:
            return bool(self._once(event, partial(self._invoice, event)))
        if kind in _REPORTS:
            return self._report(event)
        if kind == DEAUTHORIZED and event.account is not None:
            return self._deauthorized(event)
        return False

    def _once(self, event: InboundEvent, effect: Effect) -> bool | None:
        """Do what follows, unless it was done before (False). None: it must be asked first."""
        key = {"account_id": self._account_id, "event_id": event.event_id}
        with self._db.transaction() as tx:
            row = {**key, "type": event.type, "received_at": tx.now}
            if not insert_new(tx, StripeEventRow, [row], key=list(key), give="type"):
                return False
            if effect(tx):
                return True
            tx.session.delete(tx.session.get_one(StripeEventRow, tuple(key.values())))
        return None

    def _is_new(self, event: InboundEvent) -> bool:
        """Whether it is worth asking Stripe about; `_once` decides."""
        with self._db.reading() as tx:
            key = (self._account_id, event.event_id)
            return tx.session.get(StripeEventRow, key) is None

    def _customer(self, event: InboundEvent, kind: str) -> bool:
        """A customer came, changed or is gone.

        A snapshot says what and when. A thin event must be read, and so must two that changed the
        same in one second: which was the later is not told.
        """
        customer_id = str(event.object["id"])
        if kind == DELETED or not event.thin:
            told = self._once(event, partial(self._told, event, kind, customer_id))
            if told is not None:
                return told
        elif not self._is_new(event):
            return False
        with self._db.reading() as tx:
            began = tx.now
        with self._reach() as gateway:
            customer = gateway.customer(customer_id)
            at = reading_time(began, gateway)
        metadata = None if customer is None else customer.metadata

        def seen(tx: Tx) -> bool:
            wanted = identity_lanes.fields(tx, self._account_id)
            if metadata is None:
                directory.forget(tx, self._account_id, customer_id, max(at, event.created))
            elif event.thin:
                directory.seen(tx, self._account_id, {customer_id: metadata}, wanted, at)
            else:
                now = {field: metadata.get(field, "") for field in changed(event, wanted)}
                directory.changed(
                    tx, self._account_id, customer_id, now, event.created, certain=True
                )
            return True

        return bool(self._once(event, seen))

    def _told(self, event: InboundEvent, kind: str, customer_id: str, tx: Tx) -> bool:
        if kind == DELETED:
            directory.forget(tx, self._account_id, customer_id, event.created)
            return True
        now = changed(event, identity_lanes.fields(tx, self._account_id))
        return not now or directory.changed(tx, self._account_id, customer_id, now, event.created)

    def _subscription(self, event: InboundEvent, tx: Tx) -> bool:
        """No unit of the customer's usage may cross the end of a billing period."""
        customer_id, ends = str(event.object["customer"]), billing_periods.told_by(event.object)
        lane_ids = directory.lanes_of(tx, self._account_id, customer_id)
        for moment in billing_periods.keep(tx, self._account_id, customer_id, ends):
            if lane_ids:
                boundaries.add(tx, lane_ids, moment, "period")
        return True

    def _invoice(self, event: InboundEvent, tx: Tx) -> bool:
        """Word of a payment, if the invoice is one of ours."""
        account = tx.session.get_one(StripeAccountRow, self._account_id)
        invoice_events.tell(tx, account.organization_id, event)
        return True

    def _report(self, event: InboundEvent) -> bool:
        if not self._is_new(event):
            return False
        with self._reach() as gateway:
            report = gateway.error_report(event.event_id)

        def consumed(tx: Tx) -> bool:
            error_reports.consume(tx, self._account_id, report)
            return True

        return bool(self._once(event, consumed))

    def _deauthorized(self, event: InboundEvent) -> bool:
        """The account's owner has ended the connection, unless it was begun anew since."""
        if not self._is_new(event):
            return False
        ended = False
        try:
            with self._reach() as gateway:
                gateway.account_info()
        except DeliveryError as error:
            if not error.refused:
                raise
            ended = True

        def stopped(tx: Tx) -> bool:
            if ended:
                accounts.deauthorize(tx, self._account_id, "its owner has ended the connection")
            return True

        return bool(self._once(event, stopped))


def changed(event: InboundEvent, wanted: Collection[str]) -> dict[str, str]:
    """The wanted metadata fields that a snapshot says have changed, and to what ("": none)."""
    metadata = event.object.get("metadata") or {}
    if event.type == "customer.created":
        fields: Collection[str] = metadata.keys()
    elif event.previous is None:
        fields = wanted
    else:
        fields = (event.previous.get("metadata") or {}).keys()
    return {field: metadata.get(field, "") for field in wanted if field in fields}


def prune(tx: Tx, before: datetime) -> None:
    """Let go of what was dealt with so long ago that it cannot come again."""
    tx.session.exec(delete(StripeEventRow).where(col(StripeEventRow.received_at) < before))
