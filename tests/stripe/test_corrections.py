"""What a person does about a difference: applied once, audited, and the slot settled by it."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.db.tables import AuditRow, ReconciliationRow
from usageflow.errors import DeliveryError
from usageflow.periods import HOUR, hour_start
from usageflow.stripe import corrections, error_reports
from usageflow.stripe.corrections import CHANGED
from usageflow.stripe.inbound import ErrorReport, Sample
from usageflow.stripe.meter_events import MeterEvent
from usageflow.stripe.reconciliation import Report, reconcile
from usageflow.stripe.settlement import LATE

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

H = 3_600.0
WHO = "somebody"


class Desk:
    """Somebody who compares and corrects."""

    def __init__(self, way: "Way") -> None:
        self.way = way
        way.pass_time((hour_start(way.clock.now) + HOUR - way.clock.now).total_seconds())
        count = {"event_name": "count", "formula": "count"}
        (self.customer,) = way.emulator.seed([{"account_id": "acct_1"}], ["tokens", count])
        self.forwarder = way.forwarder()

    def send(self, *quantities: str | int, **changes: Any) -> None:
        """Use, and send all of it, each quantity as a unit of its own."""
        for quantity in quantities:
            self.way.use(quantity, **changes)
            self.way.forward(self.forwarder)

    def lose(self, quantity: str | int, *, arrives: bool) -> None:
        """Use and send, but no answer comes."""
        self.way.use(quantity)
        self.way.emulator.fault("reset", after_commit=arrives)
        self.way.forward(self.forwarder)

    def later(self, hours: float, *, send: bool = True) -> Report:
        """Let hours pass, send what waits, and compare everything."""
        way = self.way
        way.pass_time(hours * H)
        if send:
            way.forward(self.forwarder)
        return reconcile(
            way.database, way.account_id, way.gateway, reads_per_day=1_000, everything=True
        )

    def arrive(self) -> Report:
        """Let what waits be sent, and compare everything once Stripe's sums must show it."""
        self.way.forward(self.forwarder)
        return self.later(2)

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

    def differences(self) -> list[Any]:
        """Every difference, in order."""
        with self.way.database.reading() as tx:
            rows = select(ReconciliationRow).order_by(col(ReconciliationRow.id))
            found = list(tx.session.exec(rows))
            tx.session.expunge_all()
        return found

    def apply(self, difference: Any = None) -> str | None:
        """Apply what is proposed for a difference, by default the last."""
        way, found = self.way, difference or self.differences()[-1]
        return corrections.apply(
            way.database, way.organization_id, found.id, way.gateway, actor=WHO
        )

    def dismiss(self, difference: Any = None) -> str | None:
        """Accept a difference as it is, by default the last."""
        way, found = self.way, difference or self.differences()[-1]
        with way.database.transaction() as tx:
            return corrections.dismiss(
                tx, way.organization_id, found.id, reason="a gift", actor=WHO
            )

    def states(self) -> list[str]:
        """The states of all units, in order."""
        return [state for state, _ in self.way.states()]

    def applied(self) -> str:
        """What Stripe has of the customer."""
        return self.way.applied()["acct_1", "tokens"]

    def audits(self) -> list[Any]:
        """What people did, in order."""
        with self.way.database.reading() as tx:
            rows = select(AuditRow).where(AuditRow.actor == WHO).order_by(col(AuditRow.seq))
            return [(row.action, json.loads(row.after or "")) for row in tx.session.exec(rows)]


@pytest.fixture
def desk(way: "Way") -> Desk:
    """A customer, two meters, and somebody who corrects."""
    return Desk(way)


def test_a_signed_unit_takes_off_what_is_too_much(desk: Desk) -> None:
    """In the same hour; then the slot agrees, and everything of it is settled."""
    start = desk.way.clock.now
    desk.send(3, 4)
    desk.foreign(2)
    desk.later(3)
    assert desk.apply() is None
    assert desk.arrive().agreed == 1
    correction: Any = desk.way.units()[-1]
    assert (correction.kind, correction.state, correction.quantity) == ("correction", "settled", -2)
    assert (correction.hour, correction.occurred_at) == (start, start)
    assert desk.states() == ["settled"] * 3
    assert desk.differences()[-1].state == "resolved"
    assert desk.applied() == "7"
    ((action, after),) = desk.audits()
    assert (action, after["proposal"], after["quantity"]) == ("reconciliation.apply", "unit", -2)
    assert after["identifier"] == correction.identifier


def test_a_signed_unit_adds_what_is_missing(desk: Desk) -> None:
    """What Stripe dropped without a word, a day later."""
    desk.send(3)
    desk.way.emulator.reject(code="meter_event_invalid_value")
    desk.way.emulator.set(rejection_samples=0)
    desk.send("4.25")
    desk.later(3)
    desk.later(24)
    assert desk.apply() is None
    assert desk.arrive().agreed == 1
    assert desk.applied() == "7.25"
    assert desk.states() == ["settled"] * 3


