"""What ends a unit's way, or begins it anew: settled, rejected after all, reissued, written off.

Each function changes one or more units and their lanes in the caller's transaction. Who decides it,
and on what ground, is reconciliation's or a person's; the audit is theirs too.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select
from sqlmodel import col

from usageflow.db import exact
from usageflow.db.session import Tx
from usageflow.db.tables import InstallationRow, LaneRow, UnitRow
from usageflow.ledger import lanes
from usageflow.ledger.identifiers import identifier
from usageflow.ledger.unit_states import advance
from usageflow.periods import hour_start


def settled(tx: Tx, units: Sequence[UnitRow]) -> None:
    """Stripe was seen to have these units (accepted, ambiguous or held): they are done with.

    Usage is added to its lane's `settled`; a correction is no usage.
    """
    for unit in sorted(units, key=lambda one: one.lane_id):
        lane = _locked(tx, unit.lane_id)
        if unit.kind != "correction":
            lane.settled = exact.add(lane.settled, unit.quantity)
        _step(tx, unit, "settle", None)
    _look_again(tx, units)


def hold(tx: Tx, unit: UnitRow, reason: str) -> None:
    """Nobody but a person can say what became of this ambiguous unit; its lane goes on."""
    _locked(tx, unit.lane_id)
    _step(tx, unit, "hold", reason)
    _look_again(tx, [unit])


def reject(tx: Tx, unit: UnitRow, code: str, message: str) -> None:
    """Stripe told that it dropped this accepted, or even settled, unit after all."""
    _unsettle(_locked(tx, unit.lane_id), unit)
    _step(tx, unit, "reject", f"{code}: {message}")


def write_off(tx: Tx, unit: UnitRow, reason: str) -> None:
    """Give up a parked, quarantined or held unit: it is never billed."""
    _locked(tx, unit.lane_id)
    _step(tx, unit, "write_off", reason)
    _look_again(tx, [unit])


def send_again(tx: Tx, unit: UnitRow) -> None:
    """Let a quarantined or held unit go out unchanged, with its identifier.

    Only for what Stripe certainly never took.
    """
    lane = _locked(tx, unit.lane_id)
    _step(tx, unit, "seal", None)
    unit.first_attempt_at = unit.resend_until = None
    lane.blocked_until = tx.now
    _look_again(tx, [unit])


def reissue(tx: Tx, unit: UnitRow, *, reason: str, occurred_at: datetime | None = None) -> UnitRow:
    """Let another unit carry this one's quantity: a new sequence, looked up anew; that unit.

    Only if Stripe does not have it. With `occurred_at` the usage is told for another time. A
    correction stays that of its Stripe customer, whoever the lane's usage has become.
    """
    lane = _locked(tx, unit.lane_id)
    _unsettle(lane, unit)
    _step(tx, unit, "reissue", reason)
    lane.blocked_until = tx.now
    new = _new(
        tx,
        lane,
        kind="correction" if unit.kind == "correction" else "reissue",
        occurred_at=occurred_at or unit.occurred_at,
        quantity=unit.quantity,
        parent_id=unit.id,
    )
    if unit.kind == "correction":
        new.stripe_customer_id = unit.stripe_customer_id
    _look_again(tx, [unit])
    return new


def correct(
    tx: Tx,
    lane: LaneRow,
    *,
    stripe_customer_id: str,
    occurred_at: datetime,
    quantity: Decimal,
    reason: str,
) -> UnitRow:
    """A signed amount for this Stripe customer that is no usage, but makes Stripe's sum right."""
    locked = _locked(tx, _id(lane.id))
    new = _new(
        tx, locked, kind="correction", occurred_at=occurred_at, quantity=quantity, parent_id=None
    )
    new.stripe_customer_id = stripe_customer_id
    new.reason = reason
    _look_again(tx, [new])
    return new


def _unsettle(lane: LaneRow, unit: UnitRow) -> None:
    """Take a settled unit off its lane's `settled` again."""
    if unit.state == "settled" and unit.kind != "correction":
        lane.settled = exact.add(lane.settled, unit.quantity.copy_negate())


def _step(tx: Tx, unit: UnitRow, trigger: str, reason: str | None) -> None:
    advance(unit, trigger)
    unit.reason = reason
    unit.updated_at = tx.now


def _new(
    tx: Tx,
    lane: LaneRow,
    *,
    kind: str,
    occurred_at: datetime,
    quantity: Decimal,
    parent_id: int | None,
) -> UnitRow:
    """A sealed unit in the slot of a locked lane."""
    hour, lane_id = hour_start(occurred_at), _id(lane.id)
    lane.last_sequence += 1
    installation = tx.session.execute(select(col(InstallationRow.id))).scalar_one()
    name = identifier(
        installation,
        lane.account_id,
        customer_id=lane.customer_id,
        event_name=lane.event_name,
        hour=hour,
        sequence=lane.last_sequence,
    )
    unit = UnitRow(
        organization_id=lane.organization_id,
        lane_id=lane_id,
        hour=hour,
        sequence=lane.last_sequence,
        kind=kind,
        parent_id=parent_id,
        occurred_at=occurred_at,
        quantity=quantity,
        events=0,
        state="sealed",
        identifier=name,
        created_at=tx.now,
        updated_at=tx.now,
    )
    tx.session.add(unit)
    tx.session.flush()
    return unit


def _locked(tx: Tx, lane_id: int) -> LaneRow:
    """The lane, locked and as it is now."""
    tx.session.flush()
    return tx.session.get_one(
        LaneRow, lane_id, with_for_update={"key_share": True}, populate_existing=True
    )


def _look_again(tx: Tx, units: Sequence[UnitRow]) -> None:
    tx.session.flush()
    lanes.look_again(tx, {unit.lane_id for unit in units})
    tx.session.expire_all()


def _id(value: int | None) -> int:
    assert value is not None  # noqa: S101 - it is stored
    return value
