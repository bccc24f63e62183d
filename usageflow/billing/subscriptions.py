"""Subscriptions: a customer's use of a plan, from the day it is made; how they are found.

What is due on one is `turnover`'s, what a person wishes of it later `subscription_changes`'s.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import select as sql_select
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from usageflow.billing import guard, schedules
from usageflow.billing.subscription_states import Trigger, advance, told
from usageflow.catalog import audit, customers, organization_settings, plans, turns
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import TRIAL_DAYS_MAX, Terms
from usageflow.catalog.listings import paged
from usageflow.catalog.refusals import Refused
from usageflow.db import outbox
from usageflow.db.billing_tables import PlanRow, SubscriptionRow
from usageflow.db.columns import table
from usageflow.db.ids import new_id
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow
from usageflow.periods import Schedule

START_PAST_MAX: Final = timedelta(days=3_653)
"""Ten years: about as long as books must be kept. An older start is a mistake in the year."""
START_AHEAD_MAX: Final = timedelta(days=366)
"""A contract may be entered before it begins; further away it is a mistake in the year."""
PERIODS_AT_ONCE_MAX: Final = 1_000
"""Periods that a start in the past leaves to be closed at once, with an invoice for each."""
TRIAL_MAX: Final = timedelta(days=TRIAL_DAYS_MAX)
"""The longest trial, given by its end."""


class Described(NamedTuple):
    """A subscription, with what people call its customer and its plan, and its terms."""

    row: SubscriptionRow
    customer: str
    plan: str
    terms: Terms


def create(
    tx: Tx,
    organization_id: str,
    customer: str | None,
    plan: str,
    *,
    start_at: datetime | None = None,
    trial_end: datetime | None = None,
    billing_interval: str | None = None,
    actor: Actor,
) -> SubscriptionRow | Refused:
    """Subscribe a customer, by id or external id, to the newest version of a plan.

    No customer: the organization subscribes, as its own default customer. It begins at `start_at`
    (now), perhaps with a trial up to `trial_end` (as long as the plan says; none if both are
    equal); the first billing period follows the trial. What lies in the past is invoiced by the
    worker, period by period. `billing_interval` can only say what the plan says.
    """
    turns.take_turn(tx, organization_id)
    payer = _payer(tx, organization_id, customer)
    if isinstance(payer, Refused):
        return payer
    chosen = offered(tx, organization_id, plan)
    if isinstance(chosen, Refused):
        return chosen
    version = (chosen.id, chosen.version)
    terms = plans.terms_of_many(tx, [version])[version]
    zone = organization_settings.read(tx, organization_id).time_zone
    start = tx.now if start_at is None else start_at
    billed_from = _trial_end(terms, start, zone) if trial_end is None else trial_end
    refused = (
        _interval_problem(terms, billing_interval)
        or _start_problem(tx.now, start)
        or _trial_problem(start, billed_from)
        or _backlog_problem(tx.now, Schedule(billed_from, terms.interval, zone, terms.alignment))
        or taken(tx, organization_id, payer.id, chosen)
        or guard.problem(tx, organization_id, payer.id, terms)
    )
    if refused is not None:
        return refused
    subscription = _begun(tx, payer, chosen, zone, start=start, billed_from=billed_from)
    if subscription.state == "ACTIVE":
        schedules.begin_anew(subscription, terms, start)
    tx.session.add(subscription)
    tx.session.flush()
    outbox.emit(tx, organization_id, "subscription.created", told(tx, subscription))
    note(tx, subscription, "create", None, actor)
    return subscription


def find(tx: Tx, organization_id: str, subscription_id: str) -> SubscriptionRow | None:
    """A subscription by its id."""
    return tx.session.exec(_one(organization_id, subscription_id)).one_or_none()


def locked(tx: Tx, organization_id: str, subscription_id: str) -> SubscriptionRow | None:
    """A subscription that nobody else changes until this transaction ends."""
    statement = _one(organization_id, subscription_id).with_for_update()
    fresh = {"populate_existing": True}
    return tx.session.exec(statement, execution_options=fresh).one_or_none()


def listing(
    tx: Tx,
    organization_id: str,
    *,
    customer_id: str | None = None,
    plan_id: str | None = None,
    state: str | None = None,
    offset: int,
    limit: int,
) -> tuple[list[SubscriptionRow], int]:
    """A page of the subscriptions, newest first, and how many there are."""
    statement = select(SubscriptionRow).where(
        col(SubscriptionRow.organization_id) == organization_id
    )
    for column, value in (
        (SubscriptionRow.customer_id, customer_id),
        (SubscriptionRow.plan_id, plan_id),
        (SubscriptionRow.state, state),
    ):
        if value is not None:
            statement = statement.where(col(column) == value)
    newest_first = (col(SubscriptionRow.created_at).desc(), col(SubscriptionRow.id).desc())
    return paged(tx, statement.order_by(*newest_first), offset=offset, limit=limit)


def of_customer(tx: Tx, organization_id: str, customer_id: str) -> list[SubscriptionRow]:
    """The customer's subscriptions that have not ended, newest first. One for each plan at most."""
    return list(
        tx.session.exec(
            select(SubscriptionRow)
            .where(
                col(SubscriptionRow.organization_id) == organization_id,
                col(SubscriptionRow.customer_id) == customer_id,
                col(SubscriptionRow.state) != "CANCELLED",
            )
            .order_by(col(SubscriptionRow.created_at).desc(), col(SubscriptionRow.id).desc())
        )
    )


