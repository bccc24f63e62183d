"""What a person can do about units, and what is refused."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.db.tables import AuditRow, LaneRow, StripeAccountRow, StripeMeterRow, UnitRow
from usageflow.ledger import resolution
from usageflow.stripe import remedies
from usageflow.stripe.remedies import Outcome

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

Stuck = Callable[..., str]
Remedy = Callable[..., Sequence[Outcome]]


@pytest.fixture
def stuck(way: "Way") -> Stuck:
    """`stuck("quarantined", ...)`: the identifier of a unit in this state, with these values."""

    def make(state: str, customer: str = "acct_1", **values: Any) -> str:
        way.use(1, customer=customer)
        values.setdefault("reason", "no_meter: No active meter found")
        with way.database.transaction() as tx:
            (unit,) = tx.session.exec(
                select(UnitRow)
                .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
                .where(
                    col(LaneRow.identity_value) == customer,
                    col(UnitRow.state).in_(["open", "sealed"]),
                )
            )
            unit.state = state
            unit.updated_at = tx.now
            for name, value in values.items():
                setattr(unit, name, value)
            return unit.identifier

    return make


@pytest.fixture
def apply(way: "Way") -> Remedy:
    """`apply(remedies.retry, identifier, ...)` in a transaction of its own."""

    def act(remedy: Remedy, *identifiers: str, **options: Any) -> Sequence[Outcome]:
        with way.database.transaction() as tx:
            return remedy(tx, way.organization_id, identifiers, actor="ada", **options)

    return act


def states(way: "Way") -> list[str]:
    """The state of every unit, in order."""
    return [unit.state for unit in way.units()]


def audited(way: "Way") -> list[tuple[str, str, str]]:
    """(actor, action, subject) of what was done."""
    with way.database.reading() as tx:
        rows = tx.session.exec(select(AuditRow).where(col(AuditRow.action).startswith("inbox.")))
        return [(row.actor, row.action, row.subject) for row in rows]


@pytest.mark.parametrize("state", ["quarantined", "held"])
def test_what_stripe_never_took_goes_out_as_it_is(
    way: "Way", stuck: Stuck, apply: Remedy, state: str
) -> None:
    """Under its own identifier, once the cause is mended."""
    identifier = stuck(state)
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    assert apply(remedies.retry, identifier) == [
        Outcome(identifier, True, "goes out again as it is")
    ]
    way.forward_all(way.forwarder())
    assert way.applied() == {("acct_1", "tokens"): "1"}
    assert [(unit.identifier, unit.state) for unit in way.units()] == [(identifier, "accepted")]
    assert audited(way) == [("ada", "inbox.retry", identifier)]


def test_what_stripe_dropped_goes_out_as_another(way: "Way", stuck: Stuck, apply: Remedy) -> None:
    """Its identifier is used up; Stripe said that it does not have it, so nothing is waited for."""
    now = way.clock.now
    identifier = stuck("quarantined", first_attempt_at=now, accepted_at=now)
    (outcome,) = apply(remedies.retry, identifier)
    old, new = way.units()
    assert outcome == Outcome(identifier, True, f"goes out again as {new.identifier}")
    assert (old.state, new.state, new.quantity) == ("reissued", "sealed", old.quantity)
    assert new.occurred_at == old.occurred_at


@pytest.mark.parametrize("state", ["quarantined", "held"])
def test_what_stripe_may_have_is_left_to_the_comparison(
    way: "Way", stuck: Stuck, apply: Remedy, state: str
) -> None:
    """However long ago it was: nobody can tell, and sending it again could bill it twice."""
    identifier = stuck(state, first_attempt_at=way.clock.now, stripe_customer_id="cus_1")
    for _ in range(2):
        (refused,) = apply(remedies.retry, identifier)
        assert not refused.done
        assert refused.told.startswith("Stripe may have it: comparing both sides settles it, or")
        way.clock.now += timedelta(days=1)
    assert (states(way), audited(way)) == ([state], [])


@pytest.mark.parametrize("state", ["quarantined", "held"])
def test_another_sink_knows_what_it_has(
    way: "Way", stuck: Stuck, apply: Remedy, state: str
) -> None:
    """It cannot be compared, but the same identifier counts once there."""
    identifier = stuck(state, first_attempt_at=way.clock.now)
    with way.database.transaction() as tx:
        tx.session.get_one(StripeAccountRow, way.account_id).kind = "cloudevents"
    (outcome,) = apply(remedies.retry, identifier)
    assert outcome == Outcome(identifier, True, "goes out again as it is")
    assert [(unit.identifier, unit.state) for unit in way.units()] == [(identifier, "sealed")]


def test_what_is_too_old_is_carried_over(way: "Way", stuck: Stuck, apply: Remedy) -> None:
    """As usage of now, and only then; what is not too old goes out again as usage of its time."""
    identifier = stuck("held", reason="too old: Stripe takes usage of the last 35 days")
    told = "Stripe still takes usage of its time; use `usageflow inbox retry`"
    assert apply(remedies.carry, identifier) == [Outcome(identifier, False, told)]
    way.clock.now += timedelta(days=35)
    told = "it is too old for Stripe; `usageflow inbox carry` makes it usage of now"
    assert apply(remedies.retry, identifier) == [Outcome(identifier, False, told)]
    (outcome,) = apply(remedies.carry, identifier)
    old, new = way.units()
    assert outcome == Outcome(identifier, True, f"is carried over as {new.identifier}")
    assert (old.state, new.occurred_at, new.quantity) == ("reissued", way.clock.now, old.quantity)
    assert audited(way) == [("ada", "inbox.carry", identifier)]


@pytest.mark.parametrize(("window", "quantity"), [("hour", "1"), (None, f"1{'0' * 20}")])
def test_what_can_never_be_told_is_not_tried(
    way: "Way", apply: Remedy, window: str | None, quantity: str
) -> None:
    """It would only be held once more; the way out is named. Another sink may take it."""
    way.use(quantity)
    with way.database.transaction() as tx:
        unit = tx.session.exec(select(UnitRow)).one()
        unit.state, identifier = "held", unit.identifier
        meter = StripeMeterRow(
            account_id=way.account_id,
            event_name="tokens",
            meter_id="mtr_1",
            formula="sum",
            status="active",
            event_time_window=window,
            refreshed_at=tx.now,
        )
        tx.session.add(meter)
    (outcome,) = apply(remedies.retry, identifier)
    assert outcome.told.startswith("cannot be sent: its ")
    assert outcome.told.endswith("; `usageflow inbox write-off` gives it up")
    way.clock.now += timedelta(days=35)
    assert apply(remedies.carry, identifier) == [outcome]
    assert states(way) == ["held"]
    with way.database.transaction() as tx:
        tx.session.get_one(StripeAccountRow, way.account_id).kind = "cloudevents"
    (outcome,) = apply(remedies.carry, identifier)
    assert outcome.done


def test_old_and_in_doubt_is_not_carried_over_blindly(
    way: "Way", stuck: Stuck, apply: Remedy
) -> None:
    """It may have arrived in its time."""
    identifier = stuck("held", first_attempt_at=way.clock.now, stripe_customer_id="cus_1")
    way.clock.now += timedelta(days=35)
    (outcome,) = apply(remedies.carry, identifier)
    assert not outcome.done
    assert states(way) == ["held"]


@pytest.mark.parametrize("state", ["parked", "quarantined", "held"])
def test_units_can_be_given_up(way: "Way", stuck: Stuck, apply: Remedy, state: str) -> None:
    """With the reason, for ever."""
    identifier = stuck(state)
    told = "is written off, and will never be billed"
    assert apply(remedies.write_off, identifier, reason="a test") == [
        Outcome(identifier, True, told)
    ]
    (unit,) = way.units()
    assert (unit.state, unit.reason) == ("written_off", "a test")
    assert audited(way) == [("ada", "inbox.write_off", identifier)]
    (again,) = apply(remedies.write_off, identifier, reason="a test")
    assert again == Outcome(identifier, False, "it is written off, and needs nobody")


def test_what_needs_nobody_is_left_alone(way: "Way", stuck: Stuck, apply: Remedy) -> None:
    """Parked units are tried again anyway; of the others a sentence says what they are."""
    parked, accepted = stuck("parked"), stuck("accepted", "acct_2")
    assert apply(remedies.retry, parked, accepted, "uf1_x", accepted) == [
        Outcome(
            parked,
            False,
            "it is parked, and tried again by itself; `usageflow inbox attach` says whose it is",
        ),
        Outcome(accepted, False, "it is accepted, and needs nobody"),
        Outcome("uf1_x", False, "there is no such unit"),
    ]
    assert (states(way), audited(way)) == (["parked", "accepted"], [])


def test_another_organizations_units_do_not_exist(way: "Way", stuck: Stuck) -> None:
    """Nobody can touch, or learn of, what is not theirs."""
    identifier = stuck("held")
    with way.database.transaction() as tx:
        (outcome,) = remedies.retry(tx, "another", [identifier], actor="eve")
        assert remedies.refused_with(tx, "another", "no_meter") == []
    assert outcome == Outcome(identifier, False, "there is no such unit")


def test_units_are_found_by_their_code(way: "Way", stuck: Stuck) -> None:
    """Exactly that code, however it is spelt."""
    refused = stuck("quarantined")
    stuck("quarantined", "acct_2", reason="no_meters: no")
    stuck("quarantined", "acct_3", reason="noXmeter: no")
    stuck("held", "acct_4", reason="no_meter: no")
    with way.database.reading() as tx:
        assert remedies.refused_with(tx, way.organization_id, "no_meter") == [refused]


def test_a_unit_that_was_rejected_later_can_be_retried(
    way: "Way", apply: Remedy, stuck: Stuck
) -> None:
    """The way it comes about: accepted, then dropped by Stripe's word."""
    now = way.clock.now
    identifier = stuck("accepted", first_attempt_at=now, accepted_at=now)
    with way.database.transaction() as tx:
        unit = tx.session.exec(select(UnitRow)).one()
        resolution.reject(tx, unit, "archived_meter", "The meter is archived.")
        assert remedies.refused_with(tx, way.organization_id, "archived_meter") == [identifier]
    (outcome,) = apply(remedies.retry, identifier)
    assert outcome.done
