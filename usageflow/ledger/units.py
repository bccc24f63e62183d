"""Units on their way: claimed by a sender, settled by a verdict, many in one transaction.

A unit is what one Stripe meter event carries. Filling units is `folding`'s, what ends their way is
`resolution`'s, talking to Stripe is `usageflow.stripe`'s. At most one unit of a lane is undecided
at any time (the database sees to it), so what Stripe has can always be told from what it shows.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast

import msgspec
from sqlalchemy import (
    CursorResult,
    Row,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlmodel import col

from usageflow.db.columns import table
from usageflow.db.exact import decimal_add
from usageflow.db.session import Tx
from usageflow.db.statements import among
from usageflow.db.tables import UNIT_UNDECIDED, LaneRow, StripeAccountRow, UnitRow
from usageflow.ledger import lanes as lane_rows
from usageflow.ledger.attempts import CLOCK_BACK_S_MAX, Limits, Outcome, outcome, start
from usageflow.ledger.lanes import PENDING
from usageflow.ledger.unit_states import following
from usageflow.ledger.verdicts import (
    PAUSE_S_MAX,
    Accepted,
    AccountPaused,
    Verdict,
    failures_after,
    pause_s,
)

_PAUSE_MAX: Final = timedelta(seconds=PAUSE_S_MAX)
_CLOCK_NOTED: Final = timedelta(seconds=1)
"""How much later the account's clock is noted again."""
_NEVER: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

# Written out in the statement, so that the partial index of the same condition is used.
_UNDECIDED = col(UnitRow.state).in_(
    bindparam("undecided", UNIT_UNDECIDED, expanding=True, literal_execute=True)
)

logger = logging.getLogger("usageflow.ledger")


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that is ours to send until the lease ends, with everything its payload needs.

    `stripe_customer_id` is None until `bind_customers`; once bound, it is the same for ever, like
    the rest of the payload. `undecided`: an earlier attempt may have reached Stripe.
    `occurred_at` is the time Stripe is told: that of the unit's first event, within `hour`.
    `failures` are answers of the lane in a row that decided nothing.
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
    failures: int


def claim(
    tx: Tx, account_id: str, *, owner: str, limit: int, lease_s: float, limits: Limits
) -> list[Claim]:
    """At most `limit` units to send now, one of each free lane, marked as being sent by `owner`.

    The lane whose usage waits longest is first. Commit before the first byte leaves. A lane is free
    again when its verdict is settled, or when the lease ends without one; then its unit counts as
    possibly sent. A unit that may have been sent before, and may not be sent again, is left to
    reconciliation, and its lane waits for that. What is too old for Stripe is held for a person,
    what is too far ahead waits. Nothing is claimed of a paused account. A clock that was ahead for
    a moment stops no lane: no block is longer than the longest pause.
    """
    account = tx.session.get(StripeAccountRow, account_id)
    if account is None or account.state != "active":
        return []
    _mind_the_clock(tx, account, limits)
    found = _next_units(tx, account_id, limit)
    sendable = _sendable(tx, found, limits)
    if not sendable:
        return []
    until = tx.now + timedelta(seconds=lease_s)
    lanes = table(LaneRow)
    tx.session.execute(
        update(lanes)
        .where(among(tx, lanes.c.id, [row.lane_id for row in sendable]))
        .values(lease_owner=owner, leased_until=until)
    )
    units = table(UnitRow)
    tx.session.execute(
        update(units)
        .where(among(tx, units.c.id, [row.unit_id for row in sendable]))
        .values(
            state="sending",
            attempts=units.c.attempts + 1,
            first_attempt_at=func.coalesce(
                units.c.first_attempt_at, literal(tx.now, units.c.first_attempt_at.type)
            ),
            resend_until=func.coalesce(
                units.c.resend_until,
                literal(limits.resend_until(tx.now), units.c.resend_until.type),
            ),
            updated_at=tx.now,
        )
    )
    return [_claim(tx, account_id, row) for row in sendable]


def bind_customers(tx: Tx, claims: Sequence[Claim], customers: Mapping[int, str]) -> list[Claim]:
    """Fix the customer of some units' payloads, for ever: unit id -> Stripe customer.

    The claims, in order, with those that are bound now. Must be committed before the first byte
    leaves, and may be in the transaction of the claim: a unit found without a customer after a
    crash is known never to have been sent.
    """
    if customers:
        units = table(UnitRow)
        tx.session.execute(
            update(units)
            .where(units.c.id == bindparam("unit"))
            .values(stripe_customer_id=bindparam("customer")),
            [{"unit": unit_id, "customer": customer} for unit_id, customer in customers.items()],
        )
    return [
        msgspec.structs.replace(claim, stripe_customer_id=customers[claim.unit_id])
        if claim.unit_id in customers
        else claim
        for claim in claims
    ]


