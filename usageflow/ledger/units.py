"""The life of a unit once it may be sent: sealed, claimed by a sender, settled by a verdict.

A unit is what one Stripe meter event carries. Filling units is `folding`'s, talking to Stripe is
`usageflow.stripe`'s. At most one unit of a lane is undecided at any time (the database sees to
it), so what Stripe has can always be told from what it shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, cast

from sqlalchemy import CursorResult, bindparam, func, or_, update
from sqlmodel import col, select

from usageflow.db.session import Tx
from usageflow.db.tables import (
    UNIT_PENDING,
    UNIT_UNDECIDED,
    LaneRow,
    StripeAccountRow,
    UnitRow,
)
from usageflow.ledger.verdicts import (
    PAUSE_S_MAX,
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Held,
    Parked,
    Quarantined,
    Verdict,
    pause_s,
)

TRANSITIONS: Final[Mapping[tuple[str, str], str]] = {
    ("open", "seal"): "sealed",
    ("sealed", "send"): "sending",
    ("ambiguous", "send"): "sending",
    ("parked", "send"): "sending",
    ("sending", "accept"): "accepted",
    ("sending", "refuse"): "quarantined",
    ("sending", "postpone"): "sealed",
    ("sending", "lose"): "ambiguous",
    ("sending", "park"): "parked",
    ("sending", "hold"): "held",
    ("ambiguous", "hold"): "held",
    ("accepted", "settle"): "settled",
    ("ambiguous", "settle"): "settled",
    ("held", "settle"): "settled",
    ("accepted", "reject"): "quarantined",
    ("quarantined", "seal"): "sealed",
    ("held", "seal"): "sealed",
    ("accepted", "reissue"): "reissued",
    ("ambiguous", "reissue"): "reissued",
    ("quarantined", "reissue"): "reissued",
    ("held", "reissue"): "reissued",
    ("parked", "write_off"): "written_off",
    ("quarantined", "write_off"): "written_off",
    ("held", "write_off"): "written_off",
}
"""(state, what happens) -> state.

The last block is reconciliation's and a person's: Stripe was seen to have the unit (`settle`) or
told that it dropped it (`reject`); it goes out again unchanged (`seal`: Stripe never took it) or as
another unit (`reissue`: its identifier is used up); or it is given up.
"""

_PAUSE_MAX: Final = timedelta(seconds=PAUSE_S_MAX)

# Written out in the statement, so that the partial indexes of the same condition are used.
_PENDING = col(UnitRow.state).in_(
    bindparam("pending", UNIT_PENDING, expanding=True, literal_execute=True)
)
_UNDECIDED = col(UnitRow.state).in_(
    bindparam("undecided", UNIT_UNDECIDED, expanding=True, literal_execute=True)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A unit that is ours to send until the lease ends, with everything its payload needs.

    `stripe_customer_id` is None until `bind_customer`; once bound, it is the same for ever, like
    the rest of the payload. `undecided`: an earlier attempt may have reached Stripe.
    `occurred_at` is the time Stripe is told: that of the unit's first event, within `hour`.
    """

    unit_id: int
    lane_id: int
    organization_id: str
    account_id: str
    customer_id: str
    identity_field: str
    identity_value: str
    event_name: str
    hour: datetime
    occurred_at: datetime
    quantity: Decimal
    events: int
    identifier: str
    stripe_customer_id: str | None
    attempts: int
    first_attempt_at: datetime
    undecided: bool


def advance(unit: UnitRow, trigger: str) -> None:
    """Bring a unit to its next state. KeyError for a step that does not exist: our mistake."""
    unit.state = TRANSITIONS[unit.state, trigger]