def test_a_proposal_is_applied_once(desk: Desk) -> None:
    """Also while its unit is on its way, and after a comparison that comes too soon."""
    desk.send(3)
    desk.foreign(2)
    desk.later(3)
    assert desk.apply() is None
    assert desk.apply() == f"difference {desk.differences()[-1].id} is applied"
    assert desk.later(0, send=False).differed == 0
    assert desk.apply() == f"difference {desk.differences()[-1].id} is applied"
    desk.way.emulator.set(summary_lag_s=2 * H)
    assert desk.later(1).differed == 0
    assert desk.later(2).agreed == 1
    assert desk.applied() == "3"


def test_two_people_apply_it_once(desk: Desk) -> None:
    """At the same moment: one does it, the other is told."""
    desk.send(3)
    desk.foreign(2)
    desk.later(3)
    with ThreadPoolExecutor(2) as pool:
        answers = [one.result() for one in [pool.submit(desk.apply) for _ in range(2)]]
    assert answers.count(None) == 1
    assert desk.states() == ["accepted", "sealed"]


def test_a_proposal_that_changed_nothing_is_made_anew(desk: Desk) -> None:
    """A day after its unit was accepted, if the difference is still there."""
    desk.send(3)
    desk.foreign(2)
    desk.later(3)
    desk.way.emulator.reject(code="meter_event_invalid_value")
    desk.apply()
    desk.later(0)
    assert desk.later(22).differed == 0
    assert desk.later(2).differed == 1
    (found,) = desk.differences()
    assert (found.state, found.proposal, found.quantity) == ("open", "unit", -2)
    assert desk.apply() is None
    assert desk.arrive().agreed == 1


def test_the_ledger_must_be_as_it_was(desk: Desk) -> None:
    """What came late in the meantime may be what is missing: nothing is corrected blindly."""
    start = desk.way.clock.now
    desk.send(3)
    desk.foreign(2)
    desk.later(3)
    desk.send(1, occurred_at=start)
    assert desk.apply() == CHANGED
    assert desk.dismiss() == CHANGED
    desk.later(3)
    assert desk.apply() is None


def test_nothing_is_there_to_apply(desk: Desk) -> None:
    """No such difference; one of another organization; one without a proposal."""
    desk.send(3)
    accepted_at = desk.way.clock.now
    desk.way.emulator.set(summary_lag_s=5 * H)
    desk.later(3)
    (found,) = desk.differences()
    way = desk.way
    answers = [
        corrections.apply(way.database, organization, number, way.gateway, actor=WHO)
        for organization, number in [(way.organization_id, 999), ("other", found.id)]
    ]
    assert answers == ["there is no difference 999", f"there is no difference {found.id}"]
    refusal = desk.apply()
    assert refusal is not None
    assert refusal.startswith(f"nothing is proposed for difference {found.id}: Stripe shows 0 of 3")
    assert refusal.endswith(f"proposed from {accepted_at + LATE:%Y-%m-%d %H:%M} UTC on")
    assert desk.dismiss() == "it may still go away by itself; look again later"
    assert desk.audits() == []


def test_what_was_dropped_is_sent_as_another_unit(desk: Desk) -> None:
    """The only suspect that fits: its identifier is used up, its quantity goes out again."""
    desk.send(3)
    desk.way.emulator.reject(code="meter_event_invalid_value")
    desk.send(4)
    start = desk.way.clock.now
    report = ErrorReport(
        event_id="evt_1",
        created=start,
        meter_id=None,
        codes={"meter_event_invalid_value": 1},
        error_count=1,
        samples=(Sample("meter_event_invalid_value", "No.", None),),
        window_start=start - timedelta(seconds=5),
        window_end=start + timedelta(seconds=5),
        message="one was dropped",
    )
    with desk.way.database.transaction() as tx:
        assert error_reports.consume(tx, desk.way.account_id, report)
    desk.later(0)
    (found,) = desk.differences()
    assert (found.classification, found.proposal) == ("rejected", "reissue")
    assert desk.apply() is None
    desk.way.forward(desk.forwarder)
    assert desk.later(3).agreed == 1
    assert desk.states() == ["settled", "reissued", "settled"]
    assert desk.applied() == "7"


def doubled(desk: Desk) -> None:
    """Stripe is behind with a unit that did arrive, so it is sent once more: it is there twice."""
    desk.way.emulator.set(summary_lag_s=23 * H)
    desk.lose(4, arrives=True)
    desk.later(20, send=False)
    desk.later(0.5)
    assert desk.states() == ["reissued", "sealed"]
    desk.way.forward(desk.forwarder)
    desk.way.emulator.set(summary_lag_s=0)
    assert desk.applied() == "8"


def test_a_unit_that_is_there_twice_is_cancelled(desk: Desk) -> None:
    """While Stripe takes it back."""
    doubled(desk)
    desk.arrive()
    found = desk.differences()[-1]
    assert (found.classification, found.proposal) == ("foreign", "cancel")
    assert found.identifier == desk.way.units()[0].identifier
    assert desk.apply() is None
    assert desk.applied() == "4"
    assert desk.later(3).agreed == 1
    assert desk.states() == ["reissued", "settled"]
    assert desk.audits()[0][1]["proposal"] == "cancel"


