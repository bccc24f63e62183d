"""Who is told of which event."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from usageflow.stripe.emulator import listeners
from usageflow.stripe.emulator.listeners import CONNECTED, DESTINATION, ENDPOINT, SELF, Listener
from usageflow.stripe.emulator.state import Account

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
SNAPSHOT = {"object": "event", "type": "customer.created"}
THIN = {"object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}


def account(name: str, *, livemode: bool = False, platforms: tuple[str, ...] = ()) -> Account:
    """An account that is connected to these platforms."""
    return Account(name, livemode, timedelta(0), [], platforms={name, *platforms})


def listening(owner: Account, kind: str, *sources: str, **options: Any) -> str:
    """The id of a new listener of an account."""
    object_id = owner.new_id(kind)
    options = {"enabled_events": ["*"], "metadata": {}, **options}
    listener = Listener(object_id, NOW, NOW, "http://127.0.0.1/", sources=list(sources), **options)
    listeners.of(owner, kind)[object_id] = listener
    return object_id


def told(source: Account, event: dict[str, Any], *others: Account) -> list[tuple[str, bool]]:
    """Who hears of an event, and whether as a platform."""
    accounts = {(one.object_id, one.livemode): one for one in (source, *others)}
    found = listeners.told(accounts, source, event)
    return [(listener.object_id, connected) for listener, connected in found]


def test_snapshots_and_thin_events_are_apart() -> None:
    """A listener takes one kind, the types it names, and nothing while it is disabled."""
    owner = account("acct_own")
    snapshots = listening(owner, ENDPOINT, SELF, enabled_events=["customer.created"])
    thin = listening(owner, DESTINATION, SELF, payload="thin")
    listening(owner, DESTINATION, SELF, payload="thin", enabled=False)
    assert told(owner, SNAPSHOT) == [(snapshots, False)]
    assert told(owner, THIN) == [(thin, False)]
    assert told(owner, {**SNAPSHOT, "type": "customer.deleted"}) == []


@pytest.mark.parametrize("livemode", [False, True])
def test_platforms_hear_the_connected(livemode: bool) -> None:  # noqa: FBT001 - a case
    """A live listener hears both modes, a test one test mode; its own events are another matter."""
    source = account("acct_x", livemode=livemode, platforms=("acct_p", "acct_q"))
    test, live = account("acct_p"), account("acct_p", livemode=True)
    in_test = listening(test, ENDPOINT, CONNECTED)
    in_live = listening(live, ENDPOINT, CONNECTED, SELF)
    listening(test, ENDPOINT, SELF)
    expected = [(in_live, True)] if livemode else [(in_test, True), (in_live, True)]
    assert told(source, SNAPSHOT, test, live) == expected
    assert told(live, SNAPSHOT, test) == [(in_live, False)]


def test_the_end_of_a_connection_is_the_platforms_alone() -> None:
    """The account's own listeners do not hear of it."""
    source = account("acct_x", platforms=("acct_p",))
    platform = account("acct_p")
    listening(source, ENDPOINT, SELF)
    theirs = listening(platform, ENDPOINT, CONNECTED)
    event = {**SNAPSHOT, "type": "account.application.deauthorized"}
    assert told(source, event, platform) == [(theirs, True)]


def test_a_ping_is_for_one() -> None:
    """The destination that was asked for gets it, whatever it takes otherwise."""
    owner = account("acct_own")
    listening(owner, DESTINATION, SELF, payload="thin")
    pinged = listening(owner, DESTINATION, CONNECTED)
    ping = {**THIN, "type": listeners.PING, "related_object": {"id": pinged}}
    assert told(owner, ping) == [(pinged, False)]
