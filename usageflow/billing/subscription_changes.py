"""What a person wishes of a subscription: pause, resume, cancel, keep, another plan.

Each wish takes the subscription's turns that are due first, so that it meets what it would have met
had the worker been in time; each is noted in the audit log. A refused one changes nothing once its
transaction is rolled back.
"""

from typing import Literal, TypeAlias

from usageflow.billing import guard, turnover
from usageflow.billing.subscription_states import BILLED, Trigger, advance, refusal
from usageflow.billing.subscriptions import locked, note, offered, standing, taken, unknown
from usageflow.billing.turnover import Close, terms_of
from usageflow.catalog import plans, turns
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow, SubscriptionRow
from usageflow.db.session import Tx

Moment: TypeAlias = Literal["now", "period_end"]


def pause(
    tx: Tx, organization_id: str, subscription_id: str, *, close: Close, actor: Actor
) -> SubscriptionRow | Refused:
    """End the running period now, invoiced so far; nothing is billed until it is resumed."""
    subscription = _at_hand(tx, organization_id, subscription_id, close, "pause")
    if isinstance(subscription, Refused):
        return subscription
    before = standing(subscription)
    turnover.end_period(tx, subscription, close)
    subscription.due_at = None
    subscription.paused_at = tx.now
    advance(tx, subscription, "pause")
    note(tx, subscription, "pause", before, actor)
    return subscription


def resume(
    tx: Tx, organization_id: str, subscription_id: str, *, close: Close, actor: Actor
) -> SubscriptionRow | Refused:
    """Let a new billing period begin now, from which the next ones are counted."""
    subscription = _at_hand(tx, organization_id, subscription_id, close, "resume")
    if isinstance(subscription, Refused):
        return subscription
    before = standing(subscription)
    begins_at = max(tx.now, subscription.period_end)
    turnover.go_on(tx, subscription, terms_of(tx, subscription), begins_at)
    subscription.paused_at = None
    advance(tx, subscription, "resume")
    note(tx, subscription, "resume", before, actor)
    return subscription


def cancel(
    tx: Tx,
    organization_id: str,
    subscription_id: str,
    *,
    at_period_end: bool,
    reason: str | None = None,
    close: Close,
    actor: Actor,
) -> SubscriptionRow | Refused:
    """End a subscription: at the end of its period or trial, or now, invoiced so far.

    One that is paused has no running period and ends now in any case. A change of plan that was to
    come does not.
    """
    subscription = _at_hand(tx, organization_id, subscription_id, close, "cancel")
    if isinstance(subscription, Refused):
        return subscription
    before = standing(subscription)
    subscription.canceled_at = subscription.updated_at = tx.now
    subscription.cancel_reason = reason
    if at_period_end and subscription.state != "PAUSED":
        subscription.cancel_at_period_end = True
        turnover.forget_next_plan(subscription)
    else:
        turnover.end_period(tx, subscription, close)
        turnover.finish(tx, subscription, tx.now)
    note(tx, subscription, "cancel", before, actor)
    return subscription


def uncancel(
    tx: Tx, organization_id: str, subscription_id: str, *, close: Close, actor: Actor
) -> SubscriptionRow | Refused:
    """Let a subscription that was to end with its period go on after all."""
    subscription = _at_hand(tx, organization_id, subscription_id, close)
    if isinstance(subscription, Refused):
        return subscription
    if not subscription.cancel_at_period_end or subscription.state == "CANCELLED":
        message = f"it is not about to end; it is {subscription.state}"
        return Refused("conflict", message)
    before = standing(subscription)
    subscription.cancel_at_period_end = False
    subscription.canceled_at = subscription.cancel_reason = None
    subscription.updated_at = tx.now
    note(tx, subscription, "uncancel", before, actor)
    return subscription


def change_plan(
    tx: Tx,
    organization_id: str,
    subscription_id: str,
    plan: str,
    *,
    when: Moment,
    close: Close,
    actor: Actor,
) -> SubscriptionRow | Refused:
    """Go on under the newest version of a plan of the same currency, perhaps of the same plan.

    `now`: the running period ends, invoiced so far. If the new plan has the same periods, the rest
    of it is billed under that, prorated; otherwise a new schedule begins. A trial or a pause stays
    as long as it is. `period_end`: when the period, trial or pause is over.
    """
    turns.take_turn(tx, organization_id)
    subscription = _at_hand(tx, organization_id, subscription_id, close)
    if isinstance(subscription, Refused):
        return subscription
    chosen = offered(tx, organization_id, plan)
    if isinstance(chosen, Refused):
        return chosen
    if refused := _change_problem(tx, subscription, chosen, when):
        return refused
    before = standing(subscription)
    subscription.next_plan_id, subscription.next_plan_version = chosen.id, chosen.version
    subscription.updated_at = tx.now
    if when == "now" and subscription.state in BILLED:
        ended_at = turnover.end_period(tx, subscription, close)
        turnover.go_on(tx, subscription, terms_of(tx, subscription), ended_at)
    elif when == "now":
        turnover.adopt_next_plan(subscription)
    note(tx, subscription, "change_plan", before, actor)
    return subscription


def keep_plan(
    tx: Tx, organization_id: str, subscription_id: str, *, close: Close, actor: Actor
) -> SubscriptionRow | Refused:
    """Take back a change of plan that is still to come."""
    subscription = _at_hand(tx, organization_id, subscription_id, close)
    if isinstance(subscription, Refused):
        return subscription
    if subscription.next_plan_id is None:
        return Refused("conflict", "no change of its plan is to come")
    before = standing(subscription)
    turnover.forget_next_plan(subscription)
    subscription.updated_at = tx.now
    note(tx, subscription, "keep_plan", before, actor)
    return subscription


def _at_hand(
    tx: Tx, organization_id: str, subscription_id: str, close: Close, trigger: Trigger | None = None
) -> SubscriptionRow | Refused:
    """The subscription for us alone, its turns taken; refused if it cannot take this step."""
    subscription = locked(tx, organization_id, subscription_id)
    if subscription is None:
        return unknown(subscription_id)
    turnover.catch_up(tx, subscription, close)
    return (None if trigger is None else refusal(subscription, trigger)) or subscription


def _change_problem(
    tx: Tx, subscription: SubscriptionRow, chosen: PlanRow, when: Moment
) -> Refused | None:
    organization_id = subscription.organization_id
    if subscription.state == "CANCELLED":
        return Refused("conflict", "it has ended; make a new subscription")
    if when == "period_end" and subscription.cancel_at_period_end:
        return Refused("conflict", "it ends with its period; uncancel it first", "when")
    if (chosen.id, chosen.version) == (subscription.plan_id, subscription.plan_version):
        message = f"it is under the newest version of {chosen.name} already"
        return Refused("conflict", message, "plan_id")
    version = (chosen.id, chosen.version)
    terms = plans.terms_of_many(tx, [version])[version]
    currency = terms_of(tx, subscription).currency
    if terms.currency != currency:
        message = f"{chosen.name} is priced in {terms.currency}, this subscription in {currency}"
        return Refused("conflict", message, "plan_id")
    besides, customer_id = subscription.id, subscription.customer_id
    return taken(tx, organization_id, customer_id, chosen, besides=besides) or guard.problem(
        tx, organization_id, customer_id, terms, besides=besides
    )
