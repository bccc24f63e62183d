"""Ledger and Stripe are compared: every drift is found and classified, and none is made up."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from usageflow.db.tables import (
    AuditRow,
    ErrorReportRow,
    LaneRow,
    ReconciliationRow,
    StripeMeterRow,
)
from usageflow.errors import DeliveryError
from usageflow.ledger import resolution
from usageflow.periods import HOUR, hour_start
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_events import MeterEvent
from usageflow.stripe.reconciliation import Report, reconcile

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

H = 3_600.0
DAY_H = 24


class Desk:
    """Somebody who compares: the steps that these tests repeat."""

    def __init__(self, way: "Way") -> None:
        self.way = way
        # A full hour, so that no test crosses the end of one by chance.
        way.pass_time((hour_start(way.clock.now) + HOUR - way.clock.now).total_seconds())
        others = [{"event_name": name, "formula": name} for name in ("count", "last")]
        (self.customer,) = way.emulator.seed([{"account_id": "acct_1"}], ["tokens", *others])
        self.forwarder = way.forwarder()

    def send(self, *quantities: str | int, **changes: Any) -> None:
        """Use, and send all of it, each quantity as a unit of its own."""
        for quantity in quantities:
            self.way.use(quantity, **changes)
            self.way.forward(self.forwarder)

    def lose(self, quantity: str | int, *, arrives: bool, **changes: Any) -> None:
        """Use and send, but no answer comes, and none will: the server is away for a day."""
        self.way.use(quantity, **changes)
        self.way.emulator.fault("reset", after_commit=arrives)
        self.way.forward(self.forwarder)

    def compare(self, reads_per_day: int = 100, **options: Any) -> Report:
        """Compare what is due."""
        way = self.way
        return reconcile(
            way.database, way.account_id, way.gateway, reads_per_day=reads_per_day, **options
        )

    def later(self, hours: float, **options: Any) -> Report:
        """Let hours pass, and compare what is due then."""
        self.way.pass_time(hours * H)
        return self.compare(**options)

    def differences(self) -> list[Any]:
        """Every difference, in order."""
        with self.way.database.reading() as tx:
            rows = select(ReconciliationRow).order_by(col(ReconciliationRow.id))
            found = list(tx.session.exec(rows))
            tx.session.expunge_all()
        return found

    def difference(self) -> Any:
        """The one difference there is."""
        (found,) = self.differences()
        return found

    def foreign(self, value: str | int, at: datetime | None = None) -> None:
        """Something else writes to the meter."""
        moment = at or self.way.clock.now
        event = MeterEvent(
            event_name="tokens",
            identifier=f"foreign-{value}-{moment:%H%M%S%f}",
            timestamp=int(moment.timestamp()),
            payload={"stripe_customer_id": self.customer, "value": str(value)},
        )
        self.way.gateway.send_meter_event(event)

    def drop(self, *, identifier: str | None = None, count: int = 1, samples: int = 5) -> None:
        """Let the next meter events be dropped after they are accepted, and hardly be named."""
        code = "meter_event_invalid_value"
        self.way.emulator.set(rejection_samples=samples)
        self.way.emulator.reject(identifier=identifier, count=count, code=code)

    def states(self) -> list[str]:
        """The states of all units, in order."""
        return [state for state, _ in self.way.states()]

    def audited(self) -> list[str]:
        """What was done, in order."""
        with self.way.database.reading() as tx:
            return list(tx.session.exec(select(AuditRow.action).order_by(col(AuditRow.seq))))


@pytest.fixture
def desk(way: "Way") -> Desk:
    """A customer, three meters, and somebody who compares."""
    return Desk(way)


def test_what_stripe_has_is_settled(desk: Desk) -> None:
    """Two hours after the hour, with one read, and never read again; its lane knows the sum."""
    desk.send(3, "4.5")
    assert desk.later(2).reads == 0
    report = desk.later(1)
    assert (report.reads, report.compared, report.agreed) == (1, 1, 1)
    assert desk.states() == ["settled", "settled"]
    with desk.way.database.reading() as tx:
        (lane,) = tx.session.exec(select(LaneRow))
        assert (lane.metered, lane.settled) == (Decimal("7.5"), Decimal("7.5"))
    assert desk.later(1).reads == 0
    assert desk.differences() == []


def test_a_drift_of_one_is_found_by_the_first_comparison(desk: Desk) -> None:
    """As soon as the hour is over for two hours; as foreign, since nothing of ours is undecided."""
    desk.send(*(3,) * 5)
    desk.foreign(1)
    report = desk.later(3)
    assert (report.compared, report.differed) == (1, 1)
    found = desk.difference()
    assert (found.classification, found.expected, found.observed) == ("foreign", 15, 16)
    assert (found.proposal, found.quantity) == ("unit", -1)
    assert (found.state, found.stripe_customer_id) == ("open", desk.customer)
    assert set(desk.states()) == {"accepted"}


def test_a_lag_is_no_alarm(desk: Desk) -> None:
    """What Stripe counts late is told as late, proposed to nobody, and settled when it is there."""
    desk.way.emulator.set(summary_lag_s=4 * H)
    desk.send(3, 4)
    assert desk.later(3).differed == 1
    found = desk.difference()
    assert (found.classification, found.observed, found.proposal) == ("late", 0, None)
    assert desk.later(1).agreed == 1
    assert (desk.difference().state, desk.states()) == ("resolved", ["settled"] * 2)


def test_what_was_dropped_is_found_without_a_report(desk: Desk) -> None:
    """It is late for a day, then rejected; the missing quantity is proposed."""
    desk.send(3)
    desk.drop()
    desk.send(4)
    desk.later(3)
    assert desk.difference().classification == "late"
    desk.later(DAY_H)
    found = desk.difference()
    assert (found.classification, found.proposal, found.quantity) == ("rejected", "unit", 4)


def test_an_unanswered_unit_that_did_not_arrive_is_reissued(desk: Desk) -> None:
    """After its window, when two readings agree; the new one has another identifier."""
    desk.send(3)
    desk.lose(4, arrives=False)
    assert desk.later(23).decided == 0
    assert desk.difference().reason.endswith("it is looked at once more before anything is done")
    assert desk.later(0.25).decided == 0
    assert desk.later(0.25).decided == 1
    assert desk.states() == ["accepted", "reissued", "sealed"]
    assert desk.difference().state == "resolved"
    desk.way.forward(desk.forwarder)
    assert desk.way.applied() == {("acct_1", "tokens"): "7"}
    assert desk.later(3).agreed == 1
    assert desk.states() == ["settled", "reissued", "settled"]
    assert desk.audited()[-1:] == ["reconciliation.reissue"]


def test_an_unanswered_unit_that_arrived_is_settled(desk: Desk) -> None:
    """Nothing is sent again, and its lane goes on."""
    desk.send(3)
    desk.lose(4, arrives=True)
    desk.way.use(5)
    desk.later(23)
    desk.way.forward(desk.forwarder)
    assert desk.states() == ["accepted", "ambiguous", "open"]
    assert desk.later(0.5).decided == 1
    assert desk.states() == ["accepted", "settled", "open"]
    desk.way.forward(desk.forwarder)
    assert desk.later(3).agreed == 1
    assert desk.states() == ["settled"] * 3
    assert desk.way.applied() == {("acct_1", "tokens"): "12"}


@pytest.mark.parametrize(
    ("arrives", "became"), [(True, ["settled"]), (False, ["reissued", "sealed"])]
)
def test_what_was_refused_after_a_lost_answer_is_decided(
    desk: Desk, *, arrives: bool, became: list[str]
) -> None:
    """Stripe may have it from before: its sum tells, and nobody sends it again until then."""
    desk.send(3)
    desk.lose(4, arrives=arrives)
    desk.way.pass_time(60)
    desk.way.emulator.fault("status", status=400)
    desk.way.forward(desk.forwarder)
    assert desk.states() == ["accepted", "quarantined"]
    assert desk.later(1.9).reads == 0
    assert desk.later(1.1).differed == 1
    assert "without a known outcome" in desk.difference().reason
    assert desk.later(1).decided == 1
    assert desk.states() == ["accepted", *became]
    desk.way.forward(desk.forwarder)
    assert desk.later(2).agreed == 1
    assert desk.way.applied() == {("acct_1", "tokens"): "7"}


def test_several_refused_units_are_told_apart_or_corrected_as_one(desk: Desk) -> None:
    """5, or 3 and 2: nobody can tell which arrived, but how much is missing."""
    for quantity, arrives in [(10, True), (5, True), (3, False), (2, False)]:
        desk.lose(quantity, arrives=arrives)
        desk.way.pass_time(60)
        if quantity < 10:
            desk.way.emulator.fault("status", status=400)
        desk.way.forward(desk.forwarder)
    assert desk.states() == ["accepted"] + ["quarantined"] * 3
    for hours in (3, 1, 24):
        desk.later(hours)
    assert desk.states() == ["accepted"] + ["quarantined"] * 3
    assert (desk.difference().proposal, desk.difference().quantity) == ("unit", 5)


def test_within_the_window_nothing_is_decided(desk: Desk) -> None:
    """The unit may still be sent again, which decides it better."""
    desk.send(3)
    desk.lose(4, arrives=True)
    report = desk.later(3)
    assert (report.compared, report.differed, desk.differences()) == (1, 0, [])
    desk.way.forward(desk.forwarder)
    assert desk.later(2).agreed == 1
    assert desk.states() == ["settled"] * 2


def test_what_came_late_is_settled_late(desk: Desk) -> None:
    """Nothing is read while Stripe's sum of an hour that is long over may still be behind."""
    start = desk.way.clock.now
    desk.way.pass_time(5 * H)
    desk.send(3, occurred_at=start)
    assert (desk.compare().reads, desk.later(1.99).reads) == (0, 0)
    assert desk.later(0.01).agreed == 1
    assert desk.states() == ["settled"]


