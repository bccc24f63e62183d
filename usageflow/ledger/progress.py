"""How far the usage of each account has come: how much is where, since when, and what is late.

What monitoring asks every few seconds: it reads no event and no settled unit. Sums of quantities
are `statement`'s.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, exists, func, literal_column, or_, select

from usageflow.db.columns import table
from usageflow.db.exact import add
from usageflow.db.session import Tx
from usageflow.db.tables import (
    UNIT_STATES,
    LaneBoundaryRow,
    LaneRow,
    ReconciliationRow,
    StripeAccountRow,
    UnitRow,
    UsageEventRow,
)
from usageflow.ledger.lanes import PENDING

UNSETTLED: Final = tuple(
    state for state in UNIT_STATES if state not in ("settled", "reissued", "written_off")
)
"""The states of units that something is still to happen to."""
_NOT_ACCEPTED: Final = tuple(state for state in UNSETTLED if state != "accepted")

# Spelt as the partial indexes have it, which SQLite demands: `waiting` is another term than
# `waiting = 1` there.
_WAITING: Final[ColumnElement[bool]] = literal_column("lane.waiting")
_NOT_SETTLED: Final[ColumnElement[bool]] = literal_column("unit.state <> 'settled'")
_COUNTED: Final[ColumnElement[bool]] = literal_column("usage_event.state = 'counted'")
_UNRESOLVED: Final[ColumnElement[bool]] = literal_column(
    "reconciliation.state IN ('open', 'applied', 'dismissed')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One account. `units` has every state of UNSETTLED.

    `waiting_since`: when the oldest usage was that is on its way and not accepted; what is parked
    is not on its way. `unsettled_since`: when the oldest was that is not settled. `drift`: by how
    much ledger and Stripe differ in the open rows of reconciliation, `drifts`: how many those are.
    `late`: units of a billing period that ended a while ago which Stripe has not accepted.
    """

    account: str
    livemode: bool
    state: str
    units: Mapping[str, int]
    waiting_since: datetime | None
    unsettled_since: datetime | None
    drift: Decimal
    drifts: int
    late: int


def progress(tx: Tx, organization_id: str, *, barrier_s: float) -> list[Progress]:
    """Every account of the organization, in the order in which they were connected.

    `barrier_s`: how long after the end of a period its usage may be on its way. All of one moment
    in a `reading` transaction.
    """
    units, oldest = _units(tx, organization_id)
    waiting, drifts = _waiting(tx, organization_id), _drifts(tx, organization_id)
    late = _late(tx, organization_id, tx.now - timedelta(seconds=barrier_s))
    return [
        Progress(
            account=account.account,
            livemode=account.livemode,
            state=account.state,
            units={state: units[account.id].get(state, 0) for state in UNSETTLED},
            waiting_since=_first(
                waiting.get(account.id), oldest[account.id].get("ambiguous"), unassigned
            ),
            unsettled_since=_first(*oldest[account.id].values(), unassigned),
            drift=reduce(add, drifts[account.id], Decimal(0)),
            drifts=len(drifts[account.id]),
            late=late.get(account.id, 0),
        )
        for account, unassigned in _accounts(tx, organization_id)
    ]


def _accounts(tx: Tx, organization_id: str) -> list[tuple[Any, datetime | None]]:
    """Every account, and since when usage is in no unit yet that goes to it."""
    accounts = table(StripeAccountRow).c
    names = ("id", "account", "livemode", "state", "created_at")
    found = tx.session.execute(
        select(*(accounts[name] for name in names))
        .where(accounts.organization_id == organization_id)
        .order_by(accounts.created_at, accounts.id)
    ).all()
    usual = next((row for row in found if row.state != "deauthorized"), None)
    return [(row, _unassigned(tx, organization_id) if row is usual else None) for row in found]