def described(tx: Tx, organization_id: str, rows: Sequence[SubscriptionRow]) -> list[Described]:
    """Subscriptions as people know them, in the same order."""
    customer, plan, ids = table(CustomerRow).c, table(PlanRow).c, [row.id for row in rows]
    subscription = table(SubscriptionRow)
    found = tx.session.execute(
        sql_select(subscription.c.id, customer.external_id, plan.name)
        .join_from(subscription, table(CustomerRow), customer.id == subscription.c.customer_id)
        .join(table(PlanRow), plan.id == subscription.c.plan_id)
        .where(subscription.c.organization_id == organization_id, subscription.c.id.in_(ids))
    )
    names = {subscription_id: (external_id, name) for subscription_id, external_id, name in found}
    versions = [(row.plan_id, row.plan_version) for row in rows]
    terms = plans.terms_of_many(tx, versions)
    return [
        Described(row, *names[row.id], terms[version])
        for row, version in zip(rows, versions, strict=True)
    ]


def mark_past_due(tx: Tx, subscription: SubscriptionRow) -> bool:
    """An invoice is not paid in time. False if that means nothing in the subscription's state."""
    return _by_system(tx, subscription, "fall_behind")


def suspend(tx: Tx, subscription: SubscriptionRow) -> bool:
    """An invoice has not been paid for long. False as above."""
    return _by_system(tx, subscription, "suspend")


def recover(tx: Tx, subscription: SubscriptionRow) -> bool:
    """All invoices are paid after all. False as above."""
    return _by_system(tx, subscription, "recover")


def offered(tx: Tx, organization_id: str, plan: str) -> PlanRow | Refused:
    """The plan of this id or lookup id, if it can be subscribed to."""
    found = plans.find(tx, organization_id, plan)
    if found is None:
        return plans.unknown(plan, "plan_id")
    if not found.is_active:
        message = f"the plan {found.name} takes no new subscriptions; activate it first"
        return Refused("conflict", message, "plan_id")
    return found


def taken(
    tx: Tx, organization_id: str, customer_id: str, plan: PlanRow, *, besides: str | None = None
) -> Refused | None:
    """Why this customer cannot subscribe to the plan: another subscription does, or is to."""
    for subscription in of_customer(tx, organization_id, customer_id):
        its_plans = (subscription.plan_id, subscription.next_plan_id)
        if subscription.id != besides and plan.id in its_plans:
            message = (
                f"the customer subscribes to {plan.name} already, by {subscription.id}, which is "
                f"{subscription.state}; cancel that one first"
            )
            return Refused("conflict", message, "plan_id")
    return None


def unknown(subscription_id: str) -> Refused:
    """There is no such subscription."""
    return Refused("not_found", f"there is no subscription {subscription_id}")


