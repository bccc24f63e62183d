"""Which slots are compared: those that may tell something, the most pressing first."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import select

from usageflow.db.tables import ErrorReportRow, ReconciliationRow, UnitRow
from usageflow.ledger import resolution, slots, unsettled
from usageflow.ledger.slots import Series
from usageflow.ledger.unsettled import CLOSED, EXPIRED, SUSPECT, Scope
from usageflow.ledger.verdicts import Accepted, Ambiguous, Quarantined
from usageflow.periods import HOUR, hour_start

if TYPE_CHECKING:
    from tests.ledger.conftest import Clock, Ledger

LineOf = Callable[..., bytes]


class Shelf:
    """Units of several customers and hours, and what of them is due."""

    def __init__(self, ledger: "Ledger", line: LineOf) -> None:
        self.ledger, self.line, self.clock = ledger, line, ledger.clock
        self.noon = hour_start(ledger.clock.now)
        ledger.connect(used="sum", other="sum")

    def put(
        self, customer: str, hours_ago: int, verdict: Any = None, event_name: str = "used"
    ) -> None:
        """A unit of this customer, with this verdict; accepted by default."""
        moment = self.noon - hours_ago * HOUR
        self.ledger.append(self.line(customer=customer, event_name=event_name, occurred_at=moment))
        (claim,) = self.ledger.claim()
        assert self.ledger.settle(claim, verdict or Accepted())

    def scope(self, **changes: Any) -> Scope:
        """Everything of hours before the last three, at noon, whenever it was sent."""
        known = {
            "organization_id": self.ledger.organization_id,
            "account_id": "account-1",
            "now": self.clock.now,
            "closed": self.noon - 2 * HOUR,
            "quiet": self.clock.now,
            "patience": self.clock.now - timedelta(hours=23),
        }
        return Scope(**{**known, **changes})

    def due(self, limit: int = 100, **changes: Any) -> list[tuple[str, str, int, int]]:
        """(customer, event name, rank, hours ago) of what is due."""
        with self.ledger.database.reading() as tx:
            found = unsettled.due(tx, self.scope(**changes), limit)
        return [
            (
                one.series.stripe_customer_id.removeprefix("cus_"),
                one.series.event_name,
                one.rank,
                (self.noon - one.first) // HOUR,
            )
            for one in found
        ]

    def hours(self, customer: str) -> list[int]:
        """How many hours ago the slots of a customer are that are due."""
        series = Series(self.ledger.organization_id, "account-1", f"cus_{customer}", "used")
        with self.ledger.database.reading() as tx:
            found = unsettled.due_hours(tx, self.scope(), series)
            return [(self.noon - hour) // HOUR for hour in found]

    def differ(self, customer: str, hours_ago: int, **changes: Any) -> None:
        """The slot has an open difference, which is looked at now."""
        known = {
            "organization_id": self.ledger.organization_id,
            "account_id": "account-1",
            "stripe_customer_id": f"cus_{customer}",
            "event_name": "used",
            "hour": self.noon - hours_ago * HOUR,
            "expected": Decimal(1),
            "observed": Decimal(0),
            "classification": "rejected",
            "reason": "?",
            "state": "open",
        }
        with self.ledger.database.transaction() as tx:
            times = dict.fromkeys(("first_seen_at", "observed_at", "checked_at"), tx.now)
            tx.session.add(ReconciliationRow(**{**known, **times, **changes}))

    def reject(self) -> None:
        """Stripe says that it dropped every unit of ours."""
        with self.ledger.database.transaction() as tx:
            for unit in tx.session.exec(select(UnitRow)).all():
                resolution.reject(tx, unit, "no", "No.")

    def report(self, event_name: str | None, at: datetime) -> None:
        """Stripe dropped something in the minute around this moment, and says so now."""
        with self.ledger.database.transaction() as tx:
            tx.session.add(
                ErrorReportRow(
                    account_id="account-1",
                    event_id="evt_1",
                    event_name=event_name,
                    codes="{}",
                    message="?",
                    error_count=1,
                    explained=0,
                    window_start=at - timedelta(seconds=30),
                    window_end=at + timedelta(seconds=30),
                    state="open",
                    received_at=tx.now,
                )
            )

    def is_suspected(self) -> bool:
        """Whether something is left to compare for the report."""
        with self.ledger.database.reading() as tx:
            return unsettled.is_suspected(tx, self.scope(), "evt_1")


@pytest.fixture
def shelf(ledger: "Ledger", line: LineOf) -> Shelf:
    """An empty one."""
    return Shelf(ledger, line)


def test_closed_hours_are_due_until_they_are_settled(shelf: Shelf) -> None:
    """The oldest first; each customer and meter once, with all its hours."""
    shelf.put("a", 3)
    shelf.put("b", 5)
    shelf.put("a", 4)
    shelf.put("a", 2)
    shelf.put("a", 3, event_name="other")
    assert shelf.due() == [
        ("b", "used", CLOSED, 5),
        ("a", "used", CLOSED, 4),
        ("a", "other", CLOSED, 3),
    ]
    assert shelf.due(1) == [("b", "used", CLOSED, 5)]
    assert shelf.hours("a") == [4, 3]
    with shelf.ledger.database.transaction() as tx:
        resolution.settled(tx, tx.session.exec(select(UnitRow)).all())
    assert shelf.due() == []


def test_what_holds_up_a_lane_is_first(shelf: Shelf) -> None:
    """Once its window is over, whatever its hour."""
    shelf.put("a", 5)
    shelf.put("b", 1, Ambiguous("no answer"))
    assert shelf.due() == [("a", "used", CLOSED, 5)]
    shelf.clock.advance(72_000)
    assert shelf.due() == [("b", "used", EXPIRED, 1), ("a", "used", CLOSED, 5)]


def test_a_held_unit_is_due_if_it_was_sent(shelf: Shelf) -> None:
    """It may still be decided; but once it was looked at twice, once a day."""
    shelf.put("a", 5, Ambiguous("no answer"))
    with shelf.ledger.database.transaction() as tx:
        resolution.hold(tx, tx.session.exec(select(UnitRow)).one(), "?")
    assert shelf.due(quiet=shelf.clock.now - timedelta(seconds=1)) == []
    assert shelf.due() == [("a", "used", CLOSED, 5)]
    shelf.differ("a", 5, classification="unsettled")
    assert shelf.due() == [("a", "used", CLOSED, 5)]
    with shelf.ledger.database.transaction() as tx:
        row = tx.session.exec(select(ReconciliationRow)).one()
        row.observed_at = tx.now - timedelta(seconds=1)
    assert shelf.due() == []
    shelf.clock.advance(23 * 3_600)
    assert shelf.due() == [("a", "used", CLOSED, 5)]


def test_what_was_refused_after_a_lost_answer_is_due(shelf: Shelf) -> None:
    """Stripe may have it; but neither what it never took, nor what it says it dropped."""
    shelf.put("a", 5, Ambiguous("no answer"))
    shelf.put("b", 5, Quarantined("no", "No."))
    shelf.put("c", 5)
    with shelf.ledger.database.transaction() as tx:
        (accepted,) = tx.session.exec(select(UnitRow).where(UnitRow.state == "accepted"))
        resolution.reject(tx, accepted, "no", "No.")
    shelf.clock.advance(600)
    (claim,) = shelf.ledger.claim()
    assert shelf.ledger.settle(claim, Quarantined("no", "No."))
    assert shelf.due() == [("a", "used", CLOSED, 5)]


@pytest.mark.parametrize(
    "changes",
    [{"classification": "foreign"}, {"classification": "unsettled", "proposal": "unit"}],
)
def test_a_difference_for_a_person_is_left_alone(shelf: Shelf, changes: dict[str, Any]) -> None:
    """For a day, if it is open, and can only be ended by a person."""
    shelf.put("a", 5)
    shelf.differ("a", 5, **changes)
    assert shelf.due() == []
    assert shelf.due(patience=shelf.clock.now) == [("a", "used", CLOSED, 5)]


@pytest.mark.parametrize(
    ("hours_ago", "changes"),
    [
        (5, {"classification": "unsettled"}),
        (5, {"classification": "late"}),
        (5, {"state": "applied"}),
        (5, {"state": "dismissed"}),
        (5, {"state": "resolved"}),
        (4, {}),
    ],
)
def test_other_differences_are_looked_at_each_time(
    shelf: Shelf, hours_ago: int, changes: dict[str, Any]
) -> None:
    """They may end by themselves, or are of another slot."""
    shelf.put("a", 5)
    shelf.differ("a", hours_ago, **changes)
    assert shelf.due() == [("a", "used", CLOSED, 5)]


def test_a_slot_is_due_once_nothing_comes_any_more(shelf: Shelf) -> None:
    """Stripe's sums do not show what it took a moment ago; other slots need not wait for that."""
    shelf.put("a", 5)
    shelf.differ("a", 5, classification="late")
    shelf.put("a", 4)
    shelf.clock.advance(600)
    shelf.put("a", 5)
    quiet = shelf.clock.now - timedelta(seconds=1)
    assert shelf.due(quiet=quiet) == [("a", "used", CLOSED, 4)]
    assert shelf.due(quiet=shelf.clock.now) == [("a", "used", CLOSED, 5)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"classification": "late"}, {"state": "applied"}, {"state": "dismissed"}],
)
def test_a_slot_that_something_went_from_is_looked_at_once(
    shelf: Shelf, changes: dict[str, Any]
) -> None:
    """What was seen before is no more, though nothing is left that could be settled."""
    shelf.put("a", 5)
    shelf.put("a", 0)
    shelf.differ("a", 5, **changes)
    shelf.differ("a", 0, **changes)
    shelf.clock.advance(1)
    shelf.reject()
    assert shelf.hours("a") == [5]
    assert shelf.due(since=shelf.noon - 4 * HOUR) == []
    assert shelf.due(account_id="account-2") == []
    shelf.clock.advance(1)
    with shelf.ledger.database.transaction() as tx:
        for row in tx.session.exec(select(ReconciliationRow)):
            row.checked_at = tx.now
    assert shelf.due() == []


