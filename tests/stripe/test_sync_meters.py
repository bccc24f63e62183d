"""Which meters the policies need, and what is done about those that are not there."""

from decimal import Decimal
from typing import Any

import pytest
import stripe as stripe_sdk
from sqlmodel import col, select

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import publish
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow
from usageflow.errors import DeliveryError
from usageflow.policies import Policy
from usageflow.stripe import accounts
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.meter_events import Meter
from usageflow.stripe.sync_meters import Step, Wanted, apply, event_names, plan, wanted

Own = tuple[str, StripeGateway]


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


@pytest.fixture
def own(database: Database, gateway: StripeGateway) -> Own:
    """The id of the organization's own account, and Stripe as it sees it."""
    with database.transaction() as tx:
        return accounts.ensure_own(tx, default_organization(tx), livemode=False), gateway


def test_the_plan_is_done_and_nothing_else(
    database: Database, emulator: RemoteEmulator, sdk: stripe_sdk.StripeClient, own: Own
) -> None:
    """Afterwards all is as it should be, but for what only a person can decide; and it is noted."""
    account_id, gateway = own
    emulator.seed(meters=["tokens", "unwanted", {"event_name": "counted", "formula": "count"}])
    by_name = {meter.event_name: meter.meter_id for meter in gateway.list_meters()}
    for name in ("tokens", "unwanted"):
        sdk.v1.billing.meters.deactivate(by_name[name])
    counted = Wanted(event_name="counted", policies=("c",), counts=False)
    steps = plan([CALLS, TOKENS, counted], gateway.list_meters())
    assert [step.state for step in steps] == ["missing", "inactive", "unusable"]
    done = apply(database, account_id, gateway, steps, actor=CLI)
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
    assert apply(database, account_id, gateway, after, actor=CLI) == []
    with database.reading() as tx:
        noted = tx.session.exec(select(AuditRow).order_by(col(AuditRow.seq))).all()
        assert [(row.actor, row.action, row.subject) for row in noted] == [
            (CLI, "stripe.meter.create", "calls"),
            (CLI, "stripe.meter.reactivate", "tokens"),
        ]
        assert done[0].meter_id in str(noted[0].after)


def test_a_meter_that_somebody_else_made_meanwhile_is_told(database: Database, own: Own) -> None:
    """The event name is taken; a new plan sees whose it is. What was done before is noted."""
    account_id, gateway = own
    gateway.create_meter("calls", display_name="calls")
    with pytest.raises(DeliveryError, match="calls"):
        steps = [Step(wanted=one, state="missing") for one in (TOKENS, CALLS)]
        apply(database, account_id, gateway, steps, actor=CLI)
    with database.reading() as tx:
        assert tx.session.exec(select(AuditRow.subject)).all() == ["tokens"]
