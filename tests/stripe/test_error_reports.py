"""What Stripe dropped after accepting it: named events are dealt with, the others suspected."""

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.db.tables import (
    AuditRow,
    ErrorReportRow,
    LaneRow,
    ReconciliationRow,
    StripeCustomerRow,
)
from usageflow.stripe import corrections, directory, error_reports
from usageflow.stripe.error_reports import CUSTOMER_NOT_FOUND, WINDOW_SLACK
from usageflow.stripe.inbound import ErrorReport, Sample
from usageflow.stripe.reconciliation import reconcile
from usageflow.stripe.settlement import LAG

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

INVALID = "meter_event_invalid_value"
SOME_S = 15.0
"""Longer than the window that a report is about."""
LAG_S = LAG.total_seconds()


class Office:
    """Where reports arrive: the steps that these tests repeat."""

    def __init__(self, way: "Way") -> None:
        self.way = way
        (self.customer,) = way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
        self.forwarder = way.forwarder()
        self.began = way.clock.now

    def send(self, *quantities: int) -> None:
        """Use, and send all of it, each quantity as a unit of its own."""
        for quantity in quantities:
            self.way.use(quantity)
            self.way.forward(self.forwarder)

    def poll(self) -> int:
        """Let the window of the rejections end, and ask for reports."""
        self.way.pass_time(SOME_S)
        since = self.began - timedelta(minutes=5)
        return error_reports.poll(self.way.database, self.way.account_id, self.way.gateway, since)

    def consume(self, *samples: Sample, count: int, **changes: Any) -> bool:
        """A report of the last seconds arrives."""
        now = self.way.clock.now
        report = ErrorReport(
            **{
                "event_id": "evt_1",
                "created": now,
                "meter_id": None,
                "codes": {INVALID: count},
                "error_count": count,
                "samples": samples,
                "window_start": now - timedelta(seconds=10),
                "window_end": now,
                "message": f"{count} events were dropped",
                **changes,
            }
        )
        with self.way.database.transaction() as tx:
            return error_reports.consume(tx, self.way.account_id, report)

    def compare(self) -> int:
        """Compare what is due; how many slots that was."""
        way = self.way
        report = reconcile(way.database, way.account_id, way.gateway, reads_per_day=100)
        return report.compared

    def reports(self) -> list[Any]:
        """(state, explained, count) of every report."""
        with self.way.database.reading() as tx:
            rows = tx.session.exec(select(ErrorReportRow)).all()
            return [(row.state, row.explained, row.error_count) for row in rows]

    def difference(self) -> Any:
        """The one difference there is."""
        with self.way.database.reading() as tx:
            found = tx.session.exec(select(ReconciliationRow)).one()
            tx.session.expunge_all()
        return found

    def apply(self, difference_id: int) -> str | None:
        """Apply what is proposed for a difference."""
        way = self.way
        return corrections.apply(
            way.database, way.organization_id, difference_id, way.gateway, actor="somebody"
        )

    def dismiss(self, difference_id: int) -> str | None:
        """Accept a difference as it is."""
        with self.way.database.transaction() as tx:
            return corrections.dismiss(
                tx, self.way.organization_id, difference_id, reason="a gift", actor="somebody"
            )

    def states(self) -> list[str]:
        """The states of all units, in order."""
        return [state for state, _ in self.way.states()]


@pytest.fixture
def office(way: "Way") -> Office:
    """A customer, a meter, and an office."""
    return Office(way)


def test_a_unit_that_is_named_is_quarantined(office: Office) -> None:
    """With Stripe's code and words; the slot then agrees without it."""
    office.send(3)
    office.way.emulator.reject(code=INVALID)
    office.send(4)
    assert office.poll() == 1
    assert office.states() == ["accepted", "quarantined"]
    assert (office.way.units()[1].reason or "").startswith(f"{INVALID}: ")
    assert office.reports() == [("closed", 1, 1)]
    assert office.compare() == 0
    with office.way.database.reading() as tx:
        (row,) = tx.session.exec(
            select(AuditRow).where(col(AuditRow.action).startswith("error_report"))
        )
        assert (row.action, row.subject) == (
            "error_report.reject",
            office.way.units()[1].identifier,
        )


