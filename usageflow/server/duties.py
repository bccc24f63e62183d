"""What the server does for all accounts, again and again: each is a duty of its one main worker."""

import logging
from typing import Final

from sqlmodel import select

from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow
from usageflow.ledger.folding import assign_unassigned
from usageflow.ledger.progress import progress
from usageflow.ledger.statement import store_hourly
from usageflow.server.ways import Ways
from usageflow.worker import Duty

ASSIGN_EVENTS_MAX: Final = 1_000
"""Events put into units in one transaction: short enough for ingestion beside it."""
ASSIGN_S: Final = 10.0
"""How often events without a unit are looked for: a batch may commit while an account is made."""
FOLLOW_S: Final = 1.0
"""How soon an account that was connected or withdrawn is noticed."""
TRY_S: Final = 10.0
"""How often it is seen whether a paused account may be tried again."""
STATEMENT_S: Final = 60.0
"""How often it is seen whether the hour's statement is to be made."""

logger = logging.getLogger("usageflow.server")


def for_all_accounts(db: Database, settings: Settings, ways: Ways) -> list[Duty]:
    """The duties; `ways` are opened and closed by the first."""
    return [
        Duty("accounts", ways.follow, FOLLOW_S),
        Duty("paused accounts", ways.try_again, TRY_S),
        Duty("usage from before an account was connected", lambda: assign(db), ASSIGN_S),
        Duty("statement", lambda: keep_statement(db), STATEMENT_S),
        Duty("billing periods", lambda: mind_periods(db, settings), settings.stripe_barrier_s),
    ]


def assign(db: Database) -> int:
    """Put usage into units that was recorded while there was no account; how many events."""
    with db.transaction() as tx:
        connected = set(tx.session.exec(select(StripeAccountRow.organization_id)))
        return sum(assign_unassigned(tx, one, ASSIGN_EVENTS_MAX) for one in sorted(connected))


def keep_statement(db: Database) -> int:
    """Keep the hour's statement once. 0: the next is an hour away."""
    store_hourly(db)
    return 0


def mind_periods(db: Database, settings: Settings) -> int:
    """Tell of usage of an ended billing period that Stripe has not accepted yet. Always 0."""
    with db.reading() as tx:
        found = [
            (organization_id, one)
            for organization_id in sorted(
                set(tx.session.exec(select(StripeAccountRow.organization_id)))
            )
            for one in progress(tx, organization_id, barrier_s=settings.stripe_barrier_s)
        ]
    for organization_id, one in found:
        if one.late:
            logger.error(
                "organization %s, Stripe account %s: %d units of a billing period that has ended "
                "are not at Stripe yet, and its invoice will miss them; see `usageflow stripe "
                "status` and `usageflow inbox`",
                *(organization_id, one.account, one.late),
            )
    return 0