def test_what_nobody_can_decide_is_held(desk: Desk) -> None:
    """With the numbers in words; the rest of its lane goes on. After a day a sum is proposed."""
    desk.send(3)
    desk.lose(4, arrives=False)
    desk.foreign(2)
    desk.later(23)
    desk.later(0.5)
    assert desk.states() == ["accepted", "held"]
    found = desk.difference()
    assert (found.classification, found.expected, found.observed) == ("unsettled", 7, 5)
    assert "Stripe shows 5 (7 with, 3 without): which tells nothing" in found.reason
    assert found.proposal is None
    desk.send(1)
    desk.later(DAY_H)
    found = desk.differences()[0]
    assert (found.proposal, found.quantity) == ("unit", 2)
    assert desk.audited()[-1:] == ["reconciliation.hold"]


def test_a_held_unit_is_decided_once_the_sum_tells(desk: Desk) -> None:
    """Somebody mended the other side."""
    then = desk.way.clock.now
    desk.lose(4, arrives=False)
    desk.foreign(2)
    desk.later(23)
    desk.later(0.5)
    assert desk.states() == ["held"]
    desk.foreign(-2, at=then)
    desk.later(1, everything=True)
    assert desk.later(0.5, everything=True).decided == 1
    assert desk.states() == ["reissued", "sealed"]


