"""/api/v1 addresses that compute an invoice: generate one now, preview it, or ask what if."""

from typing import Annotated

from fastapi import Response
from pydantic import model_validator

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Instant, answer
from usageflow.api.invoice_answers import (
    InvoiceDetail,
    PreviewOut,
    told_in_detail,
    told_preview,
)
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import invoices, preview, subscriptions
from usageflow.catalog import customers, plans
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx

router = v1_router("invoices")


class WhatIf(Body):
    """Whose usage, in which interval, to price as one period of which plan."""

    subscription_id: Id | None = None
    customer_id: Id | None = None
    plan_id: Id
    start: Instant
    end: Instant

    @model_validator(mode="after")
    def _whose(self) -> "WhatIf":
        if (self.subscription_id is None) == (self.customer_id is None):
            raise ValueError("subscription_id or customer_id: say whose usage it is, once")
        if self.start >= self.end:
            raise ValueError("end must be after start")
        return self


class WhatIfOut(Answer):
    """What the usage would cost, and, of a subscription, what it costs under its own plan."""

    what_if: PreviewOut
    own_plan: PreviewOut | None


@router.post(
    "/subscriptions/{subscription}/generate-invoice", response_model=InvoiceDetail, status_code=201
)
def generate_invoice(
    subscription: Id, access: Annotated[Access, needs("invoices.write")], rest: RestDep
) -> Response:
    """Bill now what was used so far, and what is agreed per period in full; the invoice that ends
    the period bills the rest. A draft, which is issued after the time of grace.
    """
    with rest.db.transaction() as tx:
        made = invoices.generate(tx, access.organization_id, subscription, actor=access.actor)
        if isinstance(made, Refused):
            refusal(made)
        tx.session.flush()
        detail = told_in_detail(tx, made)
    rest.on_billing()
    return answer(detail, 201)


@router.post("/subscriptions/{subscription}/preview-invoice", response_model=PreviewOut)
def preview_invoice(
    subscription: Id, access: Annotated[Access, needs("invoices.read")], rest: RestDep
) -> Response:
    """What `generate-invoice` would bill now. Nothing is kept."""
    with rest.db.reading() as tx:
        found = preview.running(tx, access.organization_id, subscription)
        return refusal(found) if isinstance(found, Refused) else answer(told_preview(found))


@router.post("/what-if", response_model=WhatIfOut)
def what_if(
    body: WhatIf, access: Annotated[Access, needs("invoices.read")], rest: RestDep
) -> Response:
    """Price a past period under another plan, as one whole period of it. Nothing is kept.

    The usage is a customer's or a subscription's; of the latter, `own_plan` is what it costs under
    its own plan, to compare with.
    """
    with rest.db.reading() as tx:
        plan = plans.find(tx, access.organization_id, body.plan_id)
        if plan is None:
            refusal(plans.unknown(body.plan_id, "plan_id"))
        customer, own = _whose(tx, access, body)
        asked = preview.what_if(
            tx, access.organization_id, customer, plan, start=body.start, end=body.end
        )
        return answer(WhatIfOut(what_if=told_preview(asked), own_plan=own))


def _whose(tx: Tx, access: Access, body: WhatIf) -> tuple[str, PreviewOut | None]:
    """The customer, and what the usage costs under the subscription's own plan."""
    if body.customer_id is not None:
        row = customers.find(tx, access.organization_id, body.customer_id)
        return refusal(customers.unknown(body.customer_id)) if row is None else (row.id, None)
    subscription_id = body.subscription_id or ""
    subscription = subscriptions.find(tx, access.organization_id, subscription_id)
    if subscription is None:
        refusal(subscriptions.unknown(subscription_id))
    plan = plans.find(tx, access.organization_id, subscription.plan_id)
    assert plan is not None  # noqa: S101 - foreign keys keep a plan that is subscribed to
    own = preview.what_if(
        tx,
        access.organization_id,
        subscription.customer_id,
        plan,
        start=body.start,
        end=body.end,
        version=subscription.plan_version,
    )
    return subscription.customer_id, told_preview(own)
