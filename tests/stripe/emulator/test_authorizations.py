"""Codes and connections by themselves; the way over HTTP is in the tests of Connect."""

from datetime import UTC, datetime

import pytest

from usageflow.stripe.emulator.authorizations import (
    SEEDED_CLIENT_ID,
    Authorizations,
    Code,
    livemode_of,
)
from usageflow.stripe.emulator.world import World

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("client_id", "livemode"), [("ca_live_1", True), ("ca_test_1", False), ("ca_1", None)]
)
def test_a_client_id_may_name_its_mode(client_id: str, livemode: bool | None) -> None:  # noqa: FBT001 - a case
    """Most do not."""
    assert livemode_of(client_id) is livemode


def test_a_connection_knows_its_client_and_is_told_both_ways() -> None:
    """Connected and disconnected are events of the account; a second end is none."""
    world = World(lambda: NOW)
    authorizations = Authorizations(world)
    platform = world.ensure("acct_p", livemode=True)
    first, second = (
        authorizations.issue("ca_1", "acct_x", "read_write", "http://x/") for _ in range(2)
    )
    assert first.text != second.text
    assert isinstance(authorizations.exchange(platform, first.text, None), Code)
    assert authorizations.client_of(platform, "acct_x") == "ca_1"
    assert authorizations.disconnect(platform, "acct_x")
    assert not authorizations.disconnect(platform, "acct_x")
    account = world.ensure("acct_x", livemode=True)
    assert [event["type"] for event in account.events_log] == [
        "account.application.authorized",
        "account.application.deauthorized",
    ]
    assert account.events_log[0]["data"]["object"] == {"id": "ca_1", "object": "application"}


def test_seeded_accounts_have_a_client_too() -> None:
    """One of the emulator's own. An account is never connected to itself."""
    world = World(lambda: NOW)
    authorizations = Authorizations(world)
    platform = world.ensure("acct_p", livemode=False)
    world.ensure("acct_x", livemode=False).platforms.add("acct_p")
    platform.platforms.add("acct_p")
    assert authorizations.client_of(platform, "acct_x") == SEEDED_CLIENT_ID
    assert authorizations.client_of(platform, "acct_p") is None
    assert authorizations.client_of(platform, "acct_unknown") is None


def test_a_reset_forgets_every_code() -> None:
    """They cannot be exchanged afterwards."""
    world = World(lambda: NOW)
    authorizations = Authorizations(world)
    code = authorizations.issue("ca_1", "acct_x", "read_only", "http://x/")
    world.reset()
    platform = world.ensure("acct_p", livemode=False)
    assert not isinstance(authorizations.exchange(platform, code.text, None), Code)
