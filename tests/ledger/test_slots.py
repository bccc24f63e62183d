"""What a slot holds, by what each state of a unit means for it."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import update
from sqlmodel import col, select

from usageflow.db.session import Tx
from usageflow.db.tables import ErrorReportRow, LaneRow, UnitRow
from usageflow.ledger import resolution, slots
from usageflow.ledger.slots import Holding, Series
from usageflow.ledger.verdicts import Accepted, Ambiguous, Held, Quarantined
from usageflow.periods import HOUR, hour_start

if TYPE_CHECKING:
    from tests.ledger.conftest import Clock, Ledger

LineOf = Callable[..., bytes]
CUSTOMER = "cus_acct_1"


def series(ledger: "Ledger", customer: str = CUSTOMER) -> Series:
    """What the customer's `used` are added up in."""
    return Series(ledger.organization_id, "account-1", customer, "used")


def holding(ledger: "Ledger", **options: Any) -> Any:
    """What this hour holds."""
    hour = hour_start(ledger.clock.now)
    with ledger.database.reading() as tx:
        found = slots.holdings(
            tx, series(ledger), [hour, hour + HOUR], **{"latest": False, **options}
        )
    assert found[hour + HOUR] == Holding(hour=hour + HOUR)
    return found[hour]


def send(ledger: "Ledger", line: bytes, verdict: Any) -> None:
    """Let one event become a unit with this verdict, once its lane does not pause any more."""
    ledger.clock.advance(60)
    ledger.append(line)
    (claim,) = ledger.claim()
    assert ledger.settle(claim, verdict)


def change(ledger: "Ledger", number: int, act: Callable[[Tx, UnitRow], Any]) -> None:
    """Do something with the unit of this number, in order of their making."""
    with ledger.database.transaction() as tx:
        units = tx.session.exec(select(UnitRow).order_by(col(UnitRow.id))).all()
        act(tx, units[number])


def test_what_stripe_took_is_counted(ledger: "Ledger", line: LineOf, clock: "Clock") -> None:
    """Settled or not; what was not sent, or is another customer's or meter's, is not there."""
    ledger.connect(used="sum", other="sum")
    send(ledger, line(quantity="1.5", event_name="used"), Accepted())
    change(ledger, 0, lambda tx, unit: resolution.settled(tx, [unit]))
    send(ledger, line(quantity=2, event_name="used"), Accepted())
    accepted_at = clock.now
    send(ledger, line(quantity=4, event_name="other"), Accepted())
    send(ledger, line(quantity=8, event_name="used", customer="acct_2"), Accepted())
    ledger.append(line(quantity=16, event_name="used"))
    assert holding(ledger) == Holding(
        hour=hour_start(clock.now),
        quantity=Decimal("3.5"),
        number=2,
        accepted=1,
        accepted_at=accepted_at,
    )


def test_what_may_be_there_or_should_be_gone_is_named(
    ledger: "Ledger", line: LineOf, clock: "Clock"
) -> None:
    """Sent without an answer, held after that, reissued, refused after a lost answer."""
    ledger.connect(used="sum")
    send(ledger, line(quantity=1, event_name="used"), Accepted())
    change(ledger, 0, lambda tx, unit: resolution.reissue(tx, unit, reason="in vain"))
    (claim,) = ledger.claim()
    assert ledger.settle(claim, Ambiguous("no answer"))
    change(ledger, 1, lambda tx, unit: resolution.hold(tx, unit, "?"))
    send(ledger, line(quantity=2, event_name="used"), Ambiguous("no answer"))
    found = holding(ledger)
    assert [(one.state, one.quantity, one.attempts) for one in found.members] == [
        ("reissued", 1, 1),
        ("held", 1, 1),
        ("ambiguous", 2, 1),
    ]
    assert (found.quantity, found.number, found.accepted) == (0, 0, 0)
    clock.advance(60)
    (claim,) = ledger.claim()
    assert holding(ledger).members[2].state == "sending"
    assert ledger.settle(claim, Quarantined("no", "No."))
    assert holding(ledger).members[2].state == "quarantined"


def test_what_was_certainly_never_sent_is_not_named(ledger: "Ledger", line: LineOf) -> None:
    """Refused or held before a byte of it left."""
    ledger.connect(used="sum")
    send(ledger, line(event_name="used"), Quarantined("no", "No."))
    send(ledger, line(event_name="used"), Held("no"))
    assert holding(ledger) == Holding(hour=hour_start(ledger.clock.now))


def correct(ledger: "Ledger", quantity: int) -> None:
    """Make a correction in the lane there is."""
    with ledger.database.transaction() as tx:
        resolution.correct(
            tx,
            tx.session.exec(select(LaneRow)).one(),
            stripe_customer_id=CUSTOMER,
            occurred_at=tx.now,
            quantity=Decimal(quantity),
            reason="too much",
        )


