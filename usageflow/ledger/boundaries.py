"""Boundaries of lanes: moments that no unit crosses, since before it usage is another's.

Another customer's, or another billing period's. Hours are boundaries by themselves.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Literal

from sqlalchemy import select, update

from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import LaneBoundaryRow, UnitRow, table
from usageflow.ledger import lanes
from usageflow.periods import hour_start

Reason = Literal["customer", "period"]


def add(tx: Tx, lane_ids: Collection[int], at: datetime, reason: Reason) -> None:
    """From now on no unit of these lanes holds usage from before `at` and from after it.

    What is open there is sealed; usage that was folded before we knew stays together.
    """
    rows = [{"lane_id": lane_id, "at": at, "reason": reason} for lane_id in lane_ids]
    insert_new(tx, LaneBoundaryRow, rows, key=["lane_id", "at"], give="at")
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
