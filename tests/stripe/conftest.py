"""What the tests of the way to Stripe share: an emulator on TCP, its control and the SDK."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

KEY = "sk_test_emulated"


@pytest.fixture(scope="session")
def emulator_url() -> Iterator[str]:
    """One emulator on a free port for the whole session."""
    with running(create_emulator(search_lag_s=0)) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str) -> RemoteEmulator:
    """The emulator, empty."""
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def connect(
    emulator: RemoteEmulator, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., stripe_sdk.StripeClient]:
    """The official SDK, pointed at the emulator with a given key, without retries of its own."""
    monkeypatch.setattr(stripe_sdk, "enable_telemetry", False)

    def client(key: str = KEY, **options: Any) -> stripe_sdk.StripeClient:
        bases: Any = dict.fromkeys(("api", "connect", "files", "meter_events"), emulator.url)
        return stripe_sdk.StripeClient(key, base_addresses=bases, **options)

    return client


@pytest.fixture
def sdk(connect: Callable[..., stripe_sdk.StripeClient]) -> stripe_sdk.StripeClient:
    """The official SDK with the key of `emulator`."""
    return connect()
