"""Asking Stripe for what no webhook brought: none is set up, or it could not get here.

From where the last complete round began. What Stripe does not keep that long is made up for by
listing the customers anew.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Final

from usageflow.db.session import Database
from usageflow.errors import DatabaseError, DeliveryError
from usageflow.stripe import billing_periods, cursor, directory, error_reports, events
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.customers import list_all
from usageflow.stripe.events import SNAPSHOTS, AccountEvents
from usageflow.stripe.inbound import InboundEvent

KEPT: Final = timedelta(days=35)
"""How long what was dealt with is remembered: longer than it can come again."""

logger = logging.getLogger("usageflow.stripe")


def poll(
    db: Database,
    account_id: str,
    gateway: StripeGateway,
    on_meters: Callable[[str], None] = lambda _: None,
) -> int:
    """Deal with all that happened since the last complete round; how many events were new.

    Error reports too. Raises DeliveryError if Stripe cannot be asked, DatabaseError if the database
    fails; then the next round begins where this one did.
    """
    with db.transaction() as tx:
        events.prune(tx, tx.now - KEPT)
        billing_periods.prune(tx)
        began, missed = tx.now, cursor.missed_since(tx, account_id)
        since = cursor.askable(tx, missed)
    ours = AccountEvents(db, account_id, lambda: nullcontext(gateway), on_meters)
    new = sum(_taken(ours, event) for event in gateway.events_since(SNAPSHOTS, since))
    _unless_refused("error reports", lambda: error_reports.poll(db, account_id, gateway))
    if missed < since:
        logger.warning("Stripe tells no more of events before %s UTC: customers are listed", since)
        _unless_refused("customers", lambda: _list_again(db, account_id, gateway))
    with db.transaction() as tx:
        cursor.move(tx, account_id, began + timedelta(seconds=gateway.clock_skew_s))
    return new


def _taken(ours: AccountEvents, event: InboundEvent) -> bool:
    """Deal with an event; one that is of no form we know must not keep the others from us."""
    try:
        return ours.take(event)
    except (DeliveryError, DatabaseError):
        raise
    except Exception:
        logger.exception("event %r of type %r is skipped", event.event_id, event.type)
        return False


def _list_again(db: Database, account_id: str, gateway: StripeGateway) -> None:
    """List the customers for every field for which they were listed before."""
    with db.reading() as tx:
        listed = directory.listed(tx, account_id)
    if listed:
        list_all(db, account_id, gateway, listed)


def _unless_refused(what: str, ask: Callable[[], object]) -> None:
    """What a key may not do keeps nothing else from being asked."""
    try:
        ask()
    except DeliveryError as error:
        if not error.refused:
            raise
        logger.warning("Stripe cannot be asked for %s: %s", what, error)
