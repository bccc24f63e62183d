"""What Stripe has, read back per customer, event name and hour."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from usageflow.config import Settings
from usageflow.ledger.usage import Slot
from usageflow.periods import hour_start
from usageflow.stripe.access import accounts_to_serve
from usageflow.stripe.accounts import Refused
from usageflow.stripe.applied import Sent, Shown, applied, ask, sent

if TYPE_CHECKING:
    from tests.stripe.conftest import Way


def test_hours_of_every_customer_come_back(way: "Way") -> None:
    """Two customers, two meters, two hours: each value is where its usage occurred."""
    first, second = way.emulator.seed(
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
        Slot(first, "tokens", hour_start(now)): Decimal("0.3"),
        Slot(first, "tokens", hour_start(earlier)): Decimal(4),
        Slot(second, "calls", hour_start(now)): Decimal(2),
    }


HOUR = datetime(2026, 11, 21, 9, tzinfo=UTC)


def pair(customer: str = "cus_1", hours: int = 2) -> Sent:
    """Units of some hours from HOUR on."""
    return Sent(customer, "tokens", "mtr_1", HOUR, HOUR + timedelta(hours=hours - 1))


def slot(customer: str = "cus_1", later: int = 0) -> Slot:
    """Some hours after HOUR."""
    return Slot(customer, "tokens", HOUR + timedelta(hours=later))


def test_only_what_was_asked_and_answered_is_known() -> None:
    """Nothing shown is 0 where Stripe was asked; elsewhere nobody knows."""
    shown = Shown()
    assert shown.get(slot()) is None
    shown.add([pair(), pair("cus_2", hours=1)], {slot(): Decimal(3)})
    assert [shown.get(slot(later=hour)) for hour in (-1, 0, 1, 2)] == [None, 3, 0, None]
    assert [shown.get(slot("cus_2", hour)) for hour in (0, 1)] == [0, None]
    assert shown.get(slot("cus_3")) is None
    assert shown.get(Slot("cus_1", "calls", HOUR)) is None


def test_why_nothing_is_shown(way: "Way") -> None:
    """Without access nobody is asked; Stripe's own words if it refuses."""
    assert ask(Settings(), Refused("there is no key"), []) == "there is no key"
    settings = Settings(stripe_api_key=way.emulator.api_key, stripe_api_base=way.emulator.url)
    (reached,) = accounts_to_serve(way.database, settings)
    told = ask(settings, reached, [pair()])
    assert isinstance(told, str)
    assert told.startswith("Stripe: ")
    assert ask(settings, reached, []) == {}
