"""When billing periods end is known to lanes, whichever came first."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlmodel import col, select

from usageflow.db.tables import (
    BillingPeriodRow,
    LaneBoundaryRow,
    LaneRow,
    StripeMeterRow,
)
from usageflow.ledger.boundaries import REACH
from usageflow.stripe import billing_periods, directory

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
END = START + timedelta(minutes=30)
IDENTITY = ("account_id", "a")


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


def keep(way: "Way", *ends: datetime, customer: str = "cus_1") -> list[datetime]:
    """A subscription tells of these ends of periods."""
    with way.database.transaction() as tx:
        return billing_periods.keep(tx, way.account_id, customer, ends)


def learn(way: "Way", customer: str = "cus_1", value: str = "a", days: int = 0) -> None:
    """A customer is known to have a value."""
    with way.database.transaction() as tx:
        at = START - timedelta(days=days)
        directory.changed(tx, way.account_id, customer, {"account_id": value}, at)


def use(way: "Way", *minutes: int) -> None:
    """Usage of these minutes, one by one."""
    for minute in minutes:
        way.use(1, customer="a", occurred_at=START + timedelta(minutes=minute))


def boundaries(way: "Way") -> set[tuple[datetime, str]]:
    """Where no unit may cross, and why."""
    with way.database.reading() as tx:
        return {(row.at, row.reason) for row in tx.session.exec(select(LaneBoundaryRow))}


def test_a_lane_of_a_known_identity_has_them_from_its_first_unit(way: "Way") -> None:
    """Also when the very first usage that is folded is of both periods."""
    keep(way, END)
    learn(way, days=1)
    use(way, 10, 40, 20)
    assert boundaries(way) == {(END, "period")}
    assert way.states() == [("sealed", "1"), ("sealed", "1"), ("open", "1")]


def test_a_lane_whose_customer_becomes_known_later(way: "Way") -> None:
    """What was folded before stays together; from then on nothing crosses the end."""
    keep(way, END)
    use(way, 10, 40)
    assert way.states() == [("open", "2")]
    learn(way)
    assert boundaries(way) == {(END, "period")}
    assert way.states() == [("sealed", "2")]
    use(way, 11, 12, 41)
    assert way.states() == [("sealed", "2"), ("sealed", "2"), ("open", "1")]


def test_a_lane_that_a_person_attaches(way: "Way") -> None:
    """The periods are then those of the customer that was said."""
    keep(way, END)
    use(way, 10)
    with way.database.transaction() as tx:
        directory.attach(tx, way.account_id, IDENTITY, "cus_1")
    assert boundaries(way) == {(END, "period")}


def test_others_periods_are_not_ours(way: "Way") -> None:
    """Another customer's, another account's, or of one without the value."""
    keep(way, END, customer="cus_2")
    learn(way, days=1)
    learn(way, "cus_2", "", days=1)
    use(way, 10)
    way.use(1, customer="", occurred_at=START)
    assert boundaries(way) == set()


def test_a_new_lane_of_an_identity_that_changed_hands(way: "Way") -> None:
    """Usage of the former that comes late is not folded together with the later one's."""
    learn(way, days=1)
    with way.database.transaction() as tx:
        at = START + timedelta(minutes=20)
        directory.changed(tx, way.account_id, "cus_1", {"account_id": ""}, at)
        directory.changed(tx, way.account_id, "cus_2", {"account_id": "a"}, END)
    use(way, 10, 40)
    assert boundaries(way) == {(at, "customer"), (END, "customer")}
    assert way.states() == [("sealed", "1"), ("open", "1")]


def test_only_what_usage_can_reach_is_kept(way: "Way") -> None:
    """What is to come, and what was so lately that Stripe still takes usage from before."""
    old, lately, soon = START - REACH * 2, START - REACH / 2, START + REACH
    assert keep(way, soon, lately, old, soon) == [lately, soon]
    assert keep(way, lately) == [lately]
    with way.database.reading() as tx:
        assert billing_periods.periods_of(tx, way.account_id, "cus_1") == [lately, soon]
        assert billing_periods.periods_of(tx, way.account_id, "cus_2") == []
    way.clock.now += REACH
    with way.database.transaction() as tx:
        assert billing_periods.periods_of(tx, way.account_id, "cus_1") == [soon]
        billing_periods.prune(tx)
    with way.database.reading() as tx:
        assert tx.session.exec(select(BillingPeriodRow.ends_at)).all() == [soon]
    way.clock.now += timedelta(seconds=1)
    learn(way)
    way.use(1, customer="a")
    with way.database.reading() as tx:
        lane = tx.session.exec(select(LaneRow).where(col(LaneRow.identity_value) == "a")).one()
        assert lane.oldest_at == way.clock.now
    assert (soon, "period") in boundaries(way)
