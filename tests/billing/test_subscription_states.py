"""The states of a subscription: every step of the table, and who is told of it."""

import json
from typing import TYPE_CHECKING, get_args

import pytest
from sqlmodel import col, select

from usageflow.billing.subscription_states import (
    BILLED,
    GRANTING,
    TRANSITIONS,
    Trigger,
    advance,
    refusal,
    told,
)
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import SUBSCRIPTION_STATES, SubscriptionRow
from usageflow.db.outbox_tables import WebhookEventRow
from usageflow.db.session import Tx

if TYPE_CHECKING:
    from tests.billing.conftest import Shop

TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)


def events(tx: Tx) -> list[tuple[str, str]]:
    """What webhooks are told, as (type, status)."""
    rows = tx.session.exec(select(WebhookEventRow).order_by(col(WebhookEventRow.seq))).all()
    return [(row.type, json.loads(row.body)["data"]["status"]) for row in rows]


def test_the_table_has_every_state_and_one_end() -> None:
    """Each state is left by cancelling at least, but the last; nothing leads out of that."""
    assert {state for state, _ in TRANSITIONS} == set(SUBSCRIPTION_STATES) - {"CANCELLED"}
    assert {state for state, step in TRANSITIONS if step == "cancel"} == {
        state for state, _ in TRANSITIONS
    }
    assert set(TRANSITIONS.values()) <= set(SUBSCRIPTION_STATES)
    assert {step for _, step in TRANSITIONS} == set(TRIGGERS)
    assert {*BILLED, *GRANTING} <= set(SUBSCRIPTION_STATES)


def test_every_step_is_taken_or_changes_nothing(shop: "Shop") -> None:
    """For each state and trigger: the table's state, or False and all as before."""
    shop.plan()
    shop.customer()
    subscription = shop.subscribe()
    with shop.tx() as tx:
        row = tx.session.get_one(SubscriptionRow, subscription.id)
        for state in SUBSCRIPTION_STATES:
            for trigger in TRIGGERS:
                row.state = state
                following = TRANSITIONS.get((state, trigger))
                assert advance(tx, row, trigger) is (following is not None)
                assert row.state == (following or state)
        tx.session.rollback()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["fall_behind"], []),
        (["fall_behind", "recover"], []),
        (
            ["fall_behind", "suspend", "recover"],
            [("suspended", "SUSPENDED"), ("activated", "ACTIVE")],
        ),
        (["suspend"], [("suspended", "SUSPENDED")]),
        (["pause", "resume"], [("activated", "ACTIVE")]),
        (["pause", "cancel"], [("canceled", "CANCELLED")]),
    ],
)
def test_whoever_listens_is_told_what_changes_for_the_subscriber(
    shop: "Shop", steps: list[Trigger], expected: list[tuple[str, str]]
) -> None:
    """Suspension, activation and the end are told, with the new status; being late is not."""
    shop.plan()
    shop.customer()
    subscription = shop.subscribe()
    with shop.tx() as tx:
        row = tx.session.get_one(SubscriptionRow, subscription.id)
        for step in steps:
            assert advance(tx, row, step)
        tx.session.flush()
        assert events(tx)[1:] == [(f"subscription.{what}", status) for what, status in expected]


def test_past_due_is_counted_from_its_beginning(shop: "Shop") -> None:
    """Suspension keeps since when it is past due; recovery forgets it."""
    shop.plan()
    shop.customer()
    subscription = shop.subscribe()
    late_since = shop.now
    with shop.tx() as tx:
        assert advance(tx, tx.session.get_one(SubscriptionRow, subscription.id), "fall_behind")
    shop.wait(days=14)
    with shop.tx() as tx:
        row = tx.session.get_one(SubscriptionRow, subscription.id)
        assert advance(tx, row, "suspend")
        assert (row.past_due_at, row.updated_at) == (late_since, shop.now)
        assert advance(tx, row, "recover")
        assert row.past_due_at is None


def test_what_is_told_names_customer_and_plan_as_people_know_them(shop: "Shop") -> None:
    """The customer's external id and the plan's name, as the plan of billing says."""
    plan = shop.plan()
    shop.customer()
    subscription = shop.subscribe()
    with shop.tx() as tx:
        assert told(tx, tx.session.get_one(SubscriptionRow, subscription.id)) == {
            "subscriptionId": subscription.id,
            "customerId": "acme",
            "planId": plan.id,
            "planName": "Pro",
            "status": "ACTIVE",
        }


def test_a_refusal_says_from_which_states_the_step_is_possible() -> None:
    """It names them, and the state it is in."""
    row = SubscriptionRow(plan_version=1, period_index=0, state="TRIAL")
    assert refusal(row, "pause") == Refused(
        "conflict", "pause needs a subscription that is ACTIVE or PAST_DUE; this one is TRIAL"
    )
    assert refusal(row, "cancel") is None
