"""Rows become the values that a slot is judged by."""

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from usageflow.ledger import resolution
from usageflow.ledger.slots import Series
from usageflow.periods import HOUR, hour_start
from usageflow.stripe import differences, evidence
from usageflow.stripe.evidence import Evidence

if TYPE_CHECKING:
    from tests.stripe.conftest import Way


class Case:
    """Units of one customer and hour on three meters, and the evidence on them."""

    def __init__(self, way: "Way") -> None:
        self.way = way
        others = [{"event_name": name, "formula": name} for name in ("count", "last")]
        (self.customer,) = way.emulator.seed([{"account_id": "acct_1"}], ["tokens", *others])
        self.forwarder = way.forwarder()
        self.hour = hour_start(way.clock.now) + HOUR
        way.pass_time((self.hour - way.clock.now).total_seconds())

    def send(self, event_name: str, *quantities: int, answered: bool = True) -> None:
        """Use, and send all of it, each quantity as a unit of its own."""
        for quantity in quantities:
            self.way.pass_time(60)
            self.way.use(quantity, event_name=event_name)
            if not answered:
                self.way.emulator.fault("reset")
            self.way.forward(self.forwarder)

    def series(self, event_name: str) -> Series:
        """The sum at Stripe."""
        way = self.way
        return Series(way.organization_id, way.account_id, self.customer, event_name)

    def gather(self, event_name: str) -> Evidence:
        """The evidence on the hour of all units."""
        formula = "sum" if event_name == "tokens" else event_name
        with self.way.database.reading() as tx:
            return evidence.gather(tx, self.series(event_name), formula, [self.hour])[self.hour]


@pytest.fixture
def case(way: "Way") -> Case:
    """A customer and three meters."""
    return Case(way)


@pytest.mark.parametrize(("event_name", "expected"), [("tokens", 12), ("count", 3), ("last", 4)])
def test_what_stripe_should_show(case: Case, event_name: str, expected: int) -> None:
    """A sum, a number of units, the last value; with what was accepted beyond them."""
    case.send(event_name, 3, 5, 4)
    found = case.gather(event_name)
    assert (found.slot.expected, found.accepted) == (Decimal(expected), 3)
    assert found.slot.accepted_at == case.way.clock.now
    assert found.slot.expected_at == (case.way.clock.now if event_name == "last" else None)
    with case.way.database.transaction() as tx:
        differences.accept(tx, case.series(event_name), case.hour, Decimal(10), "moved")
    assert case.gather(event_name).slot.expected == expected + 10


@pytest.mark.parametrize(("event_name", "weight"), [("tokens", 4), ("count", 1), ("last", 4)])
def test_an_undecided_unit_is_a_doubt(case: Case, event_name: str, weight: int) -> None:
    """Of as much as it adds to its meter; one that is held came to rest before."""
    case.send(event_name, 4, answered=False)
    sent_at = case.way.clock.now
    (doubt,) = case.gather(event_name).slot.doubts
    assert (doubt.weight, doubt.sent_at, doubt.moved_at) == (Decimal(weight), sent_at, sent_at)
    assert doubt.rests_at == case.way.units()[0].resend_until
    assert (doubt.held, doubt.correction) == (False, False)
    case.way.pass_time(86_400)
    with case.way.database.transaction() as tx:
        (unit,) = case.way.units()
        resolution.hold(tx, tx.session.merge(unit), "?")
    (doubt,) = case.gather(event_name).slot.doubts
    assert (doubt.held, doubt.moved_at) == (True, sent_at)


def test_evidence_changes_with_every_attempt(case: Case) -> None:
    """So that what was read before is not judged by what was sent after."""
    case.send("tokens", 4, answered=False)
    before = case.gather("tokens")
    assert case.gather("tokens") == before
    case.way.pass_time(60)
    case.way.emulator.fault("reset")
    case.way.forward(case.forwarder)
    assert case.gather("tokens") != before


def test_an_unknown_meter_is_none(case: Case) -> None:
    """Until it is listed."""
    with case.way.database.reading() as tx:
        found = evidence.meter(tx, case.series("last"))
        assert found is not None
        assert (found.formula, found.time_window) == ("last", None)
        assert evidence.meter(tx, case.series("other")) is None