def test_a_cancellation_that_fails_may_be_tried_again(desk: Desk) -> None:
    """It is told, and the difference is open as before."""
    doubled(desk)
    desk.arrive()
    desk.way.emulator.fault("status", route="meter_event_adjustments", status=500)
    with pytest.raises(DeliveryError):
        desk.apply()
    assert desk.differences()[-1].state == "open"
    assert desk.apply() is None
    assert desk.applied() == "4"


def test_a_held_unit_is_settled_by_the_correction(desk: Desk) -> None:
    """Whatever Stripe has of it: together it is what the ledger has."""
    desk.send(3)
    desk.lose(4, arrives=True)
    desk.foreign(1)
    desk.later(23, send=False)
    desk.later(0.5, send=False)
    assert desk.states() == ["accepted", "held"]
    assert "what to do is proposed from" in (desk.apply() or "")
    desk.later(24)
    assert desk.apply() is None
    assert desk.arrive().agreed == 1
    assert desk.states() == ["settled"] * 3
    assert desk.applied() == "7"


def test_usage_too_old_for_stripe_is_carried_to_this_hour(desk: Desk) -> None:
    """The old hour lacks it for ever, this one has it: both agree from then on."""
    desk.send(3)
    desk.foreign(2)
    desk.later(24 * 34 + 2)
    assert desk.apply() is None
    now = hour_start(desk.way.clock.now)
    desk.send(5)
    assert desk.way.units()[1].hour == now
    assert desk.later(4).agreed == 2
    assert desk.states() == ["settled"] * 3
    assert desk.applied() == "8"
    assert {row.state for row in desk.differences()} == {"resolved"}
    desk.send(1, occurred_at=now)
    assert desk.arrive().agreed == 1


def test_what_is_dismissed_is_expected_from_then_on(desk: Desk) -> None:
    """The slot is settled with the difference; a new one is a difference to that."""
    start = desk.way.clock.now
    desk.send(3)
    desk.foreign(2)
    desk.later(3)
    assert desk.dismiss() is None
    assert desk.later(0).agreed == 1
    assert (desk.states(), desk.differences()[-1].state) == (["settled"], "dismissed")
    desk.send(1, occurred_at=start)
    assert desk.arrive().agreed == 1
    desk.foreign(7, at=start)
    desk.send(1, occurred_at=start)
    desk.later(3)
    dismissed, found = desk.differences()
    assert (dismissed.state, found.state) == ("resolved", "open")
    assert (found.expected, found.observed, found.quantity) == (7, 14, -7)
    assert desk.apply() is None
    assert desk.arrive().agreed == 1
    assert desk.applied() == "7"
    assert [action for action, _ in desk.audits()] == [
        "reconciliation.dismiss",
        "reconciliation.apply",
    ]
    assert "dismissed: a gift" in desk.audits()[0][1]["reason"]


def test_a_held_unit_is_settled_by_the_dismissal(desk: Desk) -> None:
    """What Stripe shows is what it shall be."""
    desk.lose(4, arrives=False)
    desk.foreign(1)
    desk.later(23, send=False)
    assert desk.dismiss() == "it may still go away by itself; look again later"
    desk.later(0.5, send=False)
    assert desk.states() == ["held"]
    assert desk.dismiss() is None
    assert desk.states() == ["settled"]


def test_a_count_is_dismissed_for_it_cannot_be_corrected(desk: Desk) -> None:
    """No unit takes off a call that was counted."""
    desk.send(3, event_name="count")
    event = MeterEvent(
        event_name="count",
        identifier="foreign",
        timestamp=int(desk.way.clock.now.timestamp()),
        payload={"stripe_customer_id": desk.customer, "value": "1"},
    )
    desk.way.gateway.send_meter_event(event)
    desk.later(3)
    told = "nothing can be taken off or added to what a 'count' meter shows"
    assert (desk.apply() or "").endswith(told)
    assert desk.dismiss() is None
    assert desk.later(0).agreed == 1


def test_a_large_correction_is_split(desk: Desk) -> None:
    """Stripe takes 15 digits at a time; together they are the difference."""
    desk.way.emulator.reject(code="meter_event_invalid_value", count=3)
    desk.send(*(999_999_999_999_999,) * 3, 1)
    desk.later(26)
    assert desk.differences()[-1].quantity == 3 * 999_999_999_999_999
    assert desk.apply() is None
    assert desk.arrive().agreed == 1
    assert desk.applied() == "2999999999999998"
    assert desk.states() == ["settled"] * 7


def test_an_unanswered_correction_is_decided_like_any_unit(desk: Desk) -> None:
    """Not there: it goes out again, as another correction; its difference is applied all along."""
    desk.send(3)
    desk.foreign(2)
    desk.later(3)
    desk.apply()
    desk.way.emulator.fault("reset")
    desk.way.forward(desk.forwarder)
    assert desk.states() == ["accepted", "ambiguous"]
    desk.later(23, send=False)
    assert desk.later(0.5, send=False).decided == 1
    assert desk.states() == ["accepted", "reissued", "sealed"]
    assert desk.arrive().agreed == 1
    assert desk.applied() == "3"
    assert desk.way.units()[-1].kind == "correction"
