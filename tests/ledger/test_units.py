"""The life of a unit: claimed by one sender, settled by a verdict, never sent twice blindly."""

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from usageflow.db.columns import table
from usageflow.db.tables import UNIT_STATES, LaneRow, StripeAccountRow, UnitRow
from usageflow.ledger import resolution, units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.lanes import PENDING
from usageflow.ledger.unit_states import TRANSITIONS, advance
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Held,
    Parked,
    Quarantined,
    Verdict,
)

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

HOUR_S = 3600


@pytest.fixture
def busy_ledger(ledger: "Ledger", line: "LineOf") -> "Ledger":
    """A ledger with one folded unit of quantity 3."""
    ledger.connect(used="sum", each="count")
    ledger.append(line(event_name="used"), line(event_name="used", quantity=2))
    return ledger


def only(ledger: "Ledger") -> UnitRow:
    """The only unit."""
    (unit,) = ledger.rows(UnitRow)
    assert isinstance(unit, UnitRow)
    return unit


def lane(ledger: "Ledger") -> LaneRow:
    """The only lane."""
    (found,) = ledger.rows(LaneRow)
    assert isinstance(found, LaneRow)
    return found


def test_a_claim_has_all_that_the_payload_needs(busy_ledger: "Ledger") -> None:
    """What is claimed is what is stored, sealed and marked as being sent."""
    noon = busy_ledger.clock.now
    busy_ledger.clock.advance(10)
    (claim,) = busy_ledger.claim()
    unit = only(busy_ledger)
    assert (unit.state, unit.attempts, unit.first_attempt_at) == (
        "sending",
        1,
        claim.first_attempt_at,
    )
    assert (claim.quantity, claim.events) == (Decimal(3), 2)
    assert (claim.hour, claim.occurred_at) == (noon, noon)
    assert (claim.identity_field, claim.identity_value) == ("account_id", "acct_1")
    assert (claim.event_name, claim.account_id) == ("used", "account-1")
    assert claim.identifier == unit.identifier
    assert claim.stripe_customer_id == unit.stripe_customer_id == "cus_acct_1"
    assert claim.first_attempt_at == busy_ledger.clock.now
    assert not claim.undecided
    assert lane(busy_ledger).lease_owner == "worker"


def test_a_lane_has_one_unit_in_flight(busy_ledger: "Ledger", line: "LineOf") -> None:
    """While one is being sent the others wait, the oldest first; lanes do not wait for others."""
    busy_ledger.append(*(line(event_name="each", quantity=n) for n in (5, 6)))
    first = busy_ledger.claim()
    assert [claim.quantity for claim in first] == [3, 5]
    assert busy_ledger.claim() == []
    assert busy_ledger.settle(first[1], Accepted())
    (second,) = busy_ledger.claim()
    assert second.quantity == 6


def test_the_database_refuses_a_second_unit_in_flight(
    busy_ledger: "Ledger", line: "LineOf"
) -> None:
    """Even a mistake of ours cannot have two undecided units in a lane."""
    busy_ledger.append(line(event_name="each"), line(event_name="each"))
    with pytest.raises(IntegrityError), busy_ledger.database.transaction() as tx:
        tx.session.execute(
            update(table(UnitRow)).where(table(UnitRow).c.state == "sealed").values(state="sending")
        )


def test_the_longest_waiting_lane_is_next(ledger: "Ledger", line: "LineOf") -> None:
    """With fewer places than lanes, none starves."""
    ledger.connect(each="count")
    ledger.append(*(line(event_name="each", customer=name) for name in "abc" * 3))
    served = []
    for _ in range(9):
        ledger.clock.advance(1)
        (claim,) = ledger.claim(limit=1)
        served.append(claim.identity_value)
        ledger.settle(claim, Accepted())
    assert [sorted(served[start : start + 3]) for start in (0, 3, 6)] == [["a", "b", "c"]] * 3


