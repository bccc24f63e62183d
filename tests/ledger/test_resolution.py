"""What ends a unit's way or begins it anew, and what its lane knows afterwards."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from usageflow.db.session import Tx
from usageflow.db.tables import LaneRow, UnitRow
from usageflow.ledger import resolution
from usageflow.ledger.verdicts import Accepted, Ambiguous, Held, Parked, Quarantined, Verdict

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

Act = Callable[[Tx, UnitRow], object]


def unit_after(ledger: "Ledger", line: "LineOf", verdict: Verdict) -> UnitRow:
    """A unit of quantity 3 that this verdict was the last of."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used", quantity=3))
    (claim,) = ledger.claim(bind=not isinstance(verdict, Parked))
    ledger.settle(claim, verdict)
    (unit,) = ledger.rows(UnitRow)
    assert isinstance(unit, UnitRow)
    return unit


def act(ledger: "Ledger", unit: UnitRow, do: Act) -> None:
    """In a transaction of its own."""
    with ledger.database.transaction() as tx:
        do(tx, tx.session.get_one(UnitRow, unit.id))


def lane(ledger: "Ledger") -> LaneRow:
    """The only lane."""
    (found,) = ledger.rows(LaneRow)
    assert isinstance(found, LaneRow)
    return found


@pytest.mark.parametrize("verdict", [Accepted(), Ambiguous("timeout"), Held("why")])
def test_what_stripe_was_seen_to_have_is_settled(
    ledger: "Ledger", line: "LineOf", verdict: Verdict
) -> None:
    """However its way was, and its lane knows how much it was."""
    unit = unit_after(ledger, line, verdict)
    act(ledger, unit, lambda tx, found: resolution.settled(tx, [found]))
    (settled,) = ledger.rows(UnitRow)
    assert (settled.state, settled.reason) == ("settled", None)
    assert (lane(ledger).settled, lane(ledger).metered) == (Decimal(3), Decimal(3))
    assert not lane(ledger).waiting


def test_units_of_one_lane_are_settled_together(ledger: "Ledger", line: "LineOf") -> None:
    """Each is added once; a correction is no usage."""
    ledger.connect(each="count")
    ledger.append(*(line(event_name="each", quantity=n) for n in (1, 2)))
    for _ in range(2):
        (claim,) = ledger.claim()
        ledger.settle(claim, Accepted())
    with ledger.database.transaction() as tx:
        corrected = resolution.correct(
            tx,
            tx.session.get_one(LaneRow, lane(ledger).id),
            stripe_customer_id="cus_acct_1",
            occurred_at=tx.now,
            quantity=Decimal(-5),
            reason="counted twice",
        )
        assert (corrected.kind, corrected.state) == ("correction", "sealed")
    (claim,) = ledger.claim(bind=False)
    assert (claim.quantity, claim.stripe_customer_id) == (Decimal(-5), "cus_acct_1")
    ledger.settle(claim, Accepted())
    with ledger.database.transaction() as tx:
        resolution.settled(tx, tx.session.exec(select(UnitRow)).all())
    assert (lane(ledger).settled, lane(ledger).metered) == (Decimal(3), Decimal(3))


def test_a_reissue_is_another_unit_with_the_same_quantity(ledger: "Ledger", line: "LineOf") -> None:
    """It has an identifier of its own and is looked up anew; the first is done with."""
    unit = unit_after(ledger, line, Quarantined("customer_not_found", "gone"))
    act(ledger, unit, lambda tx, found: resolution.reissue(tx, found, reason="gone"))
    first, second = ledger.rows(UnitRow)
    assert (first.state, second.state, second.kind) == ("reissued", "sealed", "reissue")
    assert (second.parent_id, second.quantity, second.sequence) == (first.id, 3, 2)
    assert (second.stripe_customer_id, second.events) == (None, 0)
    assert second.identifier != first.identifier
    (claim,) = ledger.claim()
    assert (claim.unit_id, claim.undecided) == (second.id, False)


def test_a_reissue_may_be_told_for_another_time(ledger: "Ledger", line: "LineOf") -> None:
    """What is too old for Stripe is carried forward, into the slot of that hour."""
    unit = unit_after(ledger, line, Held("too old"))
    later = ledger.clock.now + timedelta(days=40)
    act(
        ledger,
        unit,
        lambda tx, found: resolution.reissue(tx, found, reason="carried", occurred_at=later),
    )
    _, carried = ledger.rows(UnitRow)
    assert (carried.occurred_at, carried.sequence) == (later, 2)


