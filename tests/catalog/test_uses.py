"""What uses a metric, a plan or a customer is told in words."""

from datetime import timedelta
from decimal import Decimal

from usageflow.catalog import features, metrics, plan_edits, plans, policies, uses
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Terms
from usageflow.db.billing_tables import (
    FeatureRow,
    InvoiceLineRow,
    InvoiceRow,
    PlanRow,
    SubscriptionRow,
)
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow
from usageflow.policies import Policy

ANN = Actor("ann@example.com")


def made_plan(tx: Tx, organization_id: str, lookup_id: str) -> PlanRow:
    """A plan that charges nothing."""
    terms = Terms(type="HYBRID", currency="USD", interval="month")
    made = plans.create(
        tx, organization_id, name=lookup_id, lookup_id=lookup_id, terms=terms, actor=ANN
    )
    assert isinstance(made, PlanRow)
    return made


def subscribed(tx: Tx, plan: PlanRow, next_plan: PlanRow) -> SubscriptionRow:
    """A new customer's subscription."""
    customer = CustomerRow(
        id="cus", organization_id=plan.organization_id, external_id="acme", created_at=tx.now
    )
    tx.session.add(customer)
    tx.session.flush()
    row = SubscriptionRow(
        id="sub_1",
        organization_id=plan.organization_id,
        customer_id="cus",
        plan_id=plan.id,
        plan_version=plan.version,
        state="ACTIVE",
        time_zone="UTC",
        anchor_at=tx.now,
        period_index=0,
        period_start=tx.now,
        period_end=tx.now + timedelta(days=30),
        created_at=tx.now,
        updated_at=tx.now,
        next_plan_id=next_plan.id,
        next_plan_version=next_plan.version,
    )
    tx.session.add(row)
    tx.session.flush()
    return row


def billed(tx: Tx, of: SubscriptionRow, *, invoice: PlanRow, line: PlanRow) -> None:
    """A draft for one plan with a line of another, as a change of plan leaves it."""
    tx.session.add(
        InvoiceRow(
            id="inv_1",
            organization_id=of.organization_id,
            customer_id=of.customer_id,
            subscription_id=of.id,
            kind="period",
            state="DRAFT",
            collect="local",
            payment_method="manual",
            currency="USD",
            plan_id=invoice.id,
            subtotal=0,
            total=0,
            created_at=tx.now,
            updated_at=tx.now,
        )
    )
    tx.session.flush()
    tx.session.add(
        InvoiceLineRow(
            organization_id=of.organization_id,
            invoice_id="inv_1",
            position=1,
            kind="late",
            description="",
            plan_id=line.id,
            amount=0,
        )
    )
    tx.session.flush()


def test_features_policies_and_plans_use_a_metric(tx: Tx, organization_id: str) -> None:
    """The first of them is named; capitals count, and what is over does not."""
    for key in ("CALLS", "calls_2"):
        metrics.define(tx, organization_id, key=key, actor=ANN)
    assert uses.of_metric(tx, organization_id, "CALLS") is None
    plan = made_plan(tx, organization_id, "pro")
    charge = Charge(
        id="chg_1",
        kind="usage",
        display_name="Calls",
        metric="CALLS",
        model="per_unit",
        unit_price=Decimal(1),
    )
    plan_edits.add_charge(tx, organization_id, plan.id, charge, actor=ANN)
    plan_edits.change_charge(tx, organization_id, plan.id, "chg_1", active=False, actor=ANN)
    priced = "a version of the plan pro charges it"
    assert uses.of_metric(tx, organization_id, "CALLS") == priced
    assert uses.of_metric(tx, organization_id, "calls") is None
    policy = Policy(
        name="chat",
        match=("GET /",),
        identify=({"from": "header", "name": "x-account-id"},),
        field="account_id",
        metric="CALLS",
    )
    policies.publish(tx, organization_id, [policy])
    assert uses.of_metric(tx, organization_id, "CALLS") == "the policy chat meters it"
    policies.publish(tx, organization_id, [])
    assert uses.of_metric(tx, organization_id, "CALLS") == priced
    made = features.create(
        tx, organization_id, lookup_key="f", name="F", type="meter", metric="CALLS", actor=ANN
    )
    assert isinstance(made, FeatureRow)
    assert uses.of_metric(tx, organization_id, "CALLS") == "the feature f measures it"
    features.archive(tx, organization_id, "f", actor=ANN)
    assert uses.of_metric(tx, organization_id, "CALLS") == priced


def test_a_subscription_uses_its_plans_and_its_customer(tx: Tx, organization_id: str) -> None:
    """Its plan, the one it changes to, and for ever the one it was billed by; until it is over,
    its customer.
    """
    now, soon, once, never = (made_plan(tx, organization_id, f"p{n}") for n in range(4))
    row = subscribed(tx, now, next_plan=soon)
    billed(tx, row, invoice=now, line=once)
    told = [uses.of_plan(tx, organization_id, plan.id) for plan in (now, soon, once, never)]
    subscription, invoice = "the subscription sub_1 is for it", "the invoice inv_1 bills it"
    assert told == [subscription, subscription, invoice, None]
    assert uses.of_customer(tx, organization_id, "cus") == "the subscription sub_1 is not cancelled"
    refused = plans.delete(tx, organization_id, "p0", actor=ANN)
    assert refused is not None
    assert (refused.code, subscription in refused.message) == ("conflict", True)
    row.state = "CANCELLED"
    tx.session.flush()
    assert uses.of_customer(tx, organization_id, "cus") is None
    assert uses.of_plan(tx, organization_id, now.id) == subscription
    assert uses.of_plan(tx, "another", now.id) is None
