"""What a person does about a difference: carry out what is proposed, or accept it as it is.

For a command or a button: each function says why it cannot be done, or does it with an audit row.
A proposal is judged again before it is carried out, on what Stripe showed and on the ledger of now,
so none is carried out twice or too late.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from usageflow.catalog import audit
from usageflow.db.exact import add
from usageflow.db.session import Database, Tx
from usageflow.db.tables import LaneRow, ReconciliationRow, UnitRow
from usageflow.errors import DeliveryError
from usageflow.ledger import resolution, slots
from usageflow.ledger.slots import Series
from usageflow.ledger.splitting import split
from usageflow.periods import hour_start
from usageflow.stripe import differences, evidence
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.settlement import PAST, Differs, Proposal, Seen, Slot, judge, whole

CHANGED: Final = "the ledger has changed since Stripe was asked; compare again"


def apply(
    db: Database,
    organization_id: str,
    difference_id: int,
    gateway: StripeGateway,
    *,
    actor: audit.Actor | str,
) -> str | None:
    """Carry out what is proposed for a difference: None, or why that cannot be.

    `gateway` is of the difference's account. Raises DeliveryError if Stripe was asked to take an
    event back and did not say that it has; the difference is open then, and may be applied again.
    """
    with db.transaction() as tx:
        found = _locked(tx, organization_id, difference_id)
        if isinstance(found, str):
            return found
        row, slot, lane_ids = found
        if row.proposal is None:
            return f"nothing is proposed for difference {difference_id}: {row.reason}"
        if not _still_proposed(tx, row, slot):
            return CHANGED
        event_name, identifier, cancels = row.event_name, row.identifier, row.proposal == "cancel"
        _carry_out(tx, row, slot, lane_ids)
        row = tx.session.get_one(ReconciliationRow, difference_id)
        row.state, row.observed_at = "applied", tx.now
        _note(tx, row, "apply", actor)
    if cancels:
        _cancel(db, difference_id, gateway, event_name, identifier or "")
    return None


def dismiss(
    tx: Tx, organization_id: str, difference_id: int, *, reason: str, actor: audit.Actor | str
) -> str | None:
    """Accept a difference as it is, and judge the slot by that from now on; None, or why not.

    Units that nobody could decide are settled with it.
    """
    found = _locked(tx, organization_id, difference_id)
    if isinstance(found, str):
        return found
    row, slot, _ = found
    if whole(slot) != row.expected:
        return CHANGED
    if row.classification == "late" or any(not doubt.held for doubt in slot.doubts):
        return "it may still go away by itself; look again later"
    _settle(tx, slot)
    row.state, row.proposal, row.identifier = "dismissed", None, None
    row.quantity = add(row.observed, row.expected.copy_negate())
    row.reason = f"{row.reason}; dismissed: {reason}"
    _note(tx, row, "dismiss", actor)
    return None


def _locked(
    tx: Tx, organization_id: str, difference_id: int
) -> tuple[ReconciliationRow, Slot, Sequence[int]] | str:
    """An open difference, its slot, and the slot's lanes, locked; or why it is not open."""
    row = differences.find(tx, organization_id, difference_id)
    if row is None:
        return f"there is no difference {difference_id}"
    series, hour = differences.series_of(row), row.hour
    lane_ids = slots.lock(tx, series, hour)
    tx.session.refresh(row, with_for_update=True)
    meter = evidence.meter(tx, series)
    if row.state != "open" or meter is None:
        return f"difference {difference_id} is {row.state}"
    return row, evidence.gather(tx, series, meter.formula, [hour])[hour].slot, lane_ids


def _still_proposed(tx: Tx, row: ReconciliationRow, slot: Slot) -> bool:
    """Whether the same would be proposed now."""
    seen = Seen(expected=row.expected, observed=row.observed, since=row.observed_at)
    judgement = judge(slot, row.observed, now=tx.now, seen=seen)
    return (
        isinstance(judgement, Differs)
        and judgement.expected == row.expected
        and judgement.proposal == _proposal(row)
    )


def _proposal(row: ReconciliationRow) -> Proposal | None:
    match row.proposal:
        case "unit":
            return Proposal("unit", quantity=row.quantity)
        case "cancel" | "reissue" as kind:
            return Proposal(kind, identifier=row.identifier)
        case _:
            return None


def _carry_out(tx: Tx, row: ReconciliationRow, slot: Slot, lane_ids: Sequence[int]) -> None:
    """Do what the ledger has to do for the proposal; cancelling is Stripe's alone."""
    if row.proposal == "reissue":
        (unit_id,) = (one.unit_id for one in slot.suspects if one.identifier == row.identifier)
        unit = tx.session.get_one(UnitRow, unit_id)
        resolution.reissue(tx, unit, reason=row.reason)
    elif row.proposal == "unit" and row.quantity is not None:
        _settle(tx, slot)
        _correct(tx, row, tx.session.get_one(LaneRow, lane_ids[0]), row.quantity)


def _settle(tx: Tx, slot: Slot) -> None:
    """Whatever Stripe has of the undecided units, with the rest of the difference it is right."""
    for doubt in slot.doubts:
        resolution.settled(tx, [tx.session.get_one(UnitRow, doubt.unit_id)])


def _correct(tx: Tx, row: ReconciliationRow, lane: LaneRow, quantity: Decimal) -> None:
    """Send the quantity in the hour it is missing in; in this one, if that is too long ago."""
    series, hour, reason = differences.series_of(row), row.hour, row.reason
    too_old = hour < tx.now - PAST
    occurred_at = tx.now if too_old else slots.first_usage(tx, series, hour)
    for amount in split(quantity):
        unit = resolution.correct(
            tx,
            lane,
            stripe_customer_id=series.stripe_customer_id,
            occurred_at=occurred_at,
            quantity=amount,
            reason=reason,
        )
        row.identifier = unit.identifier
    if too_old:
        _carry(tx, series, hour, hour_start(tx.now), quantity)


def _carry(tx: Tx, series: Series, hour: datetime, to: datetime, quantity: Decimal) -> None:
    """What one hour lacks for ever, another has too much."""
    moved = f"{quantity:f} of {hour:%Y-%m-%d %H:%M} UTC is in {to:%Y-%m-%d %H:%M} UTC"
    differences.accept(tx, series, hour, quantity.copy_negate(), moved)
    differences.accept(tx, series, to, quantity, moved)


def _cancel(
    db: Database, difference_id: int, gateway: StripeGateway, event_name: str, identifier: str
) -> None:
    """Committed as applied before Stripe is asked: two people cannot ask at once."""
    try:
        gateway.cancel_meter_event(event_name, identifier)
    except DeliveryError:
        with db.transaction() as tx:
            tx.session.get_one(ReconciliationRow, difference_id).state = "open"
        raise


def _note(tx: Tx, row: ReconciliationRow, action: str, actor: audit.Actor | str) -> None:
    audit.record(
        tx,
        row.organization_id,
        actor=actor,
        action=f"reconciliation.{action}",
        subject=str(row.id),
        before={"expected": row.expected, "observed": row.observed},
        after={
            "proposal": row.proposal,
            "quantity": row.quantity,
            "identifier": row.identifier,
            "reason": row.reason,
        },
    )