@pytest.mark.parametrize(
    ("verdict", "state", "reason"),
    [
        (Accepted(), "accepted", None),
        (Accepted(duplicate=True), "accepted", None),
        (Quarantined("meter_inactive", "No meter."), "quarantined", "meter_inactive: No meter."),
        (Held("16 digits"), "held", "16 digits"),
    ],
)
def test_what_decides_ends_the_unit(
    busy_ledger: "Ledger", verdict: Verdict, state: str, reason: str | None
) -> None:
    """It is not sent again, its lane is free at once, and the lane rests when nothing is left."""
    (claim,) = busy_ledger.claim()
    assert busy_ledger.settle(claim, verdict)
    assert (only(busy_ledger).state, only(busy_ledger).reason) == (state, reason)
    assert (lane(busy_ledger).waiting, lane(busy_ledger).failures) == (False, 0)
    assert busy_ledger.claim() == []


@pytest.mark.parametrize(
    ("verdict", "state", "pauses"),
    [
        (Busy(), "sealed", [0.5, 1, 2]),
        (Busy(retry_after_s=9), "sealed", [9, 9]),
        (Ambiguous("timeout"), "ambiguous", [1, 2, 4, 8, 16, 32, 60, 60]),
        (Parked("no Stripe customer"), "parked", [30, 120, 600, 3600, 3600]),
    ],
)
def test_what_decides_nothing_is_tried_again(
    busy_ledger: "Ledger", line: "LineOf", verdict: Verdict, state: str, pauses: list[float]
) -> None:
    """The same unit, unchanged, after a pause that grows; nothing of its lane overtakes it."""
    bind = not isinstance(verdict, Parked)
    (claim,) = busy_ledger.claim(bind=bind)
    busy_ledger.append(line(event_name="used", quantity=100))
    for attempt, pause in enumerate(pauses, start=2):
        assert busy_ledger.settle(claim, verdict)
        assert busy_ledger.rows(UnitRow)[0].state == state
        busy_ledger.clock.advance(pause - 0.01)
        assert busy_ledger.claim() == []
        busy_ledger.clock.advance(0.01)
        (again,) = busy_ledger.claim(bind=bind)
        assert (again.identifier, again.quantity) == (claim.identifier, claim.quantity)
        assert again.attempts == attempt
        claim = again
    busy_ledger.settle(claim, Accepted())
    (following,) = busy_ledger.claim()
    assert (following.quantity, lane(busy_ledger).failures) == (Decimal(100), 0)


def test_a_unit_that_was_not_taken_has_no_first_attempt(busy_ledger: "Ledger") -> None:
    """Busy, paused and parked units are certainly not at Stripe: their time is not running."""
    (claim,) = busy_ledger.claim(bind=False)
    busy_ledger.settle(claim, Parked("no Stripe customer has metadata account_id = acct_1"))
    assert only(busy_ledger).first_attempt_at is None
    assert only(busy_ledger).reason == "no Stripe customer has metadata account_id = acct_1"
    busy_ledger.clock.advance(100 * HOUR_S)
    (claim,) = busy_ledger.claim()
    busy_ledger.settle(claim, Busy())
    assert only(busy_ledger).first_attempt_at is None
    busy_ledger.clock.advance(100 * HOUR_S)
    (claim,) = busy_ledger.claim()
    assert (claim.first_attempt_at, claim.undecided) == (busy_ledger.clock.now, False)


def test_a_later_answer_does_not_decide_an_earlier_silence(busy_ledger: "Ledger") -> None:
    """After a lost answer, 429 says nothing about the first attempt: it stays undecided."""
    (claim,) = busy_ledger.claim()
    first = claim.first_attempt_at
    busy_ledger.settle(claim, Ambiguous("timeout"))
    busy_ledger.clock.advance(60)
    (claim,) = busy_ledger.claim()
    assert claim.undecided
    busy_ledger.settle(claim, Busy())
    assert (only(busy_ledger).state, only(busy_ledger).first_attempt_at) == ("ambiguous", first)
    busy_ledger.clock.advance(60)
    (claim,) = busy_ledger.claim()
    busy_ledger.settle(claim, Quarantined("customer", "gone"))
    assert only(busy_ledger).reason == (
        "customer: gone; an earlier attempt without an answer may have been applied"
    )


