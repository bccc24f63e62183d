"""The states of a subscription: every step there is, as a table, and who is told of it.

Why a step is taken is said where it is taken: `turnover`, `subscriptions`, `dunning`.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from sqlmodel import col, select

from usageflow.catalog.refusals import Refused
from usageflow.db import outbox
from usageflow.db.billing_tables import PlanRow, SubscriptionRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow

Trigger: TypeAlias = Literal[
    "activate", "fall_behind", "suspend", "recover", "pause", "resume", "cancel"
]

TRANSITIONS: Final[Mapping[tuple[str, Trigger], str]] = {
    # the worker: a trial is over
    ("TRIAL", "activate"): "ACTIVE",
    # dunning: an invoice is not paid, for long, or after all
    ("ACTIVE", "fall_behind"): "PAST_DUE",
    ("ACTIVE", "suspend"): "SUSPENDED",
    ("PAST_DUE", "suspend"): "SUSPENDED",
    ("PAST_DUE", "recover"): "ACTIVE",
    ("SUSPENDED", "recover"): "ACTIVE",
    # a person
    ("ACTIVE", "pause"): "PAUSED",
    ("PAST_DUE", "pause"): "PAUSED",
    ("PAUSED", "resume"): "ACTIVE",
    ("TRIAL", "cancel"): "CANCELLED",
    ("ACTIVE", "cancel"): "CANCELLED",
    ("PAST_DUE", "cancel"): "CANCELLED",
    ("PAUSED", "cancel"): "CANCELLED",
    ("SUSPENDED", "cancel"): "CANCELLED",
}
"""(state, what happens) -> state."""
BILLED: Final = ("ACTIVE", "PAST_DUE", "SUSPENDED")
"""The states whose periods are invoiced. What is used while suspended is used all the same; who
wants no more invoices cancels."""
GRANTING: Final = ("TRIAL", "ACTIVE", "PAST_DUE")
"""The states in which a plan's entitlements hold."""

_TOLD: Final[Mapping[tuple[str, str], outbox.EventType]] = {
    ("TRIAL", "ACTIVE"): "subscription.activated",
    ("PAUSED", "ACTIVE"): "subscription.activated",
    ("SUSPENDED", "ACTIVE"): "subscription.activated",
    ("ACTIVE", "SUSPENDED"): "subscription.suspended",
    ("PAST_DUE", "SUSPENDED"): "subscription.suspended",
}
"""(state, next state) -> event. Being past due and no more changes nothing for the subscriber."""


def advance(tx: Tx, subscription: SubscriptionRow, trigger: Trigger) -> bool:
    """Take a step and tell of it; False, and nothing is done, if it does not exist.

    Since when a subscription is past due is kept until it is so no more.
    """
    before = subscription.state
    state = TRANSITIONS.get((before, trigger))
    if state is None:
        return False
    subscription.state = state
    subscription.updated_at = tx.now
    if state in ("PAST_DUE", "SUSPENDED"):
        subscription.past_due_at = subscription.past_due_at or tx.now
    else:
        subscription.past_due_at = None
    event = "subscription.canceled" if state == "CANCELLED" else _TOLD.get((before, state))
    if event is not None:
        outbox.emit(tx, subscription.organization_id, event, told(tx, subscription))
    return True


def refusal(subscription: SubscriptionRow, trigger: Trigger) -> Refused | None:
    """Why a person cannot have this step taken; None if it exists."""
    if (subscription.state, trigger) in TRANSITIONS:
        return None
    possible = " or ".join(state for state, step in TRANSITIONS if step == trigger)
    message = f"{trigger} needs a subscription that is {possible}; this one is {subscription.state}"
    return Refused("conflict", message)


def told(tx: Tx, subscription: SubscriptionRow) -> dict[str, Any]:
    """What webhooks tell of a subscription."""
    external_id, plan_name = tx.session.exec(
        select(CustomerRow.external_id, PlanRow.name)
        .join(PlanRow, col(PlanRow.organization_id) == CustomerRow.organization_id)
        .where(
            col(CustomerRow.organization_id) == subscription.organization_id,
            col(CustomerRow.id) == subscription.customer_id,
            col(PlanRow.id) == subscription.plan_id,
        )
    ).one()
    return {
        "subscriptionId": subscription.id,
        "customerId": external_id,
        "planId": subscription.plan_id,
        "planName": plan_name,
        "status": subscription.state,
    }
