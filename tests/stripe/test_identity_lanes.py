"""What an identity's change means for its lanes."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlmodel import col, select

from usageflow.db.tables import LaneBoundaryRow, LaneRow, StripeMeterRow
from usageflow.ledger import units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import Busy, Parked
from usageflow.stripe import directory, identity_lanes

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """So many minutes after the start."""
    return START + timedelta(minutes=minutes)


@pytest.fixture(autouse=True)
def _noon(way: "Way") -> None:
    """It is noon, and the meter adds up, so that units are open."""
    way.clock.now = START
    with way.database.transaction() as tx:
        tx.session.add(
            StripeMeterRow(
                account_id=way.account_id,
                event_name="tokens",
                meter_id="mtr_1",
                formula="sum",
                status="active",
                refreshed_at=tx.now,
            )
        )


def changed(way: "Way", customer_id: str, minute: float, value: str) -> None:
    """A customer's account_id became this value."""
    with way.database.transaction() as tx:
        values = {"account_id": value}
        assert directory.changed(tx, way.account_id, customer_id, values, at(minute))


def boundaries(way: "Way") -> list[datetime]:
    """Where no unit may cross."""
    with way.database.reading() as tx:
        return sorted(tx.session.exec(select(LaneBoundaryRow.at)))


def claim(way: "Way") -> list[Claim]:
    """Claim whatever is free."""
    with way.database.transaction() as tx:
        return units.claim(
            tx,
            way.account_id,
            owner="test",
            limit=9,
            lease_s=60,
            limits=Limits(resend_s_max=72_000),
        )


def test_fields_are_those_of_lanes(way: "Way") -> None:
    """Each once, however many lanes there are."""
    with way.database.reading() as tx:
        assert identity_lanes.fields(tx, way.account_id) == set()
    for customer in "abc":
        way.use(1, customer=customer)
    with way.database.transaction() as tx:
        lane = tx.session.exec(select(LaneRow).where(col(LaneRow.identity_value) == "b")).one()
        lane.identity_field = "other"
    with way.database.reading() as tx:
        assert identity_lanes.fields(tx, way.account_id) == {"account_id", "other"}
        assert identity_lanes.fields(tx, "another account") == set()


def test_units_do_not_cross_a_change(way: "Way") -> None:
    """What is open is sealed; what is told late can make moments boundaries that were none."""
    changed(way, "cus_1", -10, "a")
    way.use(1, customer="a", occurred_at=at(1))
    changed(way, "cus_1", 5, "b")
    changed(way, "cus_2", 5, "a")
    way.use(1, customer="a", occurred_at=at(6))
    assert boundaries(way) == [at(5)]
    assert way.states() == [("sealed", "1"), ("open", "1")]
    changed(way, "cus_3", 8, "x")
    changed(way, "cus_3", 7, "a")
    assert boundaries(way) == [at(5)]
    changed(way, "cus_2", 6, "")
    assert boundaries(way) == [at(5), at(6), at(7), at(8)]


def test_the_first_customer_of_a_value_is_no_boundary(way: "Way") -> None:
    """All usage before is its, so nothing must be told apart."""
    way.use(1, customer="a", occurred_at=at(1))
    changed(way, "cus_1", 5, "a")
    assert boundaries(way) == []


def test_what_usage_cannot_reach_is_no_boundary(way: "Way") -> None:
    """Stripe takes none of so long ago."""
    way.use(1, customer="a")
    days = 24 * 60
    changed(way, "cus_1", -50 * days, "a")
    for former, later, day in (("cus_1", "cus_2", -40), ("cus_2", "cus_3", -30)):
        changed(way, former, day * days, "")
        changed(way, later, day * days, "a")
    assert boundaries(way) == [at(-30 * days)]


def test_parked_lanes_go_on_at_once(way: "Way") -> None:
    """When whose they are has changed; lanes that pause for another cause go on pausing."""
    way.use(1, customer="a")
    way.use(1, customer="b")
    parked, busy = sorted(claim(way), key=lambda one: one.identity_value)
    with way.database.transaction() as tx:
        units.settle_all(tx, [(parked, Parked("no Stripe customer")), (busy, Busy(30))])
    way.clock.now += timedelta(seconds=5)
    assert claim(way) == []
    changed(way, "cus_1", 0, "a")
    changed(way, "cus_2", 0, "b")
    assert [one.identity_value for one in claim(way)] == ["a"]
