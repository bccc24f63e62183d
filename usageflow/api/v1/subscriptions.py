"""/api/v1/subscriptions: who uses which plan, and what people wish of it.

A customer is named by its id or its external id, a plan by its id or its lookup id. Invoices of a
subscription, and previews of them, are answered by the router of invoices.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import model_validator

from usageflow.api.access import Access, Rest, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Instant, Line, Number, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import closing, consumption, subscription_changes, subscriptions
from usageflow.billing.consumption import Consumed
from usageflow.billing.subscription_changes import Moment
from usageflow.billing.subscription_states import BILLED
from usageflow.billing.subscriptions import Described
from usageflow.catalog import customers, plans
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.db.session import Tx
from usageflow.periods import Interval

router = v1_router("subscriptions")

Status = Literal["TRIAL", "ACTIVE", "PAST_DUE", "PAUSED", "SUSPENDED", "CANCELLED"]
CanRead = Annotated[Access, needs("catalog.read")]
CanWrite = Annotated[Access, needs("subscriptions.write")]


class NewSubscription(Body):
    """A subscription to make. Without a customer the organization itself subscribes.

    It begins at `start_date` (now), with the trial of the plan or one up to `trial_end_date`; both
    being equal, without any. `billing_interval` can only repeat the plan's.
    """

    customer_id: Id | None = None
    customer_external_id: Id | None = None
    plan_id: Id
    billing_interval: Interval | None = None
    start_date: Instant | None = None
    trial_end_date: Instant | None = None

    @model_validator(mode="after")
    def _one_customer(self) -> "NewSubscription":
        if self.customer_id is not None and self.customer_external_id is not None:
            raise ValueError("customer_id and customer_external_id: name the customer once")
        return self


class Cancellation(Body):
    """How to end a subscription: with its period, or at once, invoiced so far."""

    cancel_at_period_end: bool = True
    reason: Line | None = None


class PlanChange(Body):
    """Which plan to go on under, and from when on."""

    plan_id: Id
    when: Moment = "now"


class SubscriptionOut(Answer):
    """A subscription. In a TRIAL the current period is the trial; when PAUSED or CANCELLED it is
    the one that ended last. `next_plan_id`: the plan from the next period on.
    """

    id: str
    customer_id: str
    customer_external_id: str
    plan_id: str
    plan_name: str
    plan_version: int
    status: Status
    currency: str
    billing_interval: Interval
    time_zone: str
    current_period_start: datetime
    current_period_end: datetime
    trial_end_date: datetime | None
    cancel_at_period_end: bool
    canceled_at: datetime | None
    cancel_reason: str | None
    ended_at: datetime | None
    paused_at: datetime | None
    past_due_at: datetime | None
    next_plan_id: str | None
    next_plan_version: int | None
    created_at: datetime
    updated_at: datetime


class ChargeUsage(Answer):
    """What one charge comes to so far; `amount` is in the subscription's currency."""

    charge_id: str
    display_name: str
    metric: str
    unit: str
    quantity: Number
    included: Number
    amount: Number


class SubscriptionUsage(Answer):
    """The usage of the current period; not `billed`: nothing is invoiced of it, as in a trial."""

    subscription_id: str
    status: Status
    billed: bool
    currency: str
    period_start: datetime
    period_end: datetime
    charges: list[ChargeUsage]


@router.get("/subscriptions", response_model=Listed[SubscriptionOut])
def list_subscriptions(
    *,
    access: CanRead,
    rest: RestDep,
    page: PageDep,
    customer_id: Id | None = None,
    plan_id: Id | None = None,
    status: Status | None = None,
) -> Response:
    """Subscriptions, newest first, of one customer, to one plan, in one state."""
    with rest.db.reading() as tx:
        customer = None if customer_id is None else _customer(tx, access, customer_id)
        plan = None if plan_id is None else plans.find(tx, access.organization_id, plan_id)
        if plan_id is not None and plan is None:
            refusal(plans.unknown(plan_id))
        rows, total = subscriptions.listing(
            tx,
            access.organization_id,
            customer_id=customer,
            plan_id=None if plan is None else plan.id,
            state=status,
            offset=page.offset,
            limit=page.limit,
        )
        return listed(_told(tx, access, rows), total, page)


@router.get("/customers/{customer}/subscriptions", response_model=Listed[SubscriptionOut])
def list_subscriptions_of_customer(
    customer: Id, access: CanRead, rest: RestDep, page: PageDep
) -> Response:
    """All subscriptions of a customer, newest first."""
    return list_subscriptions(access=access, rest=rest, page=page, customer_id=customer)


@router.post("/subscriptions", response_model=SubscriptionOut, status_code=201)
def create_subscription(body: NewSubscription, access: CanWrite, rest: RestDep) -> Response:
    """Subscribe a customer to a plan."""
    with rest.db.transaction() as tx:
        made = subscriptions.create(
            tx,
            access.organization_id,
            body.customer_external_id or body.customer_id,
            body.plan_id,
            start_at=body.start_date,
            trial_end=body.trial_end_date,
            billing_interval=body.billing_interval,
            actor=access.actor,
        )
        told = _told_one(tx, access, made)
    rest.on_billing()
    return answer(told, 201)


@router.get("/subscriptions/{subscription}", response_model=SubscriptionOut)
def read_subscription(subscription: Id, access: CanRead, rest: RestDep) -> Response:
    """One subscription."""
    with rest.db.reading() as tx:
        return answer(_told(tx, access, [_found(tx, access, subscription)])[0])


