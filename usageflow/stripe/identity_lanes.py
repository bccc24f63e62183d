"""The lanes of identities, and what changes for them when an identity becomes another's.

Who an identity is, is the `directory`'s and `identities`'s; nothing is looked up here.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import exists, func, select

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import LaneRow, UnitRow
from usageflow.ledger import boundaries, lanes
from usageflow.ledger.boundaries import REACH
from usageflow.stripe import billing_periods
from usageflow.stripe.identities import Identity, Meant, turned

VALUES_MAX: Final = 500
"""Values in one statement: well below the least number of variables a database takes."""


class IdentityLane(NamedTuple):
    """A lane, whose usage it carries, and whether some of that is parked."""

    lane_id: int
    identity: Identity
    parked: bool


def fields(tx: Tx, account_id: str) -> set[str]:
    """The metadata fields that customers of this account's usage are known by.

    Looks for each in turn, through the index: there are few, and a great many lanes.
    """
    lane = table(LaneRow).c
    found: set[str] = set()
    ours = select(func.min(lane.identity_field)).where(lane.account_id == account_id)
    last = tx.session.execute(ours).scalar_one()
    while last is not None:
        found.add(last)
        last = tx.session.execute(ours.where(lane.identity_field > last)).scalar_one()
    return found


def having(tx: Tx, account_id: str, identities: Collection[Identity]) -> list[IdentityLane]:
    """The lanes with one of these identities."""
    lane, unit = table(LaneRow).c, table(UnitRow).c
    parked = exists(select(unit.id).where(unit.lane_id == lane.id, unit.state == "parked"))
    found = []
    for field, values in by_field(identities):
        ours = select(lane.id, lane.identity_value, parked).where(
            lane.account_id == account_id,
            lane.identity_field == field,
            lane.identity_value.in_(values),
        )
        for lane_id, value, is_parked in tx.session.execute(ours):
            found.append(IdentityLane(lane_id, (field, value), is_parked))
    return found


def follow(
    tx: Tx,
    account_id: str,
    found: Sequence[IdentityLane],
    meant: Mapping[Identity, Collection[Meant]],
) -> int:
    """Who these lanes' identities are, or were, has changed; how many go on that were parked.

    No unit holds usage from before and after an identity became another's, or from two billing
    periods of one that it means.
    """
    lanes.lock(tx, [lane.lane_id for lane in found])
    customer_ids = {one.customer_id for them in meant.values() for one in them}
    periods = billing_periods.of(tx, account_id, customer_ids)
    turns: dict[datetime, list[int]] = defaultdict(list)
    ends: dict[datetime, list[int]] = defaultdict(list)
    for lane in found:
        them = meant.get(lane.identity, ())
        for at in _turns(them, tx.now - REACH):
            turns[at].append(lane.lane_id)
        for at in {at for one in them for at in periods.get(one.customer_id, ())}:
            ends[at].append(lane.lane_id)
    for at in sorted(turns):
        boundaries.add(tx, turns[at], at, "customer")
    for at in sorted(ends):
        boundaries.add(tx, ends[at], at, "period")
    waiting = [lane.lane_id for lane in found if lane.parked]
    lanes.unblock(tx, waiting)
    return len(waiting)


def by_field(identities: Collection[Identity]) -> Iterator[tuple[str, list[str]]]:
    """Each field with its values, so many at a time as one statement may have.

    Asked for so, they are found through an index; as pairs they would not be, on SQLite. Without
    the empty value: in the directory it says that a customer has none.
    """
    values: dict[str, list[str]] = defaultdict(list)
    for field, value in identities:
        if value:
            values[field].append(value)
    for field, wanted in values.items():
        for start in range(0, len(wanted), VALUES_MAX):
            yield field, wanted[start : start + VALUES_MAX]


def _turns(meant: Collection[Meant], since: datetime) -> set[datetime]:
    """When the identity became another's."""
    ends = (moment for one in meant for moment in (one.valid_from, one.valid_until) if moment)
    return {moment for moment in ends if moment >= since and turned(meant, moment)}