def test_two_lanes_of_one_customer_are_one_sum(desk: Desk) -> None:
    """Two identities with undecided units of one Stripe customer are told apart by it."""
    desk.send(3, customer="acct_1")
    with desk.way.database.transaction() as tx:
        tx.session.exec(update(LaneRow).values(identity_value="acct_1"))
    desk.lose(4, arrives=True)
    desk.way.use(5, customer="acct_2")
    with desk.way.database.transaction() as tx:
        tx.session.exec(update(LaneRow).values(identity_value="acct_1"))
    desk.way.emulator.fault("reset", after_commit=False)
    desk.way.forward(desk.forwarder)
    assert desk.states() == ["accepted", "ambiguous", "ambiguous"]
    desk.later(23)
    assert desk.later(0.5).decided == 2
    assert desk.states() == ["accepted", "settled", "reissued", "sealed"]


def test_count_and_last_meters_are_compared_by_their_own_rule(desk: Desk) -> None:
    """A count has a number of units, a last value the newest one."""
    for event_name in ("count", "last"):
        desk.send(3, 8, 5, event_name=event_name)
    assert desk.later(3).agreed == 2
    assert set(desk.states()) == {"settled"}


def test_decimals_are_compared_as_far_as_a_float_tells(desk: Desk) -> None:
    """Sums whose float is not the decimal itself."""
    desk.send("0.1", "0.2", "0.000001", "1234567.89")
    assert desk.later(3).agreed == 1


