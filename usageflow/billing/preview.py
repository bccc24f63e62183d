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
from usageflow.db.billing_tables import PlanRow
from usageflow.db.session import Tx


class Preview(NamedTuple):
    """An invoice that is none."""

    currency: str
    period_start: datetime
    period_end: datetime
    plan_id: str
    plan_version: int
    lines: list[InvoiceLine]
    units: dict[str, str]
    """What each metric counts."""
    sums: Sums


def running(tx: Tx, organization_id: str, subscription_id: str) -> Preview | Refused:
    """What `invoices.generate` would bill now; nothing in a trial or a pause."""
    subscription = subscriptions.find(tx, organization_id, subscription_id)
    if subscription is None:
        return subscriptions.unknown(subscription_id)
    terms, end = terms_of(tx, subscription), min(tx.now, subscription.period_end)
    wanted = closing.wanted(subscription, terms, end=end, kind="interim")
    prices = Prices(tx, organization_id)
    bills = subscription.state in (*BILLED, "CANCELLED") and end > subscription.period_start
    return _of(prices, wanted.segment, prices.bill(wanted).lines if bills else [])


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
    return _of(prices, segment, period_lines(segment, prices.usage(segment), {}))


def _of(prices: Prices, segment: Segment, lines: list[InvoiceLine]) -> Preview:
    percent = prices.tax_percent(prices.customer(segment.customer_id))
    currency = segment.terms.currency
    return Preview(
        currency=currency,
        period_start=segment.start,
        period_end=segment.end,
        plan_id=segment.plan_id,
        plan_version=segment.plan_version,
        lines=lines,
        units={line.metric: prices.unit(line.metric) for line in lines if line.metric is not None},
        sums=sums(lines, percent, currency),
    )
