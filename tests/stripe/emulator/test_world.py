"""The world: which account a request speaks to, and what a reset forgets."""

from datetime import UTC, datetime
from typing import Any

from usageflow.stripe.emulator.replies import Reply
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import World

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)


def test_a_connected_account_is_open_to_its_platform_alone() -> None:
    """Another platform's key does not open it, and after it has left neither does its own."""
    world = World(lambda: NOW)
    ours = {"authorization": "Bearer sk_test_A", "stripe-account": "acct_x"}
    theirs = {"authorization": "Bearer sk_test_B", "stripe-account": "acct_x"}
    connected = world.account(ours, connect=True)
    assert isinstance(connected, Account)
    assert world.account(ours) is connected
    refusal = world.account(theirs)
    assert isinstance(refusal, Reply)
    assert refusal.body["error"]["code"] == "account_invalid"
    connected.platforms.clear()
    assert isinstance(world.account(ours), Reply)


def test_events_reach_whoever_listens_and_a_reset_is_told() -> None:
    """The hook is asked at each event, so it can be set later; a reset keeps it."""
    world = World(lambda: NOW)
    account = world.ensure("acct_x", livemode=True)
    told: list[Any] = []
    world.deliver = lambda owner, event: told.append((owner.object_id, event["type"]))
    world.on_reset.append(lambda: told.append("reset"))
    account.emit("customer.created", {}, NOW)
    world.reset()
    world.ensure("acct_x", livemode=True).emit("customer.deleted", {}, NOW)
    assert told == [("acct_x", "customer.created"), "reset", ("acct_x", "customer.deleted")]