def test_what_went_from_another_slot_is_no_matter(shelf: Shelf) -> None:
    """Of another meter, customer or hour."""
    shelf.put("a", 4)
    shelf.put("b", 5)
    shelf.put("a", 5, event_name="other")
    shelf.clock.advance(1)
    shelf.differ("a", 5)
    shelf.clock.advance(1)
    shelf.reject()
    assert shelf.due() == []


@pytest.mark.parametrize(("state", "hours"), [("open", [5]), ("applied", [5]), ("dismissed", [])])
def test_an_open_difference_is_looked_at_once_a_day(
    shelf: Shelf, state: str, hours: list[int]
) -> None:
    """Even of a slot that is settled, for Stripe may have told that it dropped something."""
    shelf.put("a", 5)
    with shelf.ledger.database.transaction() as tx:
        resolution.settled(tx, tx.session.exec(select(UnitRow)).all())
    shelf.differ("a", 5, state=state)
    assert shelf.due() == []
    shelf.clock.advance(23 * 3_600)
    assert shelf.hours("a") == hours


def test_only_what_is_asked_for(shelf: Shelf) -> None:
    """Of this account and organization, from a time on."""
    shelf.put("a", 5)
    shelf.put("a", 3)
    assert shelf.due(since=shelf.noon - 4 * HOUR) == [("a", "used", CLOSED, 3)]
    assert shelf.due(account_id="account-2") == []
    assert shelf.due(organization_id="another") == []


