"""Boundaries of lanes: moments that no unit crosses, since before it usage is another's.

Another customer's, or another billing period's. Hours are boundaries by themselves.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import select, update

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import among, insert_new
from usageflow.db.tables import (
    BillingPeriodRow,
    LaneBoundaryRow,
    LaneRow,
    StripeCustomerRow,
    UnitRow,
)
from usageflow.ledger import lanes
from usageflow.periods import hour_start

Reason = Literal["customer", "period"]

REACH: Final = timedelta(days=36)
"""How far back boundaries matter: Stripe takes no usage of more than 35 days ago."""


def add(tx: Tx, lane_ids: Collection[int], at: datetime, reason: Reason) -> None:
    """From now on no unit of these lanes holds usage from before `at` and from after it.

    What is open there is sealed; usage that was folded before we knew stays together.
    """
    _insert(tx, {(lane_id, at) for lane_id in lane_ids}, reason)
    lanes.lock(tx, lane_ids)
    units = table(UnitRow)
    tx.session.execute(
        update(units)
        .where(
            units.c.lane_id.in_(lane_ids),
            units.c.hour == hour_start(at),
            units.c.state == "open",
        )
        .values(state="sealed", updated_at=tx.now)
    )


def of(tx: Tx, lane_ids: Collection[int]) -> dict[int, tuple[datetime, ...]]:
    """The boundaries of each of these lanes that has any, in order."""
    rows = table(LaneBoundaryRow).c
    found: dict[int, tuple[datetime, ...]] = {}
    for lane_id, at in tx.session.execute(
        select(rows.lane_id, rows.at).where(rows.lane_id.in_(lane_ids)).order_by(rows.at)
    ):
        found[lane_id] = (*found.get(lane_id, ()), at)
    return found


def for_new_lanes(tx: Tx, account_id: str, lane_ids: Collection[int]) -> None:
    """Give lanes that were just made, and have no unit yet, the boundaries that are known already.

    Of each customer that the identity meant: when its billing periods end, and when it lost the
    value, or got it after another.
    """
    if not lane_ids:
        return
    lane, customer, period = table(LaneRow).c, table(StripeCustomerRow).c, table(BillingPeriodRow).c
    known = table(LaneRow).join(
        table(StripeCustomerRow),
        (customer.account_id == lane.account_id)
        & (customer.field == lane.identity_field)
        & (customer.value == lane.identity_value)
        & (customer.value != ""),
    )
    with_periods = known.join(
        table(BillingPeriodRow),
        (period.account_id == customer.account_id)
        & (period.stripe_customer_id == customer.stripe_customer_id),
    )
    ours = lane.account_id == account_id, among(tx, lane.id, lane_ids)
    ends = select(lane.id, period.ends_at).select_from(with_periods)
    spans = select(lane.id, customer.valid_from, customer.valid_until).select_from(known)
    reach = tx.now - REACH
    found = tx.session.execute(ends.where(*ours, period.ends_at >= reach))
    _insert(tx, {(lane_id, at) for lane_id, at in found}, "period")
    first: dict[int, datetime] = {}
    turns: set[tuple[int, datetime]] = set()
    for lane_id, since, until in tx.session.execute(
        spans.where(*ours).order_by(customer.valid_from)
    ):
        moments = {since, until} - {None, first.setdefault(lane_id, since)}
        turns |= {(lane_id, at) for at in moments if at >= reach}
    _insert(tx, turns, "customer")


def _insert(tx: Tx, places: Collection[tuple[int, datetime]], reason: Reason) -> None:
    rows = [{"lane_id": lane_id, "at": at, "reason": reason} for lane_id, at in places]
    insert_new(tx, LaneBoundaryRow, rows, key=["lane_id", "at"], give="at")
