"""Ledger and Stripe are compared: every drift is found, classified and ended, and none is made up."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.db.tables import AuditRow, LaneRow, ReconciliationRow
from usageflow.periods import HOUR, hour_start
from usageflow.stripe import corrections, reads
from usageflow.stripe.meter_events import MeterEvent
from usageflow.stripe.reconciliation import Report, reconcile

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

H = 3_600.0


class Desk:
    """Somebody who compares: the steps that these tests repeat."""

    def __init__(self, way: "Way") -> None:
        self.way = way
        # a full hour, so that no test crosses the end of one by chance
        way.pass_time((hour_start(way.clock.now) + HOUR - way.clock.now).total_seconds())
        (self.customer,) = way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
        self.forwarder = way.forwarder()

    def send(self, *quantities: str | int, **changes: Any) -> None:
        """Use, and send all of it, each quantity as a unit of its own."""
        for quantity in quantities:
            self.way.use(quantity, **changes)
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

    def differences(self) -> list[ReconciliationRow]:
        """Every difference, in order."""
        with self.way.database.reading() as tx:
            found = list(
                tx.session.exec(select(ReconciliationRow).order_by(col(ReconciliationRow.id)))
            )
            tx.session.expunge_all()
        return found

    def difference(self) -> ReconciliationRow:
        """The last difference."""
        return self.differences()[-1]

    def foreign(self, value: str, at: datetime | None = None, customer: str | None = None) -> None:
        """Something else writes to the meter."""
        moment = at or self.way.clock.now
        payload = {"stripe_customer_id": customer or self.customer, "value": value}
        event = MeterEvent("tokens", f"foreign-{value}-{moment}", int(moment.timestamp()), payload)
        self.way.gateway.send_meter_event(event)

    def states(self) -> list[str]:
        """The states of all units, in order."""
        return [state for state, _ in self.way.states()]

    def audited(self) -> list[str]:
        """What was done, in order."""
        with self.way.database.reading() as tx:
            return list(tx.session.exec(select(AuditRow.action).order_by(col(AuditRow.seq))))


@pytest.fixture
def desk(way: "Way") -> Desk:
    """A customer, a meter, and somebody who compares."""
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