@router.get("/subscriptions/{subscription}/usage", response_model=SubscriptionUsage)
def read_usage(subscription: Id, access: CanRead, rest: RestDep) -> Response:
    """What the current period has used so far, charge by charge, and what that costs."""
    with rest.db.reading() as tx:
        row = _found(tx, access, subscription)
        [known] = subscriptions.described(tx, access.organization_id, [row])
        consumed = consumption.of_period(tx, row, known.terms)
        return answer(
            SubscriptionUsage(
                subscription_id=row.id,
                status=row.state,
                billed=row.state in BILLED,
                currency=known.terms.currency,
                period_start=row.period_start,
                period_end=row.period_end,
                charges=[_usage(one) for one in consumed],
            )
        )


@router.post("/subscriptions/{subscription}/pause", response_model=SubscriptionOut)
def pause_subscription(subscription: Id, access: CanWrite, rest: RestDep) -> Response:
    """End the running period now, invoiced so far; nothing is billed until it is resumed."""
    return _wished(access, rest, subscription_changes.pause, subscription)


@router.post("/subscriptions/{subscription}/resume", response_model=SubscriptionOut)
def resume_subscription(subscription: Id, access: CanWrite, rest: RestDep) -> Response:
    """Let a new billing period begin now."""
    return _wished(access, rest, subscription_changes.resume, subscription)


@router.post("/subscriptions/{subscription}/cancel", response_model=SubscriptionOut)
def cancel_subscription(
    subscription: Id, access: CanWrite, rest: RestDep, body: Cancellation | None = None
) -> Response:
    """End it with its period, or at once with a final invoice of the time until now."""
    how = body or Cancellation()
    return _wished(
        access,
        rest,
        subscription_changes.cancel,
        subscription,
        at_period_end=how.cancel_at_period_end,
        reason=how.reason,
    )


@router.delete("/subscriptions/{subscription}", status_code=204)
def delete_subscription(subscription: Id, access: CanWrite, rest: RestDep) -> Response:
    """End it at once, with a final invoice of the time until now; it is still there to read."""
    _wished(access, rest, subscription_changes.cancel, subscription, at_period_end=False)
    return Response(status_code=204)


@router.post("/subscriptions/{subscription}/uncancel", response_model=SubscriptionOut)
def uncancel_subscription(subscription: Id, access: CanWrite, rest: RestDep) -> Response:
    """Let it go on after all, if it has not ended yet."""
    return _wished(access, rest, subscription_changes.uncancel, subscription)


@router.post("/subscriptions/{subscription}/change-plan", response_model=SubscriptionOut)
def change_plan_of_subscription(
    subscription: Id, body: PlanChange, access: CanWrite, rest: RestDep
) -> Response:
    """Go on under the newest version of a plan, now with proration, or from the next period on."""
    change = subscription_changes.change_plan
    return _wished(access, rest, change, subscription, plan=body.plan_id, when=body.when)


@router.post("/subscriptions/{subscription}/keep-plan", response_model=SubscriptionOut)
def keep_plan_of_subscription(subscription: Id, access: CanWrite, rest: RestDep) -> Response:
    """Take back a change of plan that is still to come."""
    return _wished(access, rest, subscription_changes.keep_plan, subscription)


def _wished(
    access: Access,
    rest: Rest,
    wish: Callable[..., SubscriptionRow | Refused],
    subscription: str,
    **details: Any,
) -> Response:
    """The answer to a wish of `subscription_changes`."""
    with rest.db.transaction() as tx:
        found = wish(
            tx,
            access.organization_id,
            subscription,
            **details,
            close=closing.close,
            actor=access.actor,
        )
        told = _told_one(tx, access, found)
    rest.on_billing()
    return answer(told)


def _found(tx: Tx, access: Access, subscription: str) -> SubscriptionRow:
    row = subscriptions.find(tx, access.organization_id, subscription)
    return refusal(subscriptions.unknown(subscription)) if row is None else row


def _customer(tx: Tx, access: Access, customer: str) -> str:
    row = customers.find(tx, access.organization_id, customer)
    return refusal(customers.unknown(customer)) if row is None else row.id


def _told_one(tx: Tx, access: Access, found: SubscriptionRow | Refused) -> SubscriptionOut:
    """The subscription, unless the request was refused."""
    if isinstance(found, Refused):
        refusal(found)
    return _told(tx, access, [found])[0]


def _told(tx: Tx, access: Access, rows: Sequence[SubscriptionRow]) -> list[SubscriptionOut]:
    return [_out(known) for known in subscriptions.described(tx, access.organization_id, rows)]


def _out(known: Described) -> SubscriptionOut:
    row, terms = known.row, known.terms
    return SubscriptionOut.model_validate(
        row.model_dump()
        | {
            "customer_external_id": known.customer,
            "plan_name": known.plan,
            "status": row.state,
            "currency": terms.currency,
            "billing_interval": terms.interval,
            "current_period_start": row.period_start,
            "current_period_end": row.period_end,
            "trial_end_date": row.trial_end,
        }
    )


def _usage(one: Consumed) -> ChargeUsage:
    charge = one.charge
    return ChargeUsage(
        charge_id=charge.id,
        display_name=charge.display_name,
        metric=charge.metric or "",
        unit=one.unit,
        quantity=one.quantity,
        included=charge.included,
        amount=one.amount,
    )
