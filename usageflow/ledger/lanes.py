"""Lanes: locking them, and what they wait for."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import bindparam, exists, func, select, update
from sqlmodel import col

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import among
from usageflow.db.tables import UNIT_PENDING, LaneRow, UnitRow

# Written out in the statement, so that the partial index of the same condition is used.
PENDING: Final = col(UnitRow.state).in_(
    bindparam("pending", UNIT_PENDING, expanding=True, literal_execute=True)
)


def lock(tx: Tx, lane_ids: Collection[int]) -> None:
    """Lock lanes in the one order there is, so that two transactions never wait in a circle."""
    if tx.dialect == "postgresql":
        lanes = table(LaneRow)
        chosen = select(lanes.c.id).where(among(tx, lanes.c.id, lane_ids)).order_by(lanes.c.id)
        tx.session.execute(chosen.with_for_update(key_share=True)).all()


def look_again(tx: Tx, lane_ids: Collection[int]) -> None:
    """Say anew whether these locked lanes wait, and since when the usage is that waits longest."""
    lanes, units = table(LaneRow), table(UnitRow)
    ours = (units.c.lane_id == lanes.c.id, PENDING)
    oldest = (
        select(units.c.occurred_at).where(*ours).order_by(units.c.id).limit(1).scalar_subquery()
    )
    tx.session.execute(
        update(lanes)
        .where(among(tx, lanes.c.id, lane_ids))
        .values(
            waiting=exists(select(units.c.id).where(*ours).correlate(lanes)),
            oldest_at=func.coalesce(oldest, lanes.c.oldest_at),
        )
    )


def unblock(tx: Tx, lane_ids: Collection[int]) -> None:
    """Let lanes go on at once that paused, for what they paused for has changed."""
    lanes = table(LaneRow)
    tx.session.execute(
        update(lanes)
        .where(among(tx, lanes.c.id, lane_ids))
        .values(blocked_until=tx.now, failures=0)
    )
