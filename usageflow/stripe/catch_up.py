"""Asking Stripe for events that no webhook brought: none is set up, or it could not get here."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Final

from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow
from usageflow.stripe import events
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.events import SNAPSHOTS, AccountEvents

READABLE: Final = timedelta(days=30)
"""How long Stripe gives events back."""
KEPT: Final = timedelta(days=35)
"""How long what was dealt with is remembered: longer than it can come again."""
OVERLAP: Final = timedelta(hours=3)
"""What is asked for again: webhooks come in any order, and the newest may have been the first."""


def poll(
    db: Database,
    account_id: str,
    gateway: StripeGateway,
    on_meters: Callable[[str], None] = lambda _: None,
) -> int:
    """Deal with all that happened since the newest event we know; how many events were new.

    Raises DeliveryError if Stripe cannot be asked.
    """
    with db.transaction() as tx:
        events.prune(tx, tx.now - KEPT)
        since = events.newest(tx, account_id)
        if since is None:  # customers were listed since the account is here, and not before
            since = tx.session.get_one(StripeAccountRow, account_id).created_at
        since = max(since - OVERLAP, tx.now - READABLE)
    ours = AccountEvents(db, account_id, lambda: nullcontext(gateway), on_meters)
    return sum(ours.take(event) for event in gateway.events_since(SNAPSHOTS, since))
