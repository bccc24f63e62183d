"""When the billing periods of Stripe's customers end: usage before and after must not mix.

Kept as subscriptions tell it, whether or not the customer has lanes yet. What it means for lanes
is `identity_lanes`'s, and for new ones `ledger.boundaries`'s.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import BillingPeriodRow
from usageflow.ledger.boundaries import REACH

_rows = table(BillingPeriodRow)


def told_by(subscription: Any) -> Iterator[datetime]:
    """When billing periods of a subscription begin and end; since 2025 each item has its own."""
    items = (subscription.get("items") or {}).get("data") or []
    for part in (subscription, *items):
        for name in ("current_period_start", "current_period_end", "ended_at"):
            if part.get(name):
                yield datetime.fromtimestamp(part[name], UTC)


def keep(
    tx: Tx, account_id: str, stripe_customer_id: str, moments: Iterable[datetime]
) -> list[datetime]:
    """Keep these ends of periods, and give back those that usage can still reach, in order."""
    within = sorted({moment for moment in moments if moment >= tx.now - REACH})
    rows = [
        {"account_id": account_id, "stripe_customer_id": stripe_customer_id, "ends_at": moment}
        for moment in within
    ]
    key = ["account_id", "stripe_customer_id", "ends_at"]
    insert_new(tx, BillingPeriodRow, rows, key=key, give="ends_at")
    return within


def periods_of(tx: Tx, account_id: str, stripe_customer_id: str) -> list[datetime]:
    """When periods of this customer end, in order, as far as usage can reach back."""
    return of(tx, account_id, [stripe_customer_id]).get(stripe_customer_id, [])


def of(tx: Tx, account_id: str, customer_ids: Collection[str]) -> Mapping[str, list[datetime]]:
    """The same for each of these customers that has any."""
    row = _rows.c
    found: dict[str, list[datetime]] = defaultdict(list)
    ours = (
        select(row.stripe_customer_id, row.ends_at)
        .where(
            row.account_id == account_id,
            row.stripe_customer_id.in_(customer_ids),
            row.ends_at >= tx.now - REACH,
        )
        .order_by(row.ends_at)
    )
    for customer_id, moment in tx.session.execute(ours):
        found[customer_id].append(moment)
    return found


def prune(tx: Tx) -> None:
    """Let go of what usage cannot reach any more."""
    tx.session.execute(delete(_rows).where(_rows.c.ends_at < tx.now - REACH))