def _unassigned(tx: Tx, organization_id: str) -> datetime | None:
    """When the usage was that has been in the ledger longest without a unit."""
    events = table(UsageEventRow).c
    return tx.session.scalar(
        select(events.occurred_at)
        .where(
            events.organization_id == organization_id,
            _COUNTED,
            events.event_name.is_not(None),
            events.unit_id.is_(None),
        )
        .order_by(events.seq)
        .limit(1)
    )


def _units(
    tx: Tx, organization_id: str
) -> tuple[Mapping[str, dict[str, int]], Mapping[str, dict[str, datetime]]]:
    """By account and state: how many units, and the time of the oldest usage in them."""
    units, lanes = table(UnitRow).c, table(LaneRow).c
    rows = tx.session.execute(
        select(lanes.account_id, units.state, func.count(), func.min(units.occurred_at))
        .join_from(units.id.table, lanes.id.table, lanes.id == units.lane_id)
        .where(units.organization_id == organization_id, _in(UNSETTLED))
        .group_by(lanes.account_id, units.state)
    )
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    oldest: dict[str, dict[str, datetime]] = defaultdict(dict)
    for account_id, state, count, first in rows:
        counts[account_id][state], oldest[account_id][state] = count, first
    return counts, oldest


def _in(states: tuple[str, ...]) -> ColumnElement[bool]:
    """Units in one of `states`."""
    return and_(_NOT_SETTLED, table(UnitRow).c.state.in_(states))


def _waiting(tx: Tx, organization_id: str) -> dict[str, datetime]:
    """By account: the time of the oldest usage in lanes that wait, but for those with a parked
    unit: what comes after it waits for the same customer.
    """
    lanes, accounts, units = table(LaneRow).c, table(StripeAccountRow).c, table(UnitRow).c
    parked = exists().where(units.lane_id == lanes.id, PENDING, units.state == "parked")
    rows = tx.session.execute(
        select(lanes.account_id, func.min(lanes.oldest_at))
        .join_from(accounts.id.table, lanes.id.table, lanes.account_id == accounts.id)
        .where(accounts.organization_id == organization_id, _WAITING, ~parked)
        .group_by(lanes.account_id)
    )
    return {row[0]: row[1] for row in rows}


def _drifts(tx: Tx, organization_id: str) -> Mapping[str, list[Decimal]]:
    """By account: each difference that is open."""
    rows, accounts = table(ReconciliationRow).c, table(StripeAccountRow).c
    found: dict[str, list[Decimal]] = defaultdict(list)
    for account_id, expected, observed in tx.session.execute(
        select(rows.account_id, rows.expected, rows.observed)
        .join_from(accounts.id.table, rows.id.table, rows.account_id == accounts.id)
        .where(accounts.organization_id == organization_id, _UNRESOLVED, rows.state == "open")
    ):
        found[account_id].append(add(expected, observed.copy_negate()).copy_abs())
    return found


def _late(tx: Tx, organization_id: str, ended: datetime) -> dict[str, int]:
    """By account: units not accepted, of usage from before the last month or billing period of
    their lane that was over at `ended`. Corrections are no usage.
    """
    units, lanes, limits = table(UnitRow).c, table(LaneRow).c, table(LaneBoundaryRow).c
    of_period = exists().where(
        limits.lane_id == units.lane_id,
        limits.reason == "period",
        limits.at <= ended,
        limits.at > units.occurred_at,
    )
    month = ended.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rows = tx.session.execute(
        select(lanes.account_id, func.count())
        .join_from(units.id.table, lanes.id.table, lanes.id == units.lane_id)
        .where(
            units.organization_id == organization_id,
            _in(_NOT_ACCEPTED),
            units.kind != "correction",
            or_(units.occurred_at < month, of_period),
        )
        .group_by(lanes.account_id)
    )
    return {row[0]: row[1] for row in rows}


def _first(*moments: datetime | None) -> datetime | None:
    return min((at for at in moments if at is not None), default=None)