def claim(
    tx: Tx, account_id: str, *, owner: str, limit: int, lease_s: float, resend_s_max: float
) -> list[Claim]:
    """At most `limit` units to send now, one of each free lane, marked as being sent by `owner`.

    Commit before the first byte leaves. A lane is free again when its verdict is settled, or when
    the lease ends without one; then its unit counts as possibly sent. A unit that may have been
    sent more than `resend_s_max` ago is held for a human, not sent again. Nothing is claimed of a
    paused account. A clock that was ahead for a moment stops no lane: a free one is free whenever
    it was last served, and no block is longer than the longest pause.
    """
    free = tx.session.exec(
        select(LaneRow)
        .join(StripeAccountRow, col(StripeAccountRow.id) == col(LaneRow.account_id))
        .where(
            col(LaneRow.account_id) == account_id,
            col(StripeAccountRow.state) == "active",
            col(LaneRow.waiting),
            or_(col(LaneRow.lease_owner).is_(None), col(LaneRow.leased_until) <= tx.now),
            or_(
                col(LaneRow.blocked_until) <= tx.now,
                col(LaneRow.blocked_until) > tx.now + _PAUSE_MAX,
            ),
        )
        .order_by(col(LaneRow.leased_until))
        .limit(limit)
        .with_for_update(of=LaneRow, skip_locked=True, key_share=True)
    ).all()
    oldest = tx.now - timedelta(seconds=resend_s_max)
    claims = []
    for lane in free:
        unit = _next_unit(tx, lane, oldest)
        if unit is not None:
            lane.lease_owner, lane.leased_until = owner, tx.now + timedelta(seconds=lease_s)
            claims.append(_claim(tx, lane, unit))
    tx.session.flush()
    return claims


def bind_customer(tx: Tx, claim: Claim, stripe_customer_id: str) -> Claim:
    """Fix the customer of the claim's payload, for ever.

    Must be committed before the first byte leaves, and may be in the transaction of the claim: a
    unit found without a customer after a crash is known never to have been sent.
    """
    tx.session.exec(
        update(UnitRow)
        .where(col(UnitRow.id) == claim.unit_id)
        .values(stripe_customer_id=stripe_customer_id)
    )
    return replace(claim, stripe_customer_id=stripe_customer_id)


def settle(tx: Tx, claim: Claim, verdict: Verdict) -> bool:
    """Apply a verdict and free the lane.

    False, and nothing changes, if the lease had ended and the unit has been claimed anew since.
    """
    lane = _locked_lane(tx, claim.lane_id)
    unit = tx.session.exec(select(UnitRow).where(UnitRow.id == claim.unit_id)).one()
    if unit.state != "sending" or unit.attempts != claim.attempts:
        return False
    _decide(unit, verdict, undecided=claim.undecided)
    unit.updated_at = tx.now
    if isinstance(verdict, AccountPaused):
        _pause(tx, claim.account_id, verdict.message)
    pause = timedelta(seconds=pause_s(verdict, lane.failures))
    lane.failures = lane.failures + 1 if pause else 0
    lane.blocked_until = tx.now + pause
    _free(tx, lane)
    return True


def recover(tx: Tx) -> int:
    """Free every lane whose sender is gone; how many. Only for the one server of a database.

    Times that only a wrong clock can have set are set anew, so that these lanes have their turn.
    """
    freed = tx.session.exec(
        update(LaneRow)
        .where(col(LaneRow.lease_owner).is_not(None))
        .values(lease_owner=None, leased_until=tx.now)
    )
    latest = {LaneRow.leased_until: tx.now, LaneRow.blocked_until: tx.now + _PAUSE_MAX}
    for time, limit in latest.items():
        tx.session.exec(update(LaneRow).where(col(time) > limit).values({col(time): tx.now}))
    return cast("CursorResult[tuple[()]]", freed).rowcount


def pending(tx: Tx) -> int:
    """How many units are still to be sent, over all organizations."""
    return tx.session.exec(select(func.count()).select_from(UnitRow).where(_PENDING)).one()


def summary(tx: Tx, organization_id: str) -> dict[str, int]:
    """How many units are in each state; states without units are left out."""
    rows = tx.session.exec(
        select(UnitRow.state, func.count())
        .where(col(UnitRow.organization_id) == organization_id)
        .group_by(UnitRow.state)
    )
    return dict(rows.all())