def bind_customer(tx: Tx, claim: Claim, stripe_customer_id: str) -> Claim:
    """The same for one claim; that claim with its customer."""
    (bound,) = bind_customers(tx, [claim], {claim.unit_id: stripe_customer_id})
    return bound


def settle_all(
    tx: Tx, verdicts: Sequence[tuple[Claim, Verdict]], *, final: bool = False
) -> set[int]:
    """Apply verdicts and free their lanes; the ids of the units they were applied to.

    A verdict is dropped if its lease had ended and the unit has been claimed anew since. `final`:
    the sink's word is all there will ever be, so what it accepts is settled at once.
    """
    lane_rows.lock(tx, {claim.lane_id for claim, _ in verdicts})
    current = _attempts(tx, [claim.unit_id for claim, _ in verdicts])
    valid = [(one, said) for one, said in verdicts if current.get(one.unit_id) == one.attempts]
    if not valid:
        return set()
    outcomes: dict[Outcome, list[int]] = defaultdict(list)
    for one, said in valid:
        outcomes[outcome(said, undecided=one.undecided)].append(one.unit_id)
    for result, unit_ids in outcomes.items():
        _decide(tx, result, unit_ids)
    if final:
        _settle(tx, [one for one, said in valid if isinstance(said, Accepted)])
    _free(tx, valid)
    for one, said in valid:
        if isinstance(said, AccountPaused):
            _pause(tx, one.account_id, said)
    return {one.unit_id for one, _ in valid}


def settle(tx: Tx, claim: Claim, verdict: Verdict) -> bool:
    """Apply one verdict; False if it came too late to count."""
    return bool(settle_all(tx, [(claim, verdict)]))


def recover(tx: Tx) -> int:
    """Free every lane whose sender is gone; how many. Only for the one server of a database.

    Times that only a wrong clock can have set are set anew, so that these lanes have their turn.
    """
    freed = tx.session.execute(
        update(LaneRow)
        .where(col(LaneRow.lease_owner).is_not(None))
        .values(lease_owner=None, leased_until=tx.now)
    )
    latest = {LaneRow.leased_until: tx.now, LaneRow.blocked_until: tx.now + _PAUSE_MAX}
    for time, limit in latest.items():
        tx.session.execute(update(LaneRow).where(col(time) > limit).values({col(time): tx.now}))
    return cast("CursorResult[tuple[()]]", freed).rowcount


def pending(tx: Tx) -> int:
    """How many units are still to be sent, over all organizations."""
    counted: int = tx.session.execute(
        select(func.count()).select_from(UnitRow).where(PENDING)
    ).scalar_one()
    return counted


def summary(tx: Tx, organization_id: str) -> dict[str, int]:
    """How many units are in each state; states without units are left out."""
    rows = tx.session.execute(
        select(col(UnitRow.state), func.count())
        .where(col(UnitRow.organization_id) == organization_id)
        .group_by(col(UnitRow.state))
    )
    return {row[0]: row[1] for row in rows}


def _mind_the_clock(tx: Tx, account: StripeAccountRow, limits: Limits) -> None:
    """Note how late it has been, by the sink's clock, which all servers of a database share.

    If it is earlier now, ours was set back since the sink last answered: then nobody knows how old
    an attempt is. Where an identifier is known for ever, it does not matter.
    """
    if limits.resend_s_max is None:
        return
    latest, now = account.clock_at, limits.theirs(tx.now)
    if latest is not None and (latest - now).total_seconds() > CLOCK_BACK_S_MAX:
        logger.error(
            "the clock was set back by %s: units whose outcome is not known are not sent again, "
            "but compared with Stripe",
            latest - now,
        )
        ours = select(col(LaneRow.id)).where(col(LaneRow.account_id) == account.id)
        tx.session.execute(
            update(UnitRow)
            .where(col(UnitRow.lane_id).in_(ours), _UNDECIDED)
            .where(col(UnitRow.resend_until).is_not(None))
            .values(resend_until=_NEVER)
            .execution_options(synchronize_session=False)
        )
    elif latest is not None and now - latest < _CLOCK_NOTED:
        return
    account.clock_at = now
    tx.session.flush()