def test_past_the_window_a_unit_is_not_sent_again(busy_ledger: "Ledger", line: "LineOf") -> None:
    """20 hours after its first attempt an undecided unit, and so its lane, waits to be compared."""
    (claim,) = busy_ledger.claim()
    busy_ledger.settle(claim, Ambiguous("timeout"))
    busy_ledger.clock.advance(20 * HOUR_S - 1)
    (claim,) = busy_ledger.claim()
    busy_ledger.settle(claim, Ambiguous("timeout"))
    busy_ledger.append(line(event_name="used", quantity=100))
    busy_ledger.clock.advance(60)
    assert busy_ledger.claim() == []
    assert [unit.state for unit in busy_ledger.rows(UnitRow)] == ["ambiguous", "open"]
    with busy_ledger.database.transaction() as tx:
        resolution.settled(tx, [tx.session.get_one(UnitRow, claim.unit_id)])
    (following,) = busy_ledger.claim()
    assert following.quantity == 100


def test_a_lost_sender_past_the_window_leaves_a_doubt(busy_ledger: "Ledger") -> None:
    """Its unit may have been sent; nobody sends it again, and the lane rests."""
    busy_ledger.claim()
    busy_ledger.clock.advance(21 * HOUR_S)
    assert busy_ledger.claim() == []
    assert (only(busy_ledger).state, lane(busy_ledger).waiting) == ("ambiguous", False)


@pytest.mark.parametrize("skew_s", [1, -1])
def test_the_clock_that_makes_an_attempt_older_decides(
    busy_ledger: "Ledger", skew_s: float
) -> None:
    """Whichever of the two clocks is ahead, by hours: nothing is sent again past its window."""
    busy_ledger.limits = Limits(resend_s_max=72_000, skew_s=skew_s * 5 * HOUR_S)
    (claim,) = busy_ledger.claim()
    busy_ledger.settle(claim, Ambiguous("timeout"))
    busy_ledger.clock.advance(15 * HOUR_S)
    assert busy_ledger.claim() == []


def test_a_clock_that_is_set_back_makes_every_window_doubtful(busy_ledger: "Ledger") -> None:
    """Nobody knows then how long ago the first attempt was."""
    (claim,) = busy_ledger.claim()
    busy_ledger.settle(claim, Ambiguous("timeout"))
    busy_ledger.clock.advance(-61)
    assert busy_ledger.claim() == []
    busy_ledger.clock.advance(3600)
    assert busy_ledger.claim() == []
    assert only(busy_ledger).state == "ambiguous"


def test_usage_that_stripe_would_refuse_for_its_age_is_held(busy_ledger: "Ledger") -> None:
    """It is checked before the first byte; what was tried before goes on as undecided."""
    busy_ledger.limits = Limits(resend_s_max=72_000, late_s_max=35 * 24 * HOUR_S)
    busy_ledger.clock.advance(36 * 24 * HOUR_S)
    assert busy_ledger.claim() == []
    assert (only(busy_ledger).state, lane(busy_ledger).waiting) == ("held", False)
    assert "35 days" in str(only(busy_ledger).reason)


def test_usage_from_ahead_of_now_waits_until_it_is_time(busy_ledger: "Ledger") -> None:
    """Stripe takes five minutes; a wrong clock somewhere must not cost the usage."""
    busy_ledger.limits = Limits(resend_s_max=72_000, ahead_s_max=300, skew_s=-400)
    assert busy_ledger.claim() == []
    busy_ledger.clock.advance(101)
    (claim,) = busy_ledger.claim()
    assert claim.quantity == 3


def test_a_lost_sender_leaves_an_undecided_unit(busy_ledger: "Ledger") -> None:
    """When the lease ends without a verdict the unit may have been sent: same identifier again."""
    (lost,) = busy_ledger.claim()
    busy_ledger.clock.advance(59.9)
    assert busy_ledger.claim(owner="other") == []
    busy_ledger.clock.advance(0.1)
    (claim,) = busy_ledger.claim(owner="other")
    assert (claim.identifier, claim.undecided, claim.attempts) == (lost.identifier, True, 2)
    assert claim.first_attempt_at == lost.first_attempt_at
    assert claim.stripe_customer_id == "cus_acct_1"


