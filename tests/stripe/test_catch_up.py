"""Events that no webhook brought are asked for."""

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import stripe as stripe_sdk
from sqlmodel import col, select

from usageflow.db.tables import StripeAccountRow, StripeEventRow
from usageflow.errors import DeliveryError
from usageflow.stripe import directory
from usageflow.stripe.catch_up import KEPT, OVERLAP, READABLE, poll
from usageflow.stripe.client import StripeGateway

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

FAR = timedelta(days=1)


@pytest.fixture(autouse=True)
def _one_clock(way: "Way", monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes here and at the emulator alike; usage is known by account_id."""
    monkeypatch.setattr(StripeGateway, "clock_skew_s", 0.0)
    way.use(1)


def values(way: "Way") -> set[str]:
    """The values that anybody is known to have."""
    with way.database.reading() as tx:
        known = directory.known(
            tx, way.account_id, [("account_id", value) for value in ("old", "a", "b", "c")]
        )
    return {value for _, value in known}


def types(way: "Way") -> list[str]:
    """The types of the events that are remembered."""
    with way.database.reading() as tx:
        return sorted(tx.session.exec(select(StripeEventRow.type)))


def test_all_since_the_account_is_here(way: "Way", sdk: stripe_sdk.StripeClient) -> None:
    """What was before is in the list of customers; each event is dealt with once."""
    way.emulator.seed([{"account_id": "old"}])
    way.pass_time(OVERLAP.total_seconds() + 60)
    with way.database.transaction() as tx:
        tx.session.get_one(StripeAccountRow, way.account_id).created_at = tx.now
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    way.pass_time(60)
    sdk.v1.customers.update(customer, {"metadata": {"account_id": "b"}})
    told: list[str] = []
    way.emulator.seed(meters=["tokens"])
    assert poll(way.database, way.account_id, way.gateway, told.append) == 3
    assert (values(way), told) == ({"a", "b"}, [way.account_id])
    assert poll(way.database, way.account_id, way.gateway, told.append) == 0
    assert told == [way.account_id]


def test_what_came_late_is_found_behind_the_newest(way: "Way") -> None:
    """Events come in any order, so a while before the newest is asked for again."""
    way.emulator.seed([{"account_id": "a"}])
    way.pass_time(60)
    way.emulator.seed([{"account_id": "b"}])
    poll(way.database, way.account_id, way.gateway)
    with way.database.transaction() as tx:
        lost = tx.session.exec(select(StripeEventRow).order_by(col(StripeEventRow.event_id)))
        tx.session.delete(lost.first())
    assert poll(way.database, way.account_id, way.gateway) == 1


def test_no_further_back_than_stripe_remembers(way: "Way") -> None:
    """After a long silence it is asked for what there still is, and the old is let go of."""
    way.emulator.seed([{"account_id": "a"}])
    poll(way.database, way.account_id, way.gateway)
    way.pass_time((KEPT + FAR).total_seconds())
    way.emulator.seed([{"account_id": "b"}])
    assert types(way) == ["customer.created"]
    assert poll(way.database, way.account_id, way.gateway) == 1
    assert types(way) == ["customer.created"]
    assert READABLE < KEPT


def test_a_failure_is_told(way: "Way") -> None:
    """What was dealt with before it stays; the rest is asked for again."""
    way.emulator.seed([{"account_id": "a"}])
    way.emulator.fault("status", route="GET /v1/events", status=500)
    with pytest.raises(DeliveryError):
        poll(way.database, way.account_id, way.gateway)
    assert poll(way.database, way.account_id, way.gateway) == 1
