"""What an account remembers: its events, snapshots and thin ones, and who is told."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from usageflow.stripe.emulator.journal import MeterEvent
from usageflow.stripe.emulator.state import Account, Meter, aggregate

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)


def test_a_snapshot_event_is_logged_and_delivered() -> None:
    """A v1 event carries the object, and the old values where something changed."""
    told: list[Any] = []
    account = Account(
        "acct_0123456789", False, timedelta(0), [], lambda owner, event: told.append((owner, event))
    )
    account.emit("customer.created", {"id": "cus_1"}, NOW)
    account.emit("customer.updated", {"id": "cus_1", "name": "B"}, NOW, {"name": "A"})
    created, updated = account.events_log
    assert created["data"] == {"object": {"id": "cus_1"}}
    assert updated["data"]["previous_attributes"] == {"name": "A"}
    assert (updated["created"], updated["livemode"]) == (int(NOW.timestamp()), False)
    assert told == [(account, created), (account, updated)]
    assert created["id"] != updated["id"]


def test_a_thin_event_has_a_time_in_words() -> None:
    """A v2 event names its related object and writes its time as RFC 3339; nobody need listen."""
    account = Account("acct_0123456789", True, timedelta(0), [])
    account.emit_thin("v1.billing.meter.no_meter_found", {}, {"reason": {}}, NOW)
    (event,) = account.thin_events
    assert (event["created"], event["livemode"]) == ("2026-11-21T09:00:00.000Z", True)
    assert (event["related_object"], event["data"]) == ({}, {"reason": {}})


def test_a_sum_is_never_rounded() -> None:
    """Values of 15 digits each, far apart, are all there in the end."""
    meter = Meter("mtr_1", "tokens", "Tokens", "sum", "stripe_customer_id", "value", None, 0, 0)
    values = ["999999999999999", "0.00000000000000000001", "-1"]
    events = [MeterEvent("acct_1", False, "tokens", "", "cus_1", value, 0, NOW) for value in values]
    assert aggregate(meter, events) == Decimal("999999999999998.00000000000000000001")