def test_a_customer_that_is_not_there_is_looked_up_anew(office: Office) -> None:
    """It was deleted and made again: the usage waits for a person to say whose it is."""
    office.send(3)
    office.way.emulator.reject(code=CUSTOMER_NOT_FOUND)
    office.send(4)
    (other,) = office.way.emulator.seed([{"account_id": "acct_1"}])
    office.way.gateway._v1.customers.delete(office.customer)
    assert office.poll() == 1
    assert office.states() == ["accepted", "reissued", "sealed"]
    office.way.forward(office.forwarder)
    assert office.states() == ["accepted", "reissued", "parked"]
    with office.way.database.transaction() as tx:
        directory.attach(tx, office.way.account_id, ("account_id", "acct_1"), other)
    office.way.forward_all(office.forwarder)
    last = office.way.units()[-1]
    assert (last.state, last.kind, last.stripe_customer_id) == ("accepted", "reissue", other)
    assert office.reports() == [("closed", 1, 1)]


def test_a_customer_that_is_found_and_not_there_is_tried_once_more(office: Office) -> None:
    """Stripe contradicts itself: that must not go on for ever."""
    office.way.emulator.reject(code=CUSTOMER_NOT_FOUND, count=2)
    office.send(4)
    assert office.poll() == 1
    office.way.forward_all(office.forwarder)
    assert office.poll() == 1
    assert office.states() == ["reissued", "quarantined"]


def test_a_report_counts_once(office: Office) -> None:
    """However often it comes, by whichever way."""
    office.send(3)
    office.way.emulator.reject(code=CUSTOMER_NOT_FOUND)
    office.send(4)
    assert office.poll() == 1
    states = office.states()
    assert office.poll() == 0
    assert office.states() == states
    assert office.consume(count=1)
    assert not office.consume(count=1)


