"""What a person can do about units that need one: send them again, carry them over, give them up.

Each unit is dealt with by itself and leaves an audit row; what cannot be done is said in a sentence
and changes nothing. Saying whose usage is, is `attachment`'s; differences are `corrections`'s.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.db.session import Tx
from usageflow.db.tables import LaneRow, StripeAccountRow, StripeMeterRow, UnitRow
from usageflow.ledger import lanes, resolution
from usageflow.ledger.splitting import UNIT_DIGITS_MAX, digits
from usageflow.stripe.accounts import OF_STRIPE
from usageflow.stripe.settlement import PAST

STUCK: Final = ("quarantined", "held")
"""The states of units that nothing sends any more."""
HOPELESS: Final = ("parked", *STUCK)
"""The states of units that may be given up."""


class Outcome(NamedTuple):
    """What became of one unit, in words that go on after its identifier."""

    identifier: str
    done: bool
    told: str


def refused_with(tx: Tx, organization_id: str, code: str) -> Sequence[str]:
    """The identifiers of the units that are quarantined with this code, oldest first."""
    return tx.session.exec(
        select(UnitRow.identifier)
        .where(
            col(UnitRow.organization_id) == organization_id,
            col(UnitRow.state) == "quarantined",
            col(UnitRow.reason).startswith(f"{code}:", autoescape=True),
        )
        .order_by(col(UnitRow.id))
    ).all()


def retry(
    tx: Tx, organization_id: str, identifiers: Sequence[str], *, actor: audit.Actor | str
) -> list[Outcome]:
    """Send units again, after what was in their way is mended.

    As they are if Stripe certainly never took them, or if the other side knows an identifier for
    ever. Another unit carries the quantity if Stripe said that it dropped this one. One that it may
    have is left to the comparison, which sends it again or settles it.
    """

    def again(unit: UnitRow, lane: LaneRow) -> Outcome:
        if tx.now - unit.occurred_at > PAST:
            told = "it is too old for Stripe; `usageflow inbox carry` makes it usage of now"
            return Outcome(unit.identifier, False, told)
        if unfit := _unfit(tx, unit, lane):
            return unfit
        if unit.first_attempt_at is None or not _compares(tx, lane):
            resolution.send_again(tx, unit)
            return Outcome(unit.identifier, True, "goes out again as it is")
        return _doubt(unit) or _reissued(tx, unit, "goes out again", later=False)

    return _each(
        tx, organization_id, identifiers, again, action="inbox.retry", states=STUCK, actor=actor
    )


def carry(
    tx: Tx, organization_id: str, identifiers: Sequence[str], *, actor: audit.Actor | str
) -> list[Outcome]:
    """Let another unit carry what is too old for Stripe: there it is usage of now."""

    def over(unit: UnitRow, lane: LaneRow) -> Outcome:
        if tx.now - unit.occurred_at <= PAST:
            told = "Stripe still takes usage of its time; use `usageflow inbox retry`"
            return Outcome(unit.identifier, False, told)
        unfit = _unfit(tx, unit, lane)
        return unfit or _doubt(unit) or _reissued(tx, unit, "is carried over", later=True)

    return _each(
        tx, organization_id, identifiers, over, action="inbox.carry", states=STUCK, actor=actor
    )


def write_off(
    tx: Tx,
    organization_id: str,
    identifiers: Sequence[str],
    reason: str,
    *,
    actor: audit.Actor | str,
) -> list[Outcome]:
    """Give units up, for this reason: they are never billed, and the statement says so."""

    def off(unit: UnitRow, _: LaneRow) -> Outcome:
        resolution.write_off(tx, unit, reason)
        return Outcome(unit.identifier, True, "is written off, and will never be billed")

    return _each(
        tx,
        organization_id,
        identifiers,
        off,
        action="inbox.write_off",
        states=HOPELESS,
        actor=actor,
    )


def _each(
    tx: Tx,
    organization_id: str,
    identifiers: Sequence[str],
    remedy: Callable[[UnitRow, LaneRow], Outcome],
    *,
    action: str,
    states: Sequence[str],
    actor: audit.Actor | str,
) -> list[Outcome]:
    """Apply a remedy to each of these units that is in one of these states."""
    ours = (
        select(UnitRow, LaneRow)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .where(
            col(UnitRow.organization_id) == organization_id,
            col(UnitRow.identifier).in_(identifiers),
        )
        .execution_options(populate_existing=True)
    )
    lanes.lock(tx, {unit.lane_id for unit, _ in tx.session.exec(ours)})
    units = {unit.identifier: (unit, lane) for unit, lane in tx.session.exec(ours)}
    outcomes = []
    for identifier in dict.fromkeys(identifiers):
        if identifier not in units:
            outcomes.append(Outcome(identifier, False, "there is no such unit"))
            continue
        unit, lane = units[identifier]
        before = {"state": unit.state, "reason": unit.reason}
        outcome = (
            remedy(unit, lane)
            if unit.state in states
            else Outcome(identifier, False, _in_the_way(unit))
        )
        if outcome.done:
            audit.record(
                tx,
                organization_id,
                actor=actor,
                action=action,
                subject=identifier,
                before=before,
                after={"state": unit.state, "reason": unit.reason, "told": outcome.told},
            )
        outcomes.append(outcome)
    return outcomes


def _in_the_way(unit: UnitRow) -> str:
    if unit.state == "parked":
        return "it is parked, and tried again by itself; `usageflow inbox attach` says whose it is"
    return f"it is {unit.state.replace('_', ' ')}, and needs nobody"


def _compares(tx: Tx, lane: LaneRow) -> bool:
    """Whether what the lane's account has can be read and compared, as Stripe's can."""
    return tx.session.get_one(StripeAccountRow, lane.account_id).kind in OF_STRIPE


def _unfit(tx: Tx, unit: UnitRow, lane: LaneRow) -> Outcome | None:
    """Why a unit can never be told to Stripe; None if it can, or goes elsewhere."""
    if not _compares(tx, lane):
        return None
    meter = tx.session.get(StripeMeterRow, (lane.account_id, lane.event_name))
    if meter is not None and meter.event_time_window is not None:
        told = f"its meter keeps only the last event of each {meter.event_time_window}, for ever"
    elif digits(unit.quantity) > UNIT_DIGITS_MAX:
        told = f"its quantity has more than the {UNIT_DIGITS_MAX} digits that Stripe takes"
    else:
        return None
    told = f"cannot be sent: {told}; `usageflow inbox write-off` gives it up"
    return Outcome(unit.identifier, False, told)


def _doubt(unit: UnitRow) -> Outcome | None:
    """Why a unit must not go out again: Stripe may have it after all. None if it has not.

    No difference that is known tells that: several units may be in doubt, and one of them there.
    """
    if unit.first_attempt_at is None or unit.accepted_at is not None:
        return None  # it was never sent; or Stripe took it, and said later that it dropped it
    told = (
        "Stripe may have it: comparing both sides settles it, or sends it again; if that takes "
        "longer than a day, `usageflow reconcile` shows why"
    )
    return Outcome(unit.identifier, False, told)


def _reissued(tx: Tx, unit: UnitRow, told: str, *, later: bool) -> Outcome:
    new = resolution.reissue(
        tx, unit, reason=f"{told} by a person's word", occurred_at=tx.now if later else None
    )
    return Outcome(unit.identifier, True, f"{told} as {new.identifier}")
