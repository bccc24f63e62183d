"""/api/v1/.../entitlements: what a customer may use, and whether it may use more of it.

A customer is named by its id or its external id, a feature by its lookup key or its id.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Query, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Exact, Id, Number, answer
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import entitlements
from usageflow.billing.entitlements import Granted
from usageflow.catalog import customers
from usageflow.catalog.features import FeatureType
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx

router = v1_router("entitlements")

CanRead = Annotated[Access, needs("catalog.read")]
Amount = Annotated[Exact, Query(ge=0)]


class EntitlementOut(Answer):
    """A feature that a subscription grants. `used` and `remaining` are of a meter's limit, since
    the last reset; beyond a `soft` limit usage is still allowed.
    """

    feature_id: str
    lookup_key: str
    name: str
    type: FeatureType
    subscription_id: str
    enabled: bool
    usage_limit: Number | None
    used: Number | None
    remaining: Number | None
    resets_at: datetime | None
    soft: bool
    value: str | None


class Entitlements(Answer):
    """Everything that a customer's current subscriptions grant."""

    customer_id: str
    data: list[EntitlementOut]


class CheckOut(Answer):
    """Whether something may be used, why, and by which entitlement. `over`: beyond a soft limit."""

    allowed: bool
    over: bool
    reason: str
    entitlement: EntitlementOut | None


@router.get("/customers/{customer}/entitlements", response_model=Entitlements)
def list_entitlements(customer: Id, access: CanRead, rest: RestDep) -> Response:
    """What the customer may use, by lookup key: one for each subscription that grants it."""
    with rest.db.reading() as tx:
        customer_id = _customer(tx, access, customer)
        granted = entitlements.of_customer(tx, access.organization_id, customer_id)
        told = [_out(one) for one in granted]
    return answer(Entitlements(customer_id=customer_id, data=told))


@router.get("/entitlements/check", response_model=CheckOut)
def check_entitlement(
    *,
    access: CanRead,
    rest: RestDep,
    customer_id: Id,
    feature: Id,
    quantity: Amount = Decimal(1),
) -> Response:
    """Whether the customer may use `quantity` more of a feature now; asking counts nothing."""
    with rest.db.reading() as tx:
        found = entitlements.check(
            tx, access.organization_id, _customer(tx, access, customer_id), feature, quantity
        )
        if isinstance(found, Refused):
            refusal(found)
        granted = None if found.granted is None else _out(found.granted)
        return answer(
            CheckOut(
                allowed=found.allowed, over=found.over, reason=found.reason, entitlement=granted
            )
        )


def _customer(tx: Tx, access: Access, customer: str) -> str:
    row = customers.find(tx, access.organization_id, customer)
    return refusal(customers.unknown(customer)) if row is None else row.id


def _out(granted: Granted) -> EntitlementOut:
    feature, entitlement = granted.feature, granted.entitlement
    return EntitlementOut(
        feature_id=feature.id,
        lookup_key=feature.lookup_key,
        name=feature.name,
        type=feature.type,
        subscription_id=granted.subscription.id,
        enabled=entitlement.enabled,
        usage_limit=entitlement.usage_limit,
        used=granted.used,
        remaining=granted.remaining,
        resets_at=granted.resets_at,
        soft=entitlement.soft,
        value=entitlement.value,
    )