def test_what_is_known_is_not_written(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are asked for again and again: those that were taken cost a look."""
    office.way.emulator.reject(code=INVALID)
    office.send(4)
    assert office.poll() == 1
    monkeypatch.setattr(office.way.database, "transaction", None)
    assert office.poll() == 0


def test_several_customers_that_are_not_there(office: Office) -> None:
    """One report tells of all of them."""
    (other,) = office.way.emulator.seed([{"account_id": "acct_2"}])
    for customer in ("acct_1", "acct_2"):
        office.way.use(3, customer=customer)
        office.way.forward(office.forwarder)
    samples = [Sample(CUSTOMER_NOT_FOUND, "No.", unit.identifier) for unit in office.way.units()]
    assert office.consume(*samples, count=2)
    assert office.states() == ["reissued"] * 2 + ["sealed"] * 2
    with office.way.database.reading() as tx:
        rows = tx.session.exec(
            select(StripeCustomerRow.stripe_customer_id).where(
                col(StripeCustomerRow.field) == "account_id",
                col(StripeCustomerRow.valid_until).is_(None),
            )
        ).all()
    assert {office.customer, other} & set(rows) == set()


def test_what_is_not_ours_is_explained(office: Office) -> None:
    """Another writer's events were dropped: nothing of ours is suspect."""
    office.send(3)
    assert office.consume(Sample(INVALID, "No.", "somebody-elses"), count=1)
    assert office.reports() == [("closed", 1, 1)]
    assert office.compare() == 0


def test_what_is_not_named_makes_its_slot_due(office: Office) -> None:
    """Before the hour is over; and the report is closed when that was compared."""
    office.way.emulator.set(rejection_samples=0)
    office.send(3)
    office.way.emulator.reject(code=INVALID)
    office.send(4)
    assert office.poll() == 1
    assert office.reports() == [("open", 0, 1)]
    assert office.compare() == 1
    found = office.difference()
    assert (found.classification, found.expected, found.observed) == ("rejected", 7, 3)
    assert (found.proposal, found.identifier) == ("reissue", office.way.units()[1].identifier)
    assert INVALID in found.reason
    assert office.reports() == [("closed", 0, 1)]
    assert office.compare() == 0


def test_a_false_suspicion_settles(office: Office) -> None:
    """Stripe has all of ours, also when its sum should stand: what it dropped was another's."""
    office.send(3)
    assert office.consume(Sample(INVALID, "No.", None), count=1)
    assert office.compare() == 1
    assert (office.states(), office.reports()) == (["accepted"], [("open", 0, 1)])
    office.way.pass_time(LAG_S)
    assert office.compare() == 1
    assert (office.states(), office.reports()) == (["settled"], [("closed", 0, 1)])


def test_only_the_time_of_the_report_is_suspect(office: Office) -> None:
    """And a minute around it, for clocks and answers that took their time."""
    office.send(3)
    past = WINDOW_SLACK.total_seconds() + 11
    office.way.pass_time(past)
    assert office.consume(count=1)
    assert office.reports() == [("open", 0, 1)]
    assert office.compare() == 0
    assert office.reports() == [("closed", 0, 1)]
    earlier = office.way.clock.now - timedelta(seconds=past - 5)
    assert office.consume(count=1, event_id="evt_2", window_start=earlier)
    assert office.compare() == 1


def test_only_the_meter_of_the_report_is_suspect(office: Office) -> None:
    """If it tells one that we know."""
    office.way.emulator.seed(meters=["calls"])
    office.way.meters.refresh()
    office.send(3)
    office.way.use(5, event_name="calls")
    office.way.forward(office.forwarder)
    meters = {meter.event_name: meter.meter_id for meter in office.way.gateway.list_meters()}
    assert office.consume(count=1, meter_id=meters["calls"])
    office.way.pass_time(LAG_S)
    assert office.compare() == 1
    assert office.states() == ["accepted", "settled"]
    window_start = office.way.clock.now - timedelta(seconds=LAG_S)
    assert office.consume(
        count=1, event_id="evt_2", meter_id="mtr_unknown", window_start=window_start
    )
    assert office.compare() == 1


def test_an_unanswered_unit_that_was_dropped_goes_out_as_another(office: Office) -> None:
    """Stripe took it and dropped it: the same identifier would be refused as a duplicate."""
    office.way.use(4)
    office.way.emulator.fault("reset")
    office.way.forward(office.forwarder)
    identifier = office.way.units()[0].identifier
    assert office.consume(Sample(INVALID, "No.", identifier), count=1)
    assert office.states() == ["reissued", "sealed"]
    assert office.reports() == [("closed", 1, 1)]


def test_a_unit_on_its_way_is_left_to_its_sender(office: Office) -> None:
    """Its slot is suspect once it is accepted."""
    office.way.use(4)

    def meanwhile(moment: datetime) -> None:
        sending = office.way.units()[0]
        assert (sending.state, sending.first_attempt_at) == ("sending", moment)
        sample = Sample(INVALID, "No.", sending.identifier)
        assert office.consume(sample, count=1, event_id="evt_3")

    send = office.way.gateway.send_meter_event

    def slow(event: Any) -> Any:
        meanwhile(office.way.clock.now)
        return send(event)

    office.way.gateway.send_meter_event = slow  # type: ignore[method-assign]
    office.way.forward(office.forwarder)
    assert office.states() == ["accepted"]
    assert office.reports() == [("open", 0, 1)]
    assert office.compare() == 1


def settle(office: Office, *quantities: int) -> None:
    """Send units, and let them be seen in the sum."""
    office.send(*quantities)
    office.way.pass_time(2 * LAG_S)
    assert office.compare() == 1
    assert set(office.states()) == {"settled"}


def lane_settled(office: Office) -> Any:
    """What of the one lane there is was seen at Stripe."""
    with office.way.database.reading() as tx:
        return tx.session.exec(select(LaneRow)).one().settled


def test_a_settled_unit_that_is_named_is_quarantined_after_all(office: Office) -> None:
    """Stripe showed it and dropped it: nothing says any more that it was billed."""
    settle(office, 3, 4)
    assert lane_settled(office) == 7
    dropped = office.way.units()[1].identifier
    assert office.consume(Sample(INVALID, "No.", dropped), count=1)
    assert office.states() == ["settled", "quarantined"]
    assert lane_settled(office) == 3
    assert office.reports() == [("closed", 1, 1)]
    with office.way.database.reading() as tx:
        row = tx.session.exec(
            select(AuditRow).where(col(AuditRow.action) == "error_report.reject")
        ).one()
        assert row.subject == dropped


def test_a_settled_unit_without_its_customer_goes_out_as_another(office: Office) -> None:
    """As any that Stripe dropped for that."""
    settle(office, 3)
    (unit,) = office.way.units()
    assert office.consume(Sample(CUSTOMER_NOT_FOUND, "No.", unit.identifier), count=1)
    assert (office.states(), lane_settled(office)) == (["reissued", "sealed"], 0)


def test_settled_units_are_suspect_too(office: Office) -> None:
    """Their slot is compared once more: what is missing now was dropped after it was shown."""
    began = office.way.clock.now
    settle(office, 3, 4)
    office.way.pass_time(60)
    window = {"window_start": began, "window_end": began + timedelta(seconds=10)}
    assert office.consume(count=1, **window)
    assert office.compare() == 1
    assert (office.states(), office.reports()) == (["settled"] * 2, [("closed", 0, 1)])
    assert office.compare() == 0
    office.way.gateway.cancel_meter_event("tokens", office.way.units()[1].identifier)
    office.way.pass_time(60)
    assert office.consume(count=1, event_id="evt_2", **window)
    assert office.compare() == 1
    found = office.difference()
    assert (found.classification, found.expected, found.observed) == ("rejected", 7, 3)
    assert (found.proposal, found.identifier) == ("reissue", office.way.units()[1].identifier)
    assert office.reports()[-1] == ("closed", 0, 1)
    assert office.compare() == 0
    office.way.pass_time(23 * 3_600)
    assert office.compare() == 1
    assert office.apply(found.id) is None
    assert (office.states(), lane_settled(office)) == (["settled", "reissued", "sealed"], 3)
    office.way.forward_all(office.forwarder)
    office.way.pass_time(LAG_S)
    assert office.compare() == 1
    assert (office.states(), lane_settled(office)) == (["settled", "reissued", "settled"], 7)
    assert office.difference().state == "resolved"


@pytest.mark.parametrize("code", [INVALID, CUSTOMER_NOT_FOUND])
def test_a_difference_that_a_report_explains_is_none_any_more(office: Office, code: str) -> None:
    """It was seen before Stripe told of it: nothing of the slot is left, nor of the difference."""
    office.send(5)
    office.way.pass_time(2 * LAG_S)
    office.way.gateway.cancel_meter_event("tokens", office.way.units()[0].identifier)
    assert office.compare() == 1
    assert (office.difference().classification, office.difference().state) == ("late", "open")
    sample = Sample(code, "No.", office.way.units()[0].identifier)
    assert office.consume(sample, count=1)
    assert office.compare() == 1
    found = office.difference()
    assert (found.state, found.checked_at) == ("resolved", office.way.clock.now)
    assert office.compare() == 0


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (1, [("dismissed", 11, 11, 0)]),
        (2, [("resolved", 11, 11, 0), ("open", 7, 11, -4)]),
    ],
)
def test_what_was_dismissed_is_compared_with_what_is_left(
    office: Office, named: int, told: list[Any]
) -> None:
    """What was let be missing is not missing twice; what Stripe still shows of it is too much."""
    office.send(3, 4, 8)
    office.way.gateway.cancel_meter_event("tokens", office.way.units()[1].identifier)
    office.way.pass_time(24 * 3_600)
    assert office.compare() == 1
    assert office.dismiss(office.difference().id) is None
    office.way.pass_time(1)
    assert office.compare() == 1
    assert office.states() == ["settled"] * 3
    assert office.consume(Sample(INVALID, "No.", office.way.units()[named].identifier), count=1)
    office.way.pass_time(1)
    assert office.compare() == 1
    assert office.compare() == 0
    with office.way.database.reading() as tx:
        rows = tx.session.exec(select(ReconciliationRow).order_by(col(ReconciliationRow.id)))
        assert [(row.state, row.expected, row.observed, row.quantity) for row in rows] == told


def test_a_report_is_logged(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    """Stripe's own words, for whoever looks for why."""
    with caplog.at_level(logging.WARNING, "usageflow"):
        office.consume(count=7)
    assert "dropped 7 meter events" in caplog.text
    assert "7 events were dropped" in caplog.text
