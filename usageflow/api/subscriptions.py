"""GET /api/subscriptions: the current subscription, in the product documents' own dialect."""

from datetime import datetime
from typing import Annotated

from fastapi import Query, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Id, answer
from usageflow.api.rest import dialect_router, refusal
from usageflow.billing import subscriptions
from usageflow.catalog import customers

router = dialect_router("subscriptions")


class CurrentSubscription(Answer):
    """A subscription, in camel case. `periodEnd` is the first moment after the period."""

    id: str
    planName: str  # noqa: N815 - the product documents' name
    status: str
    periodStart: datetime  # noqa: N815 - as above
    periodEnd: datetime  # noqa: N815 - as above
    createdAt: datetime  # noqa: N815 - as above


class Current(Answer):
    """The newest subscription that has not ended; null if there is none."""

    subscription: CurrentSubscription | None


@router.get("/subscriptions", response_model=Current)
def read_current_subscription(
    *,
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    customer_id: Annotated[Id | None, Query(alias="customerId")] = None,
) -> Response:
    """The organization's own subscription, or that of a customer, by id or external id."""
    with rest.db.reading() as tx:
        found = customers.find(tx, access.organization_id, customer_id or customers.DEFAULT)
        if found is None and customer_id is not None:
            refusal(customers.unknown(customer_id))
        if found is None:
            return answer(Current(subscription=None))
        current = subscriptions.of_customer(tx, access.organization_id, found.id)[:1]
        told = [
            CurrentSubscription(
                id=known.row.id,
                planName=known.plan,
                status=known.row.state,
                periodStart=known.row.period_start,
                periodEnd=known.row.period_end,
                createdAt=known.row.created_at,
            )
            for known in subscriptions.described(tx, access.organization_id, current)
        ]
        return answer(Current(subscription=told[0] if told else None))
