"""Faults: in turn, and by a chance that is always the same."""

from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.faults import Fault, Faults, Plan, Rule
from usageflow.stripe.emulator.remote import RemoteEmulator

EVENTS = "POST /v1/billing/meter_events"


def fates(faults: Faults, path: str = "/v1/billing/meter_events", calls: int = 100) -> list[bool]:
    """Which of so many calls are struck."""
    return [faults.take("POST", path) is not None for _ in range(calls)]


def plan(rate: float = 0.3, seed: int = 7, **options: Any) -> Faults:
    """Faults of a plan with one rule."""
    made = Faults()
    made.follow(Plan([Rule(route=EVENTS, kind="reset", rate=rate, **options)], seed))
    return made


def test_a_seed_always_tells_the_same_fate() -> None:
    """The same seed strikes the same calls, about as many as its rate; another seed others."""
    struck = fates(plan())
    assert struck == fates(plan())
    assert struck != fates(plan(seed=8))
    assert 20 <= sum(struck) <= 40


def test_other_routes_do_not_change_the_fate() -> None:
    """Chance is drawn only for calls that a rule is about."""
    faults = plan()
    struck = []
    for _ in range(100):
        assert faults.take("GET", "/v1/customers") is None
        struck += fates(faults, calls=1)
    assert struck == fates(plan())


def test_a_rule_strikes_for_ever_or_so_often() -> None:
    """Without a count there is no end; what is used up is gone."""
    assert sum(fates(plan(rate=1))) == 100
    limited = plan(count=5)
    assert sum(fates(limited)) == 5
    assert limited.shown() == []


def test_a_plan_takes_the_place_of_what_was_asked_before() -> None:
    """What is shown is what is left to come."""
    faults = plan()
    faults.add(Fault(route="/v1", kind="status", count=2))
    assert [(fault.kind, fault.count) for fault in faults.shown()] == [
        ("reset", None),
        ("status", 2),
    ]
    faults.follow(Plan([]))
    assert faults.shown() == []


def test_applied_but_the_reply_lost(sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """A plan over TCP: of ten events all count, and some callers do not know."""
    customer = emulator.seed([{}], ["tokens"])[0]
    rule = {"route": EVENTS, "kind": "reset", "rate": 0.5, "after_commit": True}
    emulator.plan(rule, seed=1)
    lost = 0
    payload = {"stripe_customer_id": customer, "value": "1"}
    for number in range(10):
        event: Any = {"event_name": "tokens", "payload": payload, "identifier": str(number)}
        try:
            sdk.v1.billing.meter_events.create(event)
        except stripe_sdk.APIConnectionError:
            lost += 1
    assert 0 < lost < 10
    assert len(list(emulator.journal())) == 10
    emulator.clear_faults()
    assert emulator.state()["faults"] == []
    with pytest.raises(stripe_sdk.InvalidRequestError, match="already exists"):
        sdk.v1.billing.meter_events.create(event)
    assert emulator.attempts("9") == 2
