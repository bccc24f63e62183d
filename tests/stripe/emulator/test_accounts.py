"""Accounts of the emulator, driven by the official SDK over TCP."""

from collections.abc import Callable

import httpx
import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator


@pytest.fixture
def connected(emulator: RemoteEmulator) -> list[str]:
    """Two accounts that are connected in test mode, latest first."""
    for account in ("acct_a", "acct_b"):
        headers = {"authorization": f"Bearer {emulator.api_key}", "stripe-account": account}
        httpx.post(f"{emulator.url}/_emulator/seed", json={}, headers=headers).raise_for_status()
    return ["acct_b", "acct_a"]


def test_ones_own_account(
    sdk: stripe_sdk.StripeClient,
    connected: list[str],
    connect: Callable[..., stripe_sdk.StripeClient],
) -> None:
    """One key, one account, whatever the mode; Stripe-Account speaks for another."""
    own = sdk.v1.accounts.retrieve_current().id
    assert own == connect("sk_live_emulated").v1.accounts.retrieve_current().id
    other = sdk.v1.accounts.retrieve_current({}, {"stripe_account": "acct_a"})
    assert other.id == "acct_a"
    assert sdk.v1.accounts.retrieve(own).id == own


def test_connected_accounts_are_listed_to_their_platform(
    sdk: stripe_sdk.StripeClient,
    connected: list[str],
    connect: Callable[..., stripe_sdk.StripeClient],
) -> None:
    """In the mode they are connected in, and to nobody else."""
    assert connected == [one.id for one in sdk.v1.accounts.list({"limit": 1}).auto_paging_iter()]
    assert sdk.v1.accounts.list({"created": {"gt": 0}}).data == []
    assert sdk.v1.accounts.retrieve("acct_a").id == "acct_a"
    for stranger in (connect("sk_test_other"), connect("sk_live_emulated")):
        assert stranger.v1.accounts.list().data == []
        with pytest.raises(stripe_sdk.PermissionError, match="does not have access"):
            stranger.v1.accounts.retrieve("acct_a")
