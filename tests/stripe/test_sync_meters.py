"""Which meters the policies need, and what is done about those that are not there."""

from decimal import Decimal
from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import publish
from usageflow.db.session import Database
from usageflow.errors import DeliveryError
from usageflow.policies import Policy
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.meter_events import Meter
from usageflow.stripe.sync_meters import Step, Wanted, apply, event_names, plan, wanted


def policy(name: str, event_name: str | None, **changes: Any) -> Policy:
    """A policy that is sent under this event name."""
    return Policy.model_validate(
        {
            "name": name,
            "match": "GET /v1",
            "identify": [{"from": "header", "name": "x-account-id"}],
            "field": "account_id",
            "metric": f"M_{name.upper()}",
            "event_name": event_name,
            **changes,
        }
    )


CALLS = Wanted(event_name="calls", policies=("a",), counts=True)
TOKENS = Wanted(event_name="tokens", policies=("b",), counts=False)


def test_what_is_sent_is_wanted() -> None:
    """By event name; not what is recorded only, nor what has no event name."""
    found = event_names(
        [
            policy("a", "calls"),
            policy("b", "tokens", quantity="response.body.n"),
            policy("c", "calls", quantity=2),
            policy("d", "calls_too", quantity=Decimal("1.0")),
            policy("e", None),
            policy("f", "shadow", mode="shadow"),
            policy("g", "off", mode="off"),
        ]
    )
    assert [(one.event_name, one.policies, one.counts) for one in found] == [
        ("calls", ("a", "c"), False),
        ("calls_too", ("d",), True),
        ("tokens", ("b",), False),
    ]


def test_the_policies_in_use_say_what_is_wanted(database: Database) -> None:
    """Those of the organization, as they are stored."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        assert wanted(tx, organization_id) == []
        publish(tx, organization_id, [policy("a", "calls"), policy("b", "old")])
        publish(tx, organization_id, [policy("a", "calls")])
        assert wanted(tx, organization_id) == [CALLS]


@pytest.mark.parametrize(
    ("one", "changes", "state", "reason"),
    [
        (CALLS, {}, "ok", ""),
        (TOKENS, {}, "ok", ""),
        (CALLS, {"formula": "count"}, "ok", ""),
        (TOKENS, {"formula": "last"}, "ok", ""),
        (TOKENS, {"formula": "count"}, "unusable", "quantities can be other than 1"),
        (TOKENS, {"formula": "count", "status": "inactive"}, "unusable", "counts events"),
        (CALLS, {"time_window": "hour"}, "unusable", "only the last event of each hour"),
        (CALLS, {"status": "inactive"}, "inactive", "deactivated"),
    ],
)
def test_a_meter_is_judged(one: Wanted, changes: dict[str, str], state: str, reason: str) -> None:
    """A deactivated one of the wrong kind is not reactivated: that would make it bill."""
    meter = Meter(**{"event_name": one.event_name, "meter_id": "mtr_1", **changes})
    (step,) = plan([one], [Meter(event_name="another"), meter])
    assert (step.state, step.meter) == (state, meter)
    assert reason in step.reason
    assert step.action == ("reactivate" if state == "inactive" else None)


def test_a_meter_that_is_missing_is_created() -> None:
    """Meters that nobody wants are no business of ours."""
    assert plan([CALLS], [Meter(event_name="another")])[0].action == "create"
    assert plan([], [Meter(event_name="another")]) == []


def test_of_two_meters_none_is_chosen() -> None:
    """Stripe says that it cannot be; if it is, a person decides."""
    meters = [Meter(event_name="calls", meter_id=name) for name in ("mtr_1", "mtr_2")]
    (step,) = plan([CALLS], meters)
    assert (step.state, step.action) == ("unusable", None)
    assert step.reason.endswith("mtr_1, mtr_2")


def test_the_plan_is_done_and_nothing_else(
    gateway: StripeGateway, emulator: RemoteEmulator, sdk: stripe_sdk.StripeClient
) -> None:
    """Afterwards all is as it should be, but for what only a person can decide."""
    emulator.seed(meters=["tokens", "unwanted", {"event_name": "counted", "formula": "count"}])
    by_name = {meter.event_name: meter.meter_id for meter in gateway.list_meters()}
    for name in ("tokens", "unwanted"):
        sdk.v1.billing.meters.deactivate(by_name[name])
    counted = Wanted(event_name="counted", policies=("c",), counts=False)
    steps = plan([CALLS, TOKENS, counted], gateway.list_meters())
    assert [step.state for step in steps] == ["missing", "inactive", "unusable"]
    done = apply(gateway, steps)
    assert [(meter.event_name, meter.formula, meter.status) for meter in done] == [
        ("calls", "sum", "active"),
        ("tokens", "sum", "active"),
    ]
    meters = list(gateway.list_meters())
    assert {meter.event_name: meter.status for meter in meters} == {
        "calls": "active",
        "tokens": "active",
        "counted": "active",
        "unwanted": "inactive",
    }
    after = plan([CALLS, TOKENS, counted], meters)
    assert [step.state for step in after] == ["ok", "ok", "unusable"]
    assert apply(gateway, after) == []


def test_a_meter_that_somebody_else_made_meanwhile_is_told(gateway: StripeGateway) -> None:
    """The event name is taken; a new plan sees whose it is."""
    gateway.create_meter("calls", display_name="calls")
    with pytest.raises(DeliveryError, match="calls"):
        apply(gateway, [Step(wanted=CALLS, state="missing")])