def test_one_read_for_a_hundred_hours(desk: Desk) -> None:
    """Of a customer and meter; each slot on its own."""
    for _ in range(4):
        desk.send(2)
        desk.way.pass_time(H)
    desk.foreign(1, at=desk.way.clock.now - timedelta(hours=4))
    desk.send(2)
    desk.way.pass_time(110 * H)
    desk.send(2)
    report = desk.later(3)
    assert (report.reads, report.compared, report.differed) == (2, 6, 1)


def test_only_the_hours_asked_for(desk: Desk) -> None:
    """The others stay due."""
    desk.send(2)
    desk.way.pass_time(5 * H)
    since = hour_start(desk.way.clock.now)
    desk.send(2)
    assert desk.later(3, since=since).compared == 1
    assert desk.states() == ["accepted", "settled"]
    assert desk.compare().compared == 1


def test_a_difference_for_a_person_is_read_once_a_day(desk: Desk) -> None:
    """Unless a person asks."""
    desk.send(3)
    desk.foreign(1)
    assert desk.later(3).reads == 1
    assert desk.later(22).reads == 0
    assert desk.compare(everything=True).reads == 1
    assert desk.later(23).reads == 1


def test_reads_are_limited(desk: Desk) -> None:
    """What is left is told, and compared on another day; some are kept for what holds up a lane."""
    desk.way.emulator.seed([{"account_id": f"acct_{number}"} for number in range(2, 13)])
    for number in range(1, 12):
        desk.send(1, customer=f"acct_{number}")
    desk.lose(1, arrives=False, customer="acct_12")
    report = desk.later(3, reads_per_day=10)
    assert (report.reads, report.left) == (9, True)
    assert desk.compare(reads_per_day=10).reads == 0
    desk.later(DAY_H, reads_per_day=10)
    assert sorted(set(desk.states())) == ["ambiguous", "settled"]


def test_an_undecided_unit_is_compared_when_reads_are_used_up(desk: Desk) -> None:
    """It holds up its lane, so it comes first, and from what is kept."""
    desk.way.emulator.seed([{"account_id": "acct_2"}])
    desk.lose(1, arrives=False)
    desk.way.pass_time(23 * H)
    desk.send(1, customer="acct_2")
    desk.way.pass_time(3 * H)
    report = desk.compare(reads_per_day=1)
    assert (report.reads, report.left) == (1, True)
    assert desk.difference().classification == "unsettled"


def test_what_cannot_be_compared_is_told(desk: Desk) -> None:
    """A meter that nobody listed, or that keeps one event an hour; nothing is read for it."""
    desk.send(3)
    with desk.way.database.transaction() as tx:
        tx.session.exec(update(StripeMeterRow).values(event_time_window="hour"))
    report = desk.later(3)
    assert (report.reads, report.unread) == (
        0,
        {"tokens": "its meter keeps only the last event of each hour"},
    )
    with desk.way.database.transaction() as tx:
        for row in tx.session.exec(select(StripeMeterRow)):
            tx.session.delete(row)
    assert desk.compare().unread == {"tokens": "no meter of this event name was listed yet"}


def test_a_meter_that_stripe_does_not_know_stops_no_other(desk: Desk) -> None:
    """Its slots wait, the others are compared."""
    desk.send(3)
    desk.send(4, event_name="last")
    with desk.way.database.transaction() as tx:
        row = tx.session.get_one(StripeMeterRow, (desk.way.account_id, "last"))
        row.meter_id = "mtr_gone"
    report = desk.later(3)
    assert (report.reads, report.agreed) == (2, 1)
    assert list(report.unread) == [f"last of {desk.customer}"]


