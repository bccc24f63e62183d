"""What an invoice would come to: of the period that is running, or of one under another plan.

Computed as `closing` does, and kept nowhere.
"""

from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

from usageflow.billing import closing, subscriptions
from usageflow.billing.lines import InvoiceLine, Segment, Sums, period_lines, sums
from usageflow.billing.prices import Prices
from usageflow.billing.subscription_states import BILLED
from usageflow.billing.turnover import terms_of
from usageflow.catalog import plans
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow, SubscriptionRow
from usageflow.db.session import Tx


class Preview(NamedTuple):
    """An invoice that is none."""

    currency: str
    period_start: datetime
    period_end: datetime
    plan_id: str
    plan_version: int
    lines: list[InvoiceLine]
    sums: Sums


def running(tx: Tx, organization_id: str, subscription_id: str) -> Preview | Refused:
    """What `invoices.generate` would bill now; nothing in a trial or a pause."""
    subscription = subscriptions.find(tx, organization_id, subscription_id)
    if subscription is None:
        return Refused("not_found", f"there is no subscription {subscription_id}")
    end = min(tx.now, subscription.period_end)
    if subscription.state not in (*BILLED, "CANCELLED") or end <= subscription.period_start:
        return _of(tx, subscription, subscription.period_end, [])
    terms = terms_of(tx, subscription)
    bill = Prices(tx, organization_id).bill(
        closing.wanted(subscription, terms, end=end, kind="interim")
    )
    return _of(tx, subscription, end, bill.lines)


def what_if(
    tx: Tx,
    organization_id: str,
    customer_id: str,
    plan: PlanRow,
    *,
    start: datetime,
    end: datetime,
    version: int | None = None,
) -> Preview:
    """What the customer's usage in `[start, end)` costs as one whole period of a plan.

    Of the plan's newest version, unless another is wanted. What was billed is not taken off.
    """
    number = plan.version if version is None else version
    terms = plans.terms_of_many(tx, {(plan.id, number)})[plan.id, number]
    segment = Segment(
        subscription_id="",
        customer_id=customer_id,
        plan_id=plan.id,
        plan_version=number,
        terms=terms,
        start=start,
        end=end,
        share=Fraction(1),
    )
    prices = Prices(tx, organization_id)
    lines = period_lines(segment, prices.usage(segment), {})
    percent = prices.tax_percent(prices.customer(customer_id))
    came_to = sums(lines, percent, terms.currency)
    return Preview(terms.currency, start, end, plan.id, number, lines, came_to)


def _of(tx: Tx, subscription: SubscriptionRow, end: datetime, lines: list[InvoiceLine]) -> Preview:
    prices = Prices(tx, subscription.organization_id)
    percent = prices.tax_percent(prices.customer(subscription.customer_id))
    currency = terms_of(tx, subscription).currency
    return Preview(
        currency=currency,
        period_start=subscription.period_start,
        period_end=end,
        plan_id=subscription.plan_id,
        plan_version=subscription.plan_version,
        lines=lines,
        sums=sums(lines, percent, currency),
    )