def _next_units(tx: Tx, account_id: str, limit: int) -> "Sequence[Row[Any]]":
    """The next unit of each lane that is free, with its lane, which is locked.

    That is the undecided one if there is one, else the oldest.
    """
    lanes, units = table(LaneRow), table(UnitRow)
    ours = select(units.c.id).where(units.c.lane_id == lanes.c.id)
    undecided = ours.where(_UNDECIDED).scalar_subquery()
    oldest = ours.where(PENDING).order_by(units.c.id).limit(1).scalar_subquery()
    free = tx.session.execute(
        select(
            lanes.c.id.label("lane_id"),
            func.coalesce(undecided, oldest).label("unit_id"),
        )
        .where(
            lanes.c.account_id == account_id,
            # written out: the partial index has it so
            literal_column("lane.waiting"),
            or_(lanes.c.lease_owner.is_(None), lanes.c.leased_until <= tx.now),
            or_(lanes.c.blocked_until <= tx.now, lanes.c.blocked_until > tx.now + _PAUSE_MAX),
        )
        .order_by(lanes.c.oldest_at, lanes.c.leased_until)
        .limit(limit)
        .with_for_update(of=lanes, skip_locked=True, key_share=True)
    ).all()
    _rest(tx, [row.lane_id for row in free if row.unit_id is None])
    if not free:
        return []
    found = tx.session.execute(
        select(
            *(units.c[name].label("unit_id" if name == "id" else name) for name in _OF_UNIT),
            *(lanes.c[name].label(name) for name in _OF_LANE),
        )
        .join_from(units, lanes, lanes.c.id == units.c.lane_id)
        .where(among(tx, units.c.id, [row.unit_id for row in free if row.unit_id is not None]))
        .where(PENDING)  # its lane was locked after it was chosen: it may have been settled since
        .order_by(lanes.c.oldest_at, lanes.c.id)
    )
    return found.all()


_OF_UNIT: Final = (
    *("id", "lane_id", "organization_id", "hour", "occurred_at", "quantity", "events"),
    *("identifier", "stripe_customer_id", "attempts", "first_attempt_at", "resend_until", "state"),
)
_OF_LANE: Final = ("customer_id", "identity_field", "identity_value", "event_name", "failures")


def _sendable(tx: Tx, found: "Sequence[Row[Any]]", limits: Limits) -> "list[Row[Any]]":
    """Those that may be sent now; the others are put where they belong.

    A unit that is being sent in a free lane has lost its sender. With a customer its fate is
    unknown; without one its payload was never complete, so nothing has been sent.
    """
    by_start: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in found:
        sent = row.state == "ambiguous" or row.stripe_customer_id is not None
        ready = start(
            occurred_at=row.occurred_at,
            sent=sent and row.first_attempt_at is not None,
            resend_until=row.resend_until,
            now=tx.now,
            limits=limits,
        )
        by_start[ready].append(row)
    if lost := [row.unit_id for row in found if row.state == "sending"]:
        _never_sent(tx, lost)
    for kind, put in (("expired", _expired), ("early", _wait)):
        if by_start[kind]:
            put(tx, by_start[kind])
    for kind, reason in _HELD.items():
        if by_start[kind]:
            _hold(tx, by_start[kind], reason)
    return by_start["send"]


def _never_sent(tx: Tx, unit_ids: Sequence[int]) -> None:
    """Forget the attempt of those that have no customer: no byte of them had left."""
    units = table(UnitRow)
    tx.session.execute(
        update(units)
        .where(among(tx, units.c.id, unit_ids), units.c.stripe_customer_id.is_(None))
        .values(first_attempt_at=None, resend_until=None)
    )


def _expired(tx: Tx, rows: "Sequence[Row[Any]]") -> None:
    """Reconciliation decides; until then the lane rests, for it may have one such unit only."""
    units = table(UnitRow)
    lost = [row.unit_id for row in rows if row.state == "sending"]
    tx.session.execute(
        update(units)
        .where(among(tx, units.c.id, lost))
        .values(state="ambiguous", reason="its sender ended without an answer", updated_at=tx.now)
    )
    _rest(tx, [row.lane_id for row in rows])


_HELD: Final = {
    "late": "too old: Stripe takes usage of the last 35 days",
    "beyond": "its time is more than an hour ahead: a clock was wrong where it was recorded",
}


def _hold(tx: Tx, rows: "Sequence[Row[Any]]", reason: str) -> None:
    """Let a person look at what would be refused; the lanes go on."""
    units = table(UnitRow)
    tx.session.execute(
        update(units)
        .where(among(tx, units.c.id, [row.unit_id for row in rows]))
        .values(
            state="held",
            reason=reason,
            first_attempt_at=None,
            resend_until=None,
            updated_at=tx.now,
        )
    )
    lane_rows.look_again(tx, [row.lane_id for row in rows])


