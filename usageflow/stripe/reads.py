"""The reads that comparing may take: so many for each account and UTC day.

Stripe allots reads by the month, and nobody wants to run out of them while customers are looked up.
A part is kept for units that hold up their lane: they are compared even on a day when everything
else had to wait.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import update

from usageflow.db.columns import table
from usageflow.db.session import Database, Tx
from usageflow.db.statements import insert
from usageflow.db.tables import StripeReadsRow

KEPT_SHARE: Final = 10
"""One read in so many is kept for urgent ones."""


def give_back(db: Database, account_id: str) -> None:
    """Take one read less: Stripe told nothing for the last."""
    reads = table(StripeReadsRow)
    with db.transaction() as tx:
        today = reads.c.account_id == account_id, reads.c.day == _day(tx), reads.c.reads > 0
        tx.session.execute(update(reads).where(*today).values(reads=reads.c.reads - 1))


def take(db: Database, account_id: str, *, per_day: int, urgent: bool) -> bool:
    """Take one read of today's, in a transaction of its own; False if there is none left."""
    limit = per_day if urgent else per_day - per_day // KEPT_SHARE
    reads = table(StripeReadsRow)
    with db.transaction() as tx:
        statement = insert(tx, StripeReadsRow).values(account_id=account_id, day=_day(tx), reads=1)
        taken = statement.on_conflict_do_update(
            index_elements=["account_id", "day"],
            set_={"reads": reads.c.reads + 1},
            where=reads.c.reads < limit,
        ).returning(reads.c.reads)
        return tx.session.execute(taken).first() is not None


def _day(tx: Tx) -> datetime:
    return tx.now.replace(hour=0, minute=0, second=0, microsecond=0)
