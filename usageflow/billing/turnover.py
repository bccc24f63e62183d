"""What is due on a subscription when a period or a trial is over: one turn after the other.

A subscription that nobody minded for long takes several turns, and comes to the same as if each
had been taken in time. The invoice of a period is `closing`'s, what a person wishes
`subscription_changes`'s.
"""

from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from usageflow.billing import schedules
from usageflow.billing.subscription_states import BILLED, advance
from usageflow.catalog import plans
from usageflow.catalog.charges import Terms
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.db.session import Tx

Turn: TypeAlias = Literal["none", "activated", "closed", "ended"]


class Close(Protocol):
    """Makes the invoice of [`subscription.period_start`, `end`), and leaves the subscription."""

    def __call__(
        self,
        tx: Tx,
        subscription: SubscriptionRow,
        terms: Terms,
        *,
        end: datetime,
        kind: Literal["period", "interim"],
    ) -> object:
        """`period`: nothing comes after it in this period. `interim`: the period goes on."""


def take_turn(
    tx: Tx, subscription: SubscriptionRow, close: Close, terms: Terms | None = None
) -> Turn:
    """Do what is due first on a subscription that nobody else can change meanwhile.

    `terms` are those it is under, if who asks for many turns knows them.

    A trial becomes ACTIVE without an invoice; a period is closed, then the subscription ends,
    changes its plan, or goes on: each as of the moment it was due, however late that is noticed.
    `due_at` may be later than that, where a worker failed and puts off its next attempt.
    """
    if subscription.due_at is None or subscription.period_end > tx.now:
        return "none"
    at, terms = subscription.period_end, terms or terms_of(tx, subscription)
    if subscription.state in BILLED:
        close(tx, subscription, terms, end=at, kind="period")
    if subscription.cancel_at_period_end:
        finish(tx, subscription, at)
        return "ended"
    go_on(tx, subscription, terms, at)
    return "activated" if advance(tx, subscription, "activate") else "closed"


def catch_up(tx: Tx, subscription: SubscriptionRow, close: Close) -> None:
    """Take every turn that is due."""
    while take_turn(tx, subscription, close) != "none":
        pass


def end_period(tx: Tx, subscription: SubscriptionRow, close: Close) -> datetime:
    """End the running period now, invoiced so far; when it ended.

    A trial ends without an invoice. What is paused has no running period, and what has not begun
    none to invoice: it ends where it would have begun.
    """
    if subscription.state == "PAUSED":
        return subscription.period_end
    at = max(tx.now, subscription.period_start)
    if subscription.state in BILLED and at > subscription.period_start:
        close(tx, subscription, terms_of(tx, subscription), end=at, kind="period")
    subscription.period_end = at
    return at


def go_on(tx: Tx, subscription: SubscriptionRow, before: Terms, at: datetime) -> None:
    """Begin the next period at the end of the one before, under the plan that was asked for.

    `before` are the terms it is under. The schedule stays what it is between plans that have the
    same periods. After a trial or a pause a new one begins.
    """
    terms = terms_of(tx, subscription) if adopt_next_plan(subscription) else before
    if subscription.state in BILLED and schedules.same_rhythm(before, terms):
        schedules.begin(subscription, terms, at)
    else:
        schedules.begin_anew(subscription, terms, at)
    subscription.updated_at = tx.now


def adopt_next_plan(subscription: SubscriptionRow) -> bool:
    """Put a subscription under the plan it is to change to; False if it is to keep its own."""
    plan_id, version = subscription.next_plan_id, subscription.next_plan_version
    if plan_id is None or version is None:
        return False
    subscription.plan_id, subscription.plan_version = plan_id, version
    forget_next_plan(subscription)
    return True


def forget_next_plan(subscription: SubscriptionRow) -> None:
    """Let it stay under the plan it has."""
    subscription.next_plan_id = subscription.next_plan_version = None


def finish(tx: Tx, subscription: SubscriptionRow, at: datetime) -> None:
    """End a subscription whose last period has ended: nothing is due on it any more."""
    subscription.ended_at = at
    subscription.due_at = None
    forget_next_plan(subscription)
    advance(tx, subscription, "cancel")


def terms_of(tx: Tx, subscription: SubscriptionRow) -> Terms:
    """What the subscriber was promised: the version of the plan subscribed to."""
    version = (subscription.plan_id, subscription.plan_version)
    return plans.terms_of_many(tx, [version])[version]