def test_corrections_stand_apart(ledger: "Ledger", line: LineOf, clock: "Clock") -> None:
    """They are no usage: first they come, then it is known when they came; or they are doubted."""
    ledger.connect(used="sum")
    send(ledger, line(quantity=3, event_name="used"), Accepted())
    correct(ledger, -1)
    correct(ledger, -2)
    assert holding(ledger).coming == -3
    clock.advance(1)
    (claim,) = ledger.claim()
    assert ledger.settle(claim, Accepted())
    found = holding(ledger)
    assert (found.coming, found.corrected_at, found.quantity) == (-2, clock.now, 3)
    assert (found.number, found.accepted) == (1, 2)
    (claim,) = ledger.claim()
    assert ledger.settle(claim, Ambiguous("no answer"))
    found = holding(ledger)
    assert (found.coming, [one.quantity for one in found.members]) == (None, [-2])


def test_the_latest_by_its_own_time(ledger: "Ledger", line: LineOf, clock: "Clock") -> None:
    """Not by when it was sent, and no correction."""
    ledger.connect(used="last")
    now = clock.now
    for quantity, minutes in ((1, 1), (9, 5), (2, 3)):
        moment = now + timedelta(minutes=minutes)
        send(ledger, line(quantity=quantity, event_name="used", occurred_at=moment), Accepted())
    assert holding(ledger).latest is None
    assert holding(ledger, latest=True).latest == (now + timedelta(minutes=5), 9)


def test_suspects_are_what_stripe_may_have_taken_then(
    ledger: "Ledger", line: LineOf, clock: "Clock"
) -> None:
    """From the first attempt to the answer; of the reports that leave something open."""
    ledger.connect(used="sum")
    now, hour = clock.now, hour_start(clock.now)
    ledger.append(line(event_name="used"))
    (claim,) = ledger.claim()
    clock.advance(10)
    assert ledger.settle(claim, Accepted())

    def suspects(start: int = 3, end: int = 4, **changes: Any) -> int:
        span = {"window_start": start, "window_end": end}
        moments = {name: now + timedelta(seconds=value) for name, value in span.items()}
        report(ledger, **{**moments, **changes})
        since = now - timedelta(days=1)
        with ledger.database.transaction() as tx:
            found = slots.suspects(tx, series(ledger), [hour], since=since)
            tx.session.delete(tx.session.exec(select(ErrorReportRow)).one())
        assert {codes for _, _, codes in found} <= {"{}"}
        return len(found)

    assert [suspects(10, 20), suspects(-5, 0), suspects(3, 4)] == [1, 1, 1]
    assert [suspects(11, 20), suspects(-5, -1)] == [0, 0]
    assert [suspects(event_name="used"), suspects(event_name="other")] == [1, 0]
    assert suspects(explained=1) == 0
    change(ledger, 0, lambda tx, unit: resolution.settled(tx, [unit]))
    assert suspects() == 0
    later = clock.now + timedelta(seconds=1)
    assert suspects(received_at=later) == 1
    clock.advance(1)
    with ledger.database.transaction() as tx:
        slots.confirm(tx, series(ledger), hour, [1])
    assert suspects(received_at=later) == 0


def report(ledger: "Ledger", **changes: Any) -> None:
    """Stripe tells that it dropped something."""
    known: dict[str, Any] = {
        "account_id": "account-1",
        "event_id": "evt_1",
        "event_name": None,
        "codes": "{}",
        "message": "?",
        "error_count": 1,
        "explained": 0,
        "state": "open",
    }
    with ledger.database.transaction() as tx:
        tx.session.add(ErrorReportRow(**{**known, "received_at": tx.now, **changes}))


def test_a_slot_is_settled_as_a_whole(ledger: "Ledger", line: LineOf) -> None:
    """As its units would be one by one: usage is added to its lane, and nothing else is touched."""
    ledger.connect(used="sum")
    hour = hour_start(ledger.clock.now)
    send(ledger, line(quantity="1.5", event_name="used"), Accepted())
    send(ledger, line(quantity="2.5", event_name="used"), Accepted())
    send(ledger, line(event_name="used", occurred_at=hour + HOUR), Accepted())
    send(ledger, line(event_name="used"), Ambiguous("no answer"))
    correct(ledger, -1)
    with ledger.database.transaction() as tx:
        tx.session.exec(update(UnitRow).where(col(UnitRow.id) == 5).values(state="accepted"))
    with ledger.database.transaction() as tx:
        assert slots.lock(tx, series(ledger), hour) == [1]
        slots.settle(tx, series(ledger), hour, [])
        assert not tx.session.exec(select(UnitRow).where(col(UnitRow.state) == "settled")).all()
        slots.settle(tx, series(ledger), hour, [1])
        assert slots.first_usage(tx, series(ledger), hour) == hour
    states = [unit.state for unit in ledger.rows(UnitRow)]
    assert states == ["settled", "settled", "accepted", "ambiguous", "settled"]
    assert [lane.settled for lane in ledger.rows(LaneRow)] == [4]
    with ledger.database.transaction() as tx:
        resolution.settled(tx, [tx.session.get_one(UnitRow, 3)])
    third, first = ledger.rows(UnitRow)[2], ledger.rows(UnitRow)[0]
    assert (first.state, first.reason) == (third.state, third.reason)
    assert [lane.settled for lane in ledger.rows(LaneRow)] == [5]