def test_a_lost_sender_that_had_no_customer_sent_nothing(busy_ledger: "Ledger") -> None:
    """Without a bound customer the payload was never complete."""
    busy_ledger.claim(bind=False)
    busy_ledger.clock.advance(30 * HOUR_S)
    (claim,) = busy_ledger.claim()
    assert (claim.undecided, claim.first_attempt_at) == (False, busy_ledger.clock.now)


def test_a_verdict_that_comes_too_late_is_dropped(busy_ledger: "Ledger") -> None:
    """Once another sender has the unit, only that sender's verdict counts."""
    (late,) = busy_ledger.claim()
    busy_ledger.clock.advance(60)
    (claim,) = busy_ledger.claim(owner="other")
    assert not busy_ledger.settle(late, Quarantined("x", "y"))
    assert (only(busy_ledger).state, lane(busy_ledger).lease_owner) == ("sending", "other")
    assert busy_ledger.settle(claim, Accepted(duplicate=True))
    assert not busy_ledger.settle(claim, Accepted())


def test_a_late_verdict_of_the_same_claim_still_counts(busy_ledger: "Ledger") -> None:
    """If nobody took the lane meanwhile, the answer is as good as in time."""
    (late,) = busy_ledger.claim()
    busy_ledger.clock.advance(HOUR_S)
    assert busy_ledger.settle(late, Accepted())
    assert only(busy_ledger).state == "accepted"


def test_a_restarted_server_goes_on_at_once(busy_ledger: "Ledger") -> None:
    """`recover` frees the lanes of the process that was killed, without waiting for leases."""
    busy_ledger.claim()
    with busy_ledger.database.transaction() as tx:
        assert units.recover(tx) == 1
        assert units.recover(tx) == 0
    (claim,) = busy_ledger.claim(owner="restarted")
    assert claim.undecided


@pytest.mark.parametrize("verdict", [Accepted(), Busy(), Parked("no Stripe customer")])
def test_a_clock_that_was_ahead_for_a_moment_stops_no_lane(
    busy_ledger: "Ledger", line: "LineOf", verdict: Verdict
) -> None:
    """Once it is right again, what it wrote into a lane keeps nobody from sending."""
    busy_ledger.clock.advance(1000 * HOUR_S)
    (claim,) = busy_ledger.claim(bind=not isinstance(verdict, Parked))
    busy_ledger.settle(claim, verdict)
    busy_ledger.append(line(event_name="used"), line(event_name="each"))
    busy_ledger.clock.advance(-1000 * HOUR_S)
    assert {claim.event_name for claim in busy_ledger.claim()} == {"used", "each"}


def test_a_restart_sets_times_of_a_wrong_clock_anew(busy_ledger: "Ledger", line: "LineOf") -> None:
    """A lane served or blocked in the far future has its turn; a true pause is kept."""
    busy_ledger.append(line(event_name="each"))
    paused, ahead = busy_ledger.claim()
    busy_ledger.settle(paused, Busy(retry_after_s=9))
    busy_ledger.clock.advance(1000 * HOUR_S)
    busy_ledger.settle(ahead, Busy(retry_after_s=9))
    busy_ledger.clock.advance(-1000 * HOUR_S)
    with busy_ledger.database.transaction() as tx:
        assert units.recover(tx) == 0
    now = busy_ledger.clock.now
    assert [(row.leased_until, row.blocked_until) for row in busy_ledger.rows(LaneRow)] == [
        (now, now + timedelta(seconds=9)),
        (now, now),
    ]


def test_a_refused_key_pauses_the_account_and_burns_nothing(
    busy_ledger: "Ledger", line: "LineOf"
) -> None:
    """401 leaves every unit sealed, and nothing is claimed before the account is active again."""
    busy_ledger.append(line(event_name="each"))
    first, second = busy_ledger.claim()
    assert busy_ledger.settle(first, AccountPaused("Invalid API Key"))
    assert busy_ledger.settle(second, AccountPaused("Invalid API Key"))
    assert {unit.state for unit in busy_ledger.rows(UnitRow)} == {"sealed"}
    (account,) = busy_ledger.rows(StripeAccountRow)
    assert (account.state, account.reason) == ("paused", "Invalid API Key")
    assert busy_ledger.claim() == []
    with busy_ledger.database.transaction() as tx:
        tx.session.execute(update(table(StripeAccountRow)).values(state="active"))
    assert len(busy_ledger.claim()) == 2


