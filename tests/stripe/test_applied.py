"""What Stripe has, read back per customer, event name and hour."""

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from usageflow.periods import hour_start
from usageflow.stripe.applied import applied, sent

if TYPE_CHECKING:
    from tests.stripe.conftest import Way


def test_hours_of_every_customer_come_back(way: "Way") -> None:
    """Two customers, two meters, two hours: each value is where its usage occurred."""
    way.emulator.seed(
        [{"account_id": "acct_1"}, {"account_id": "acct_2"}],
        ["tokens", {"event_name": "calls", "formula": "count"}],
    )
    forwarder = way.forwarder()
    now, earlier = way.clock.now, way.clock.now - timedelta(hours=2)
    way.use("0.1", "0.2")
    way.use(4, occurred_at=earlier)
    way.use(5, 6, customer="acct_2", event_name="calls", metric="CALLS")
    way.use(7, customer="acct_3")
    way.forward(forwarder)
    with way.database.reading() as tx:
        pairs = sent(tx, way.account_id)
    assert applied(way.gateway, pairs) == {
        ("acct_1", "tokens", hour_start(now)): Decimal("0.3"),
        ("acct_1", "tokens", hour_start(earlier)): Decimal(4),
        ("acct_2", "calls", hour_start(now)): Decimal(2),
    }
