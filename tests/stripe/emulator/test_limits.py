"""Rate limits: which buckets a call counts in, what a bucket lets through, and the 429."""

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
import stripe as stripe_sdk
from hypothesis import given
from hypothesis import strategies as st

from usageflow.stripe.emulator import limits
from usageflow.stripe.emulator.limits import Budget, Claim, Limits, claims
from usageflow.stripe.emulator.remote import RemoteEmulator

Connect = Callable[..., stripe_sdk.StripeClient]

METER_EVENT = "PostBillingMeterEvents"


@pytest.mark.parametrize(
    ("operation", "livemode", "connected", "buckets"),
    [
        ("GetV1Customers", True, False, {"GetV1Customers": 25, "global": 100}),
        ("GetV1CustomersSearch", True, False, {"search": 20, "global": 100}),
        (METER_EVENT, True, False, {"meter events": 1_000}),
        ("PostV2BillingMeterEvents", True, False, {"meter events": 1_000}),
        (METER_EVENT, True, True, {"global": 100}),
        (limits.STREAM, True, False, {"stream": 10_000}),
        ("GetV1Customers", False, False, {"global": 25}),
        ("GetV1CustomersSearch", False, False, {"search": 20, "global": 25}),
        (METER_EVENT, False, False, {"global": 25}),
        (limits.STREAM, False, True, {"global": 25}),
    ],
)
def test_which_limits_a_call_counts_in(
    operation: str, buckets: dict[str, float], *, livemode: bool, connected: bool
) -> None:
    """Meter events have a limit of their own only in live mode and with the account's own key."""
    found = claims(Limits(), operation, livemode=livemode, connected=connected, events=7)
    assert buckets == {claim.bucket: claim.rate for claim in found}
    assert {claim.cost for claim in found} == {7 if "stream" in buckets else 1}


@given(
    rate=st.integers(1, 50),
    waits=st.lists(st.floats(0, 2), max_size=200),
)
def test_a_bucket_never_lets_more_through_than_its_rate(rate: int, waits: list[float]) -> None:
    """Over any stretch of time: what a full bucket holds, and its rate."""
    budget, now, passed = Budget(), 0.0, 0
    for wait in waits:
        now += wait
        passed += budget.spend([Claim("b", rate, "global-rate")], now) is None
    assert passed <= rate + rate * now + 1e-6


def test_a_refused_call_takes_nothing() -> None:
    """A call must fit all its buckets; the one that is empty is named, the others stay full."""
    budget = Budget()
    wide, narrow = Claim("wide", 2, "global-rate"), Claim("narrow", 1, "endpoint-rate")
    assert budget.spend([wide, narrow], 0) is None
    assert budget.spend([wide, narrow], 0) is narrow
    assert budget.spend([wide], 0) is None
    assert budget.spend([wide], 0) is wide
    assert budget.spend([wide, narrow], 1) is None


def test_a_changed_rate_holds_at_once() -> None:
    """A limit that is lowered takes away what was saved up."""
    budget = Budget()
    assert budget.spend([Claim("b", 100, "global-rate")], 0) is None
    left = [budget.spend([Claim("b", 3, "global-rate")], 0) is None for _ in range(5)]
    assert left == [True, True, True, False, False]


def test_a_batch_larger_than_the_rate_gets_through_when_nothing_else_does() -> None:
    """A hundred events under a limit of ten per second wait until the bucket is full."""
    budget = Budget()
    batch = Claim("stream", 10, "endpoint-rate", cost=100)
    assert budget.spend([batch], 0) is None
    assert budget.spend([batch], 5) is batch
    assert budget.spend([batch], 10) is None


@pytest.mark.parametrize("wrong", [{"global_per_s": 0}, {"per_minute": 5}])
def test_a_wrong_limit_is_refused(wrong: dict[str, float]) -> None:
    """A rate is above zero, and only Stripe's limits have names."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Limits)


def test_beyond_the_limit_a_call_is_a_429_until_it_is_lifted(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """The answer has Stripe's code and reason and no Retry-After; state counts the refused."""
    sdk.v1.customers.list()
    emulator.limit(sandbox_per_s=0.001)
    sdk.v1.customers.list()
    with pytest.raises(stripe_sdk.RateLimitError) as caught:
        sdk.v1.customers.list()
    assert caught.value.error is not None
    assert caught.value.headers is not None
    assert caught.value.error.code == "rate_limit"
    assert caught.value.headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    assert "Retry-After" not in caught.value.headers
    emulator.limit(enforce=False)
    sdk.v1.customers.list()
    account = emulator.state()["accounts"][0]
    assert account["limited"] == {"global": 1}
    assert account["calls"] == {"GET /v1/customers": {"200": 3, "429": 1}}


def test_connected_accounts_share_no_limit_of_meter_events(
    emulator: RemoteEmulator, connect: Connect
) -> None:
    """In live mode the own key has the fast lane; with Stripe-Account the global limit holds."""
    headers = {"authorization": "Bearer sk_live_A", "stripe-account": "acct_other"}
    body: Any = {"customers": [{}], "meters": [{"event_name": "tokens"}]}
    seeded = httpx.post(f"{emulator.url}/_emulator/seed", json=body, headers=headers).json()
    emulator.limit(global_per_s=0.001)
    payload = {"stripe_customer_id": seeded["customers"][0], "value": "1"}
    event: Any = {"event_name": "tokens", "payload": payload}
    platform = connect("sk_live_A", stripe_account="acct_other")
    platform.v1.billing.meter_events.create(event)
    with pytest.raises(stripe_sdk.RateLimitError):
        platform.v1.billing.meter_events.create(event)
    own = connect("sk_live_A").v1.billing.meter_events
    for _ in range(3):
        with pytest.raises(stripe_sdk.InvalidRequestError, match="No active meter"):
            own.create(event)
