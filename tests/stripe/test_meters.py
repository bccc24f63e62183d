"""The stored meters of an account."""

from typing import TYPE_CHECKING

import pytest
from sqlmodel import select

from usageflow.db.tables import StripeAccountRow, StripeMeterRow
from usageflow.errors import DeliveryError
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meters import Meters

if TYPE_CHECKING:
    import stripe as stripe_sdk

    from tests.stripe.conftest import Way


def test_a_refresh_follows_stripe(way: "Way", sdk: "stripe_sdk.StripeClient") -> None:
    """New meters are added, changed ones updated; the payload keys come back with them."""
    way.emulator.seed([], ["tokens", {"event_name": "calls", "formula": "count"}])
    meters = Meters(way.database, way.account_id, way.gateway)
    assert (meters.known, meters.wanted) == (False, True)
    assert meters.refresh() == 2
    assert (meters.known, meters.wanted) == (True, False)
    assert (meters.get("tokens").formula, meters.get("calls").formula) == ("sum", "count")
    sdk.v1.billing.meters.deactivate(meters.get("tokens").meter_id)
    way.emulator.seed([], [{"event_name": "seats", "event_time_window": "hour"}])
    meters.refresh()
    with way.database.reading() as tx:
        rows = tx.session.exec(select(StripeMeterRow)).all()
        shown = {row.event_name: (row.formula, row.status, row.event_time_window) for row in rows}
    assert shown == {
        "tokens": ("sum", "inactive", None),
        "calls": ("count", "active", None),
        "seats": ("sum", "active", "hour"),
    }


def test_a_meter_that_was_not_listed_is_wanted(way: "Way") -> None:
    """It is taken for a plain `sum` until it has been seen; so it is too when Stripe tells news."""
    meters = Meters(way.database, way.account_id, way.gateway)
    meters.refresh()
    assert meters.get("new").formula == "sum"
    assert meters.wanted
    way.emulator.seed([], [{"event_name": "new", "formula": "last"}])
    meters.refresh()
    assert (meters.get("new").formula, meters.wanted) == ("last", False)
    meters.want()
    assert meters.wanted


def test_the_key_of_another_account_is_noticed(way: "Way") -> None:
    """Its customers are others: nothing is sent with it, and what was known stays."""
    way.emulator.seed([], ["tokens"])
    Meters(way.database, way.account_id, way.gateway).refresh()
    other = StripeGateway("sk_test_other", base=way.emulator.url, timeout_s=5)
    meters = Meters(way.database, way.account_id, other)
    with pytest.raises(DeliveryError, match="of another Stripe account"):
        meters.refresh()
    assert not meters.known
    other.close()
    with way.database.reading() as tx:
        assert tx.session.get_one(StripeAccountRow, way.account_id).state == "paused"
        assert tx.session.exec(select(StripeMeterRow.event_name)).all() == ["tokens"]
