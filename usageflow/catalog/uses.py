"""What still uses a metric, a plan or a customer, in words: why it cannot be changed or deleted.

Reads only. What follows from it is decided by whoever asks.
"""

from sqlmodel import col, or_, select

from usageflow.db.billing_tables import (
    FeatureRow,
    InvoiceLineRow,
    InvoiceRow,
    PlanRow,
    PlanVersionRow,
    SubscriptionRow,
)
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, PolicyRow, UsageEventRow


def of_metric(tx: Tx, organization_id: str, key: str) -> str | None:
    """Who uses the metric of this key; None if nobody does."""
    if counted(tx, organization_id, key):
        return "events name it"
    if feature := _feature(tx, organization_id, key):
        return f"the feature {feature} measures it"
    if policy := _policy(tx, organization_id, key):
        return f"the policy {policy} meters it"
    if plan := _plan(tx, organization_id, key):
        return f"a version of the plan {plan} charges it"
    return None


def counted(tx: Tx, organization_id: str, key: str) -> bool:
    """Whether an event names the metric: looked up customer by customer, as the index has it."""
    event = select(UsageEventRow.seq).where(
        col(UsageEventRow.organization_id) == organization_id, col(UsageEventRow.metric) == key
    )
    of_nobody = event.where(col(UsageEventRow.customer_id).is_(None))
    of_customer = select(CustomerRow.id).where(
        col(CustomerRow.organization_id) == organization_id,
        event.where(col(UsageEventRow.customer_id) == col(CustomerRow.id)).exists(),
    )
    return (
        tx.session.exec(of_nobody.limit(1)).first() is not None
        or tx.session.exec(of_customer.limit(1)).first() is not None
    )


def of_plan(tx: Tx, organization_id: str, plan_id: str) -> str | None:
    """Who uses or used the plan; None if nobody ever subscribed to it."""
    subscription = tx.session.exec(
        select(SubscriptionRow.id).where(
            col(SubscriptionRow.organization_id) == organization_id,
            or_(
                col(SubscriptionRow.plan_id) == plan_id,
                col(SubscriptionRow.next_plan_id) == plan_id,
            ),
        )
    ).first()
    if subscription is not None:
        return f"the subscription {subscription} is for it"
    invoice = tx.session.exec(
        select(InvoiceRow.id)
        .outerjoin(InvoiceLineRow, col(InvoiceLineRow.invoice_id) == col(InvoiceRow.id))
        .where(
            col(InvoiceRow.organization_id) == organization_id,
            or_(col(InvoiceRow.plan_id) == plan_id, col(InvoiceLineRow.plan_id) == plan_id),
        )
    ).first()
    return None if invoice is None else f"the invoice {invoice} bills it"


def of_customer(tx: Tx, organization_id: str, customer_id: str) -> str | None:
    """What the customer still subscribes to; None if to nothing."""
    subscription = tx.session.exec(
        select(SubscriptionRow.id).where(
            col(SubscriptionRow.organization_id) == organization_id,
            col(SubscriptionRow.customer_id) == customer_id,
            col(SubscriptionRow.state) != "CANCELLED",
        )
    ).first()
    return None if subscription is None else f"the subscription {subscription} is not cancelled"


def _feature(tx: Tx, organization_id: str, key: str) -> str | None:
    return tx.session.exec(
        select(FeatureRow.lookup_key).where(
            col(FeatureRow.organization_id) == organization_id,
            col(FeatureRow.metric) == key,
            col(FeatureRow.archived_at).is_(None),
        )
    ).first()


def _policy(tx: Tx, organization_id: str, key: str) -> str | None:
    found = tx.session.exec(
        select(PolicyRow.name, PolicyRow.document).where(
            col(PolicyRow.organization_id) == organization_id,
            col(PolicyRow.active),
            col(PolicyRow.document).contains(_named(key), autoescape=True),
        )
    )
    return next((name for name, document in found if _named(key) in document), None)


def _plan(tx: Tx, organization_id: str, key: str) -> str | None:
    found = tx.session.exec(
        select(PlanRow.lookup_id, PlanVersionRow.document).where(
            col(PlanVersionRow.plan_id) == col(PlanRow.id),
            col(PlanVersionRow.organization_id) == organization_id,
            col(PlanVersionRow.document).contains(_named(key), autoescape=True),
        )
    )
    return next((name for name, document in found if _named(key) in document), None)


def _named(key: str) -> str:
    """How a document names a metric: both kinds are JSON without blanks.

    LIKE does not see capitals on SQLite, so it only preselects.
    """
    return f'"metric":"{key}"'