def _wait(tx: Tx, rows: "Sequence[Row[Any]]") -> None:
    """Usage from ahead of now, by a clock that is wrong somewhere: it may be in time soon."""
    lanes = table(LaneRow)
    tx.session.execute(
        update(lanes)
        .where(among(tx, lanes.c.id, [row.lane_id for row in rows]))
        .values(blocked_until=tx.now + timedelta(minutes=1))
    )


def _rest(tx: Tx, lane_ids: Sequence[int]) -> None:
    if not lane_ids:
        return
    lanes = table(LaneRow)
    tx.session.execute(
        update(lanes)
        .where(among(tx, lanes.c.id, lane_ids))
        .values(waiting=False, lease_owner=None, leased_until=tx.now)
    )


def _claim(tx: Tx, account_id: str, row: "Row[Any]") -> Claim:
    sent = row.state == "ambiguous" or row.stripe_customer_id is not None
    undecided = sent and row.first_attempt_at is not None
    return Claim(
        unit_id=row.unit_id,
        lane_id=row.lane_id,
        organization_id=row.organization_id,
        account_id=account_id,
        customer_id=row.customer_id,
        identity_field=row.identity_field,
        identity_value=row.identity_value,
        event_name=row.event_name,
        hour=row.hour,
        occurred_at=row.occurred_at,
        quantity=row.quantity,
        events=row.events,
        identifier=row.identifier,
        stripe_customer_id=row.stripe_customer_id,
        attempts=row.attempts + 1,
        first_attempt_at=row.first_attempt_at if undecided else tx.now,
        undecided=undecided,
        failures=row.failures,
    )


def _attempts(tx: Tx, unit_ids: Sequence[int]) -> dict[int, int]:
    """Which attempt each unit that is being sent is at."""
    units = table(UnitRow)
    rows = tx.session.execute(
        select(units.c.id, units.c.attempts).where(
            among(tx, units.c.id, unit_ids), units.c.state == "sending"
        )
    )
    return {row[0]: row[1] for row in rows}


def _decide(tx: Tx, result: Outcome, unit_ids: Sequence[int]) -> None:
    values: dict[str, Any] = {"state": result.state, "reason": result.reason}
    if not result.attempted:
        values |= {"first_attempt_at": None, "resend_until": None}
    if result.state == "accepted":
        values["accepted_at"] = tx.now
    units = table(UnitRow)
    tx.session.execute(
        update(units).where(among(tx, units.c.id, unit_ids)).values(updated_at=tx.now, **values)
    )


def _settle(tx: Tx, accepted: Sequence[Claim]) -> None:
    units, lanes = table(UnitRow), table(LaneRow)
    tx.session.execute(
        update(units)
        .where(among(tx, units.c.id, [one.unit_id for one in accepted]))
        .values(state=following("accepted", "settle"))
    )
    if accepted:
        more = bindparam("more", type_=lanes.c.settled.type)
        tx.session.execute(
            update(lanes)
            .where(lanes.c.id == bindparam("lane"))
            .values(settled=decimal_add(lanes.c.settled, more)),
            [{"lane": one.lane_id, "more": one.quantity} for one in accepted],
        )


def _free(tx: Tx, settled: Iterable[tuple[Claim, Verdict]]) -> None:
    """End the leases. The lanes are locked, so no unit can come in unseen in between."""
    pauses: dict[tuple[float, int], list[int]] = defaultdict(list)
    for one, said in settled:
        pauses[pause_s(said, one.failures), failures_after(said, one.failures)].append(one.lane_id)
    lanes = table(LaneRow)
    for (pause, failures), lane_ids in pauses.items():
        tx.session.execute(
            update(lanes)
            .where(among(tx, lanes.c.id, lane_ids))
            .values(
                failures=failures,
                blocked_until=tx.now + timedelta(seconds=pause),
                lease_owner=None,
                leased_until=tx.now,
            )
        )
        lane_rows.look_again(tx, lane_ids)


def _pause(tx: Tx, account_id: str, verdict: AccountPaused) -> None:
    """What is withdrawn stays so: only its owner can change that."""
    state = "deauthorized" if verdict.deauthorized else "paused"
    tx.session.execute(
        update(StripeAccountRow)
        .where(col(StripeAccountRow.id) == account_id)
        .where(col(StripeAccountRow.state) != "deauthorized")
        .values(state=state, reason=verdict.message)
    )