def test_a_bound_customer_stays_for_ever(busy_ledger: "Ledger") -> None:
    """The database refuses to send the same identifier for somebody else."""
    (claim,) = busy_ledger.claim()
    with (
        pytest.raises(IntegrityError, match="never changes"),
        busy_ledger.database.transaction() as tx,
    ):
        units.bind_customer(tx, claim, "cus_other")


def test_counts_for_the_status(busy_ledger: "Ledger", line: "LineOf") -> None:
    """`pending` is what is still to be sent, `summary` how many are in which state."""
    busy_ledger.append(line(event_name="each"), line(event_name="each"))
    with busy_ledger.database.reading() as tx:
        assert units.pending(tx) == 3
    for claim in busy_ledger.claim():
        busy_ledger.settle(claim, Accepted())
    with busy_ledger.database.reading() as tx:
        assert units.pending(tx) == 1
        summary = units.summary(tx, busy_ledger.organization_id)
    assert summary == {"accepted": 2, "sealed": 1}


def test_transitions_lead_between_known_states() -> None:
    """Every step starts and ends in a state of the table; what is given up is never left."""
    starts = {state for state, _ in TRANSITIONS}
    assert starts | set(TRANSITIONS.values()) == set(UNIT_STATES)
    assert not starts & {"reissued", "written_off"}
    assert {step for state, step in TRANSITIONS if state == "settled"} == {"reject", "reissue"}


def test_a_step_that_does_not_exist_is_our_mistake(busy_ledger: "Ledger") -> None:
    """An open unit cannot be accepted."""
    with pytest.raises(KeyError):
        advance(only(busy_ledger), "accept")


def test_a_backlog_is_claimed_through_indexes(busy_ledger: "Ledger") -> None:
    """The partial indexes serve the queries that find the next unit."""
    if busy_ledger.database.dialect != "sqlite":
        pytest.skip("PostgreSQL chooses by statistics, which a small table does not have")
    for condition, index in [(units._UNDECIDED, "undecided"), (PENDING, "pending")]:
        statement = select(UnitRow).where(col(UnitRow.lane_id) == 1, condition)
        with busy_ledger.database.reading() as tx:
            engine = tx.session.get_bind()
            compiled = statement.compile(engine, compile_kwargs={"render_postcompile": True})
            plan = tx.session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", (1,))
            assert f"USING INDEX ix_unit_{index}" in plan.one().detail


def test_leases_do_not_outlive_the_hour(busy_ledger: "Ledger") -> None:
    """A lease is exactly as long as asked for."""
    busy_ledger.claim()
    assert lane(busy_ledger).leased_until == busy_ledger.clock.now + timedelta(seconds=60)
    assert only(busy_ledger).quantity == Decimal(3)


def test_where_nothing_can_be_compared_accepted_is_settled(busy_ledger: "Ledger") -> None:
    """The sink's word is all there will be, and the lane's sum has it."""
    (claim,) = busy_ledger.claim()
    with busy_ledger.database.transaction() as tx:
        units.settle_all(tx, [(claim, Accepted())], final=True)
    assert only(busy_ledger).state == "settled"
    assert lane(busy_ledger).settled == Decimal(3)


def test_servers_whose_clocks_differ_do_not_doubt_each_other(busy_ledger: "Ledger") -> None:
    """What counts is Stripe's clock, which both know: no window becomes doubtful."""
    busy_ledger.limits = Limits(resend_s_max=72_000, skew_s=-600)
    (claim,) = busy_ledger.claim()
    busy_ledger.settle(claim, Ambiguous("timeout"))
    busy_ledger.clock.advance(-600 + 2)
    busy_ledger.limits = Limits(resend_s_max=72_000, skew_s=0)
    busy_ledger.clock.advance(0)
    with busy_ledger.database.transaction() as tx:
        tx.session.exec(update(LaneRow).values(blocked_until=tx.now))
    (claim,) = busy_ledger.claim()
    assert claim.undecided