def test_stripe_cannot_be_asked(desk: Desk) -> None:
    """What was compared stands; the rest is told as an error, and no read is used up by it."""
    desk.send(3)
    desk.way.pass_time(3 * H)
    desk.way.emulator.fault("status", route="event_summaries", status=500)
    with pytest.raises(DeliveryError):
        desk.compare(reads_per_day=1)
    assert desk.compare(reads_per_day=1).agreed == 1


def test_a_change_in_between_leaves_the_slot_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is of a ledger that is no more: usage that came late is sent in the middle."""
    desk.send(3)
    desk.way.pass_time(3 * H)
    read = StripeGateway.event_summaries

    def slow(*args: Any) -> Iterator[tuple[datetime, Decimal]]:
        shown = list(read(*args))
        desk.send(4, occurred_at=desk.way.clock.now - 3 * HOUR)
        return iter(shown)

    with monkeypatch.context() as patch:
        patch.setattr(StripeGateway, "event_summaries", slow)
        assert desk.compare().compared == 0
    assert desk.states() == ["accepted"] * 2
    assert desk.later(2).agreed == 1


def test_two_servers_decide_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds that the first was there, and does nothing."""
    desk.lose(4, arrives=False)
    desk.later(23)
    desk.way.pass_time(0.5 * H)
    read = StripeGateway.event_summaries
    reports: list[Report] = []

    def both(*args: Any) -> Iterator[tuple[datetime, Decimal]]:
        shown = list(read(*args))
        if not reports:
            reports.append(Report())
            reports.append(desk.compare())
        return iter(shown)

    monkeypatch.setattr(StripeGateway, "event_summaries", both)
    assert desk.compare().compared == 0
    assert reports[1].decided == 1
    assert desk.states() == ["reissued", "sealed"]


def test_servers_that_compare_at_once_do_everything_once(desk: Desk) -> None:
    """Whoever is first decides; the others find it done."""
    desk.lose(4, arrives=False)
    desk.send(2, event_name="last")
    desk.later(23)
    desk.way.pass_time(0.5 * H)
    with ThreadPoolExecutor(3) as pool:
        reports = [one.result() for one in [pool.submit(desk.compare) for _ in range(3)]]
    assert sum(report.decided for report in reports) == 1
    assert sorted(desk.states()) == ["reissued", "sealed", "settled"]
    with desk.way.database.reading() as tx:
        settled = [lane.settled for lane in tx.session.exec(select(LaneRow))]
    assert sorted(settled) == [0, 2]


def test_a_crash_between_reading_and_deciding_changes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next comparison does all of it."""
    desk.lose(4, arrives=False)
    desk.later(23)

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resolution, "reissue", crash)
        with pytest.raises(KeyboardInterrupt):
            desk.later(0.5)
    assert desk.states() == ["ambiguous"]
    assert desk.compare().decided == 1
    assert desk.states() == ["reissued", "sealed"]


def test_a_dropped_unit_is_found_by_its_slot_at_once(desk: Desk) -> None:
    """A report that names nothing makes its slots due before the hour is over."""
    desk.send(3)
    desk.drop(samples=0)
    desk.send(4)
    with desk.way.database.transaction() as tx:
        tx.session.add(
            ErrorReportRow(
                account_id=desk.way.account_id,
                event_id="evt_1",
                event_name="tokens",
                codes='{"meter_event_invalid_value":1}',
                message="1 event was dropped",
                error_count=1,
                explained=0,
                window_start=tx.now - timedelta(minutes=1),
                window_end=tx.now + timedelta(minutes=1),
                state="open",
                received_at=tx.now,
            )
        )
    assert desk.compare().differed == 1
    found = desk.difference()
    assert (found.classification, found.proposal) == ("rejected", "reissue")
    assert found.identifier == desk.way.units()[1].identifier
    with desk.way.database.reading() as tx:
        assert tx.session.exec(select(ErrorReportRow.state)).one() == "closed"
    assert desk.compare().reads == 0