def test_a_correction_that_is_reissued_stays_a_correction(ledger: "Ledger", line: "LineOf") -> None:
    """It never becomes usage, nor another customer's."""
    unit_after(ledger, line, Accepted())
    with ledger.database.transaction() as tx:
        correction = resolution.correct(
            tx,
            tx.session.get_one(LaneRow, lane(ledger).id),
            stripe_customer_id="cus_acct_1",
            occurred_at=tx.now,
            quantity=Decimal(1),
            reason="lost",
        )
    (claim,) = ledger.claim(bind=False)
    ledger.settle(claim, Quarantined("x", "y"))
    (unit,) = [one for one in ledger.rows(UnitRow) if one.id == claim.unit_id]
    act(ledger, unit, lambda tx, found: resolution.reissue(tx, found, reason="again"))
    assert [one.kind for one in ledger.rows(UnitRow)] == ["usage", "correction", "correction"]
    assert ledger.rows(UnitRow)[-1].stripe_customer_id == "cus_acct_1"
    assert correction is not None


@pytest.mark.parametrize("verdict", [Quarantined("no_meter", "none"), Held("why")])
def test_what_was_never_taken_may_go_out_as_it_is(
    ledger: "Ledger", line: "LineOf", verdict: Verdict
) -> None:
    """With the same identifier, as if for the first time."""
    unit = unit_after(ledger, line, verdict)
    act(ledger, unit, resolution.send_again)
    (claim,) = ledger.claim()
    assert (claim.identifier, claim.undecided) == (unit.identifier, False)


def test_what_stripe_dropped_is_rejected(ledger: "Ledger", line: "LineOf") -> None:
    """The inbox has Stripe's code and words."""
    unit = unit_after(ledger, line, Accepted())
    act(ledger, unit, lambda tx, found: resolution.reject(tx, found, "archived_meter", "inactive"))
    (rejected,) = ledger.rows(UnitRow)
    assert (rejected.state, rejected.reason) == ("quarantined", "archived_meter: inactive")


@pytest.mark.parametrize("again", [True, False], ids=["reissued", "rejected"])
def test_stripes_word_ends_even_what_was_settled(
    ledger: "Ledger", line: "LineOf", again: object
) -> None:
    """A sum may have shown a unit that Stripe dropped later: its lane has it no longer settled."""
    unit = unit_after(ledger, line, Accepted())
    act(ledger, unit, lambda tx, found: resolution.settled(tx, [found]))
    if again:
        act(ledger, unit, lambda tx, found: resolution.reissue(tx, found, reason="gone"))
    else:
        act(ledger, unit, lambda tx, found: resolution.reject(tx, found, "no", "no"))
    assert (lane(ledger).settled, lane(ledger).metered) == (Decimal(0), Decimal(3))
    assert ledger.rows(UnitRow)[0].state == ("reissued" if again else "quarantined")


def test_an_ambiguous_unit_is_held_and_its_lane_goes_on(ledger: "Ledger", line: "LineOf") -> None:
    """A doubt that only a person can end keeps nothing else waiting."""
    unit = unit_after(ledger, line, Ambiguous("timeout"))
    ledger.append(line(event_name="used", quantity=5))
    ledger.clock.advance(60)
    act(ledger, unit, lambda tx, found: resolution.hold(tx, found, "3 or 6"))
    (claim,) = ledger.claim()
    assert claim.quantity == 5


@pytest.mark.parametrize("verdict", [Parked("who?"), Quarantined("x", "y"), Held("why")])
def test_what_nobody_will_pay_is_written_off(
    ledger: "Ledger", line: "LineOf", verdict: Verdict
) -> None:
    """It is never sent, and says why."""
    unit = unit_after(ledger, line, verdict)
    act(ledger, unit, lambda tx, found: resolution.write_off(tx, found, "a test customer"))
    (written_off,) = ledger.rows(UnitRow)
    assert (written_off.state, written_off.reason) == ("written_off", "a test customer")
    ledger.clock.advance(7200)
    assert ledger.claim() == []


def test_what_was_accepted_cannot_be_written_off(ledger: "Ledger", line: "LineOf") -> None:
    """Stripe has it: only a correction could take it back."""
    unit = unit_after(ledger, line, Accepted())
    with pytest.raises(KeyError):
        act(ledger, unit, lambda tx, found: resolution.write_off(tx, found, "oops"))


def test_the_payload_of_a_unit_stays_what_it_was(ledger: "Ledger", line: "LineOf") -> None:
    """The database refuses another kind or parent, as it refuses another quantity."""
    unit = unit_after(ledger, line, Accepted())

    def change(tx: Tx, found: UnitRow) -> None:
        found.kind = "correction"
        tx.session.flush()

    with pytest.raises(IntegrityError, match="never changes"):
        act(ledger, unit, change)