def note(
    tx: Tx,
    subscription: SubscriptionRow,
    act: str,
    before: dict[str, Any] | None,
    actor: Actor | str,
) -> None:
    """Put a change into the audit log."""
    audit.record(
        tx,
        subscription.organization_id,
        actor=actor,
        action=f"subscription.{act}",
        subject=subscription.id,
        before=before,
        after=standing(subscription),
    )


def standing(subscription: SubscriptionRow) -> dict[str, Any]:
    """What the audit log keeps of a subscription."""
    return subscription.model_dump(
        include={
            "customer_id",
            "plan_id",
            "plan_version",
            "state",
            "period_start",
            "period_end",
            "trial_end",
            "cancel_at_period_end",
            "cancel_reason",
            "next_plan_id",
        },
        exclude_none=True,
    )


def _by_system(tx: Tx, subscription: SubscriptionRow, trigger: Trigger) -> bool:
    before = standing(subscription)
    if not advance(tx, subscription, trigger):
        return False
    note(tx, subscription, trigger, before, audit.SYSTEM)
    return True


def _one(organization_id: str, subscription_id: str) -> SelectOfScalar[SubscriptionRow]:
    return select(SubscriptionRow).where(
        col(SubscriptionRow.organization_id) == organization_id,
        col(SubscriptionRow.id) == subscription_id,
    )


def _payer(tx: Tx, organization_id: str, customer: str | None) -> CustomerRow | Refused:
    if customer is None:
        return customers.default_customer(tx, organization_id)
    found = customers.find(tx, organization_id, customer)
    if found is None:
        return customers.unknown(customer, "customer_id")
    if found.archived_at is not None:
        message = f"the customer {found.external_id} is archived"
        return Refused("conflict", message, "customer_id")
    return found


def _begun(
    tx: Tx, payer: CustomerRow, plan: PlanRow, zone: str, *, start: datetime, billed_from: datetime
) -> SubscriptionRow:
    """A new subscription, as a trial that may have no length."""
    trial = billed_from > start
    return SubscriptionRow(
        id=new_id("sub"),
        organization_id=payer.organization_id,
        customer_id=payer.id,
        plan_id=plan.id,
        plan_version=plan.version,
        state="TRIAL" if trial else "ACTIVE",
        time_zone=zone,
        anchor_at=start,
        period_index=0,
        period_start=start,
        period_end=billed_from,
        due_at=billed_from,
        trial_end=billed_from if trial else None,
        created_at=tx.now,
        updated_at=tx.now,
    )


def _trial_end(terms: Terms, start: datetime, zone: str) -> datetime:
    """The plan's trial: whole days by the wall clock of the zone."""
    return Schedule(start, "day", zone).period(terms.trial_days).start


def _interval_problem(terms: Terms, interval: str | None) -> Refused | None:
    if interval in (None, terms.interval):
        return None
    message = (
        f"the plan bills by the {terms.interval}; make a second plan to bill by the {interval}"
    )
    return Refused("invalid", message, "billing_interval")


def _start_problem(now: datetime, start: datetime) -> Refused | None:
    if start < now - START_PAST_MAX:
        return Refused("invalid", "more than ten years ago; is the year right?", "start_date")
    if start > now + START_AHEAD_MAX:
        return Refused("invalid", "more than a year ahead; is the year right?", "start_date")
    return None


def _trial_problem(start: datetime, end: datetime) -> Refused | None:
    if end < start:
        return Refused("invalid", "the trial would end before it starts", "trial_end_date")
    if end - start > TRIAL_MAX:
        message = f"a trial of more than {TRIAL_DAYS_MAX} days; is the year right?"
        return Refused("invalid", message, "trial_end_date")
    return None


def _backlog_problem(now: datetime, schedule: Schedule) -> Refused | None:
    """Why the periods that are over already are too many."""
    over = schedule.index_of(now) if schedule.anchor <= now else 0
    if over <= PERIODS_AT_ONCE_MAX:
        return None
    message = (
        f"{over} periods of a {schedule.interval} are over since then; at most "
        f"{PERIODS_AT_ONCE_MAX} can be invoiced afterwards"
    )
    return Refused("invalid", message, "start_date")