def _next_unit(tx: Tx, lane: LaneRow, oldest: datetime) -> UnitRow | None:
    """The unit of this locked lane to send next: the undecided one, else the oldest.

    A unit first sent before `oldest` is held instead. None, and the lane rests, if nothing is left.
    """
    ours = select(UnitRow).where(UnitRow.lane_id == lane.id)
    undecided = tx.session.exec(ours.where(_UNDECIDED)).one_or_none()
    if undecided is not None:
        _lost_sender(undecided)
        if undecided.first_attempt_at is None or undecided.first_attempt_at >= oldest:
            return undecided
        advance(undecided, "hold")
        undecided.reason = (
            f"sent first at {undecided.first_attempt_at:%Y-%m-%d %H:%M} UTC without a known "
            "outcome; Stripe no longer tells it from a new one"
        )
        undecided.updated_at = tx.now
        tx.session.flush()
    unit = tx.session.exec(ours.where(_PENDING).order_by(col(UnitRow.id)).limit(1)).one_or_none()
    if unit is None:
        lane.waiting = False
    return unit


def _lost_sender(unit: UnitRow) -> None:
    """A unit still `sending` in a free lane: its sender is gone, its fate unknown.

    Without a customer its payload was never complete, so nothing has been sent.
    """
    if unit.state == "sending" and unit.stripe_customer_id is not None:
        advance(unit, "lose")
    elif unit.state == "sending":
        advance(unit, "postpone")
        unit.first_attempt_at = None


def _claim(tx: Tx, lane: LaneRow, unit: UnitRow) -> Claim:
    undecided = unit.first_attempt_at is not None
    if unit.state == "open":
        advance(unit, "seal")
    advance(unit, "send")
    unit.attempts += 1
    unit.first_attempt_at = unit.first_attempt_at or tx.now
    unit.updated_at = tx.now
    assert lane.id is not None and unit.id is not None  # noqa: S101, PT018 - both are stored
    return Claim(
        unit_id=unit.id,
        lane_id=lane.id,
        organization_id=lane.organization_id,
        account_id=lane.account_id,
        customer_id=lane.customer_id,
        identity_field=lane.identity_field,
        identity_value=lane.identity_value,
        event_name=lane.event_name,
        hour=unit.hour,
        occurred_at=unit.occurred_at,
        quantity=unit.quantity,
        events=unit.events,
        identifier=unit.identifier,
        stripe_customer_id=unit.stripe_customer_id,
        attempts=unit.attempts,
        first_attempt_at=unit.first_attempt_at,
        undecided=undecided,
    )


def _decide(unit: UnitRow, verdict: Verdict, *, undecided: bool) -> None:
    """What `verdict` makes of the unit. `undecided`: an earlier attempt may have been applied."""
    match verdict:
        case Accepted():
            advance(unit, "accept")
            unit.reason = None
        case Quarantined(code, message):
            advance(unit, "refuse")
            doubt = "; an earlier attempt without an answer may have been applied"
            unit.reason = f"{code}: {message}{doubt if undecided else ''}"
        case Held(reason):
            advance(unit, "hold")
            unit.reason = reason
        case Ambiguous(reason):
            advance(unit, "lose")
            unit.reason = reason
        case Busy() | AccountPaused() | Parked():
            _not_taken(unit, verdict, undecided=undecided)


def _not_taken(unit: UnitRow, verdict: Busy | AccountPaused | Parked, *, undecided: bool) -> None:
    """This attempt was certainly not applied; that says nothing of an earlier one."""
    unit.reason = verdict.reason if isinstance(verdict, Parked) else None
    if undecided:
        advance(unit, "lose")
        return
    advance(unit, "park" if isinstance(verdict, Parked) else "postpone")
    unit.first_attempt_at = None


def _pause(tx: Tx, account_id: str, message: str) -> None:
    tx.session.exec(
        update(StripeAccountRow)
        .where(col(StripeAccountRow.id) == account_id)
        .values(state="paused", reason=message)
    )


def _locked_lane(tx: Tx, lane_id: int) -> LaneRow:
    return tx.session.exec(
        select(LaneRow).where(LaneRow.id == lane_id).with_for_update(key_share=True)
    ).one()


def _free(tx: Tx, lane: LaneRow) -> None:
    """End the lease. The lane is locked, so no unit can come in unseen between the two steps."""
    tx.session.flush()
    rest = select(UnitRow.id).where(UnitRow.lane_id == lane.id, _PENDING).limit(1)
    lane.waiting = tx.session.exec(rest).one_or_none() is not None
    lane.lease_owner, lane.leased_until = None, tx.now
    tx.session.flush()