def test_suspects_are_due_before_their_hour_is_over(shelf: Shelf, clock: "Clock") -> None:
    """Those of the report's time and meter, until they are compared."""
    shelf.put("a", 0)
    shelf.put("b", 0, event_name="other")
    sent_at = clock.now
    clock.advance(300)
    shelf.put("c", 0)
    shelf.report("used", sent_at)
    assert shelf.due() == [("a", "used", SUSPECT, 0)]
    assert shelf.hours("a") == [0]
    assert shelf.is_suspected()
    shelf.differ("a", 0, checked_at=clock.now - timedelta(seconds=1))
    assert shelf.is_suspected()
    clock.advance(60)
    with shelf.ledger.database.transaction() as tx:
        tx.session.exec(select(ReconciliationRow)).one().checked_at = tx.now
    assert not shelf.is_suspected()
    assert shelf.due() == []


def test_what_was_settled_before_a_report_is_suspect_too(shelf: Shelf, clock: "Clock") -> None:
    """Until Stripe was seen to have it still."""
    shelf.put("a", 3)
    sent_at = clock.now
    with shelf.ledger.database.transaction() as tx:
        resolution.settled(tx, tx.session.exec(select(UnitRow)).all())
    assert shelf.due() == []
    clock.advance(60)
    shelf.report("used", sent_at)
    assert shelf.due() == [("a", "used", SUSPECT, 3)]
    assert shelf.is_suspected()
    clock.advance(60)
    series = Series(shelf.ledger.organization_id, "account-1", "cus_a", "used")
    with shelf.ledger.database.transaction() as tx:
        slots.confirm(tx, series, shelf.noon - 3 * HOUR, [1])
    assert shelf.due() == []
    assert not shelf.is_suspected()


def test_a_report_without_a_meter_may_mean_any(shelf: Shelf, clock: "Clock") -> None:
    """Whatever was accepted in its time."""
    shelf.put("a", 0)
    shelf.put("b", 0, event_name="other")
    shelf.report(None, clock.now)
    assert [customer for customer, *_ in shelf.due()] == ["a", "b"]
