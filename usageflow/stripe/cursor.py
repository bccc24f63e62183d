"""How far Stripe was asked for what it tells: from when on events may have been missed.

A moment of Stripe's clock for each account, which moves on only once everything up to there was
taken. What was missed is asked for in `catch_up`.
"""

from datetime import datetime, timedelta
from typing import Final

from usageflow.db.session import Tx
from usageflow.db.tables import StripeAccountRow

READABLE: Final = timedelta(days=30)
"""How long Stripe gives events and error reports back."""
OVERLAP: Final = timedelta(hours=3)
"""What is asked for again: it may show up late, and what is skipped may fare better next time."""


def missed_since(tx: Tx, account_id: str) -> datetime:
    """Since when events may have been missed; at first since the account is here."""
    account = tx.session.get_one(StripeAccountRow, account_id)
    return (account.polled_at or account.created_at) - OVERLAP


def askable(tx: Tx, since: datetime) -> datetime:
    """The same moment, or the earliest that Stripe can still be asked for."""
    return max(since, tx.now - READABLE)


def move(tx: Tx, account_id: str, to: datetime) -> None:
    """Everything that happened until then, by Stripe's clock, has been taken."""
    tx.session.get_one(StripeAccountRow, account_id).polled_at = to
