"""Declined payments on demand; what a decline does to an invoice is in the invoices' tests."""

from datetime import UTC, datetime

import httpx

from usageflow.stripe.emulator import payments
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.world import World


def test_payments_are_declined_as_often_as_asked(emulator: RemoteEmulator) -> None:
    """The last wish counts, and the key says whose payments fail."""
    url = f"{emulator.url}/_emulator/payments"
    assert httpx.post(url, json={"decline": 1}).status_code == 401
    assert httpx.post(url, json={"decline": -1}).status_code == 400


def test_without_a_wish_payments_succeed() -> None:
    """In each account by itself."""
    world = World(lambda: datetime(2026, 11, 21, tzinfo=UTC))
    account = world.ensure("acct_x", livemode=False)
    assert not payments.declined(account)
    assert not payments.declined(account)
