"""What is kept of invoices, read back: their lines, and what they were to bill. Reads only."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Final, NamedTuple, TypeAlias

from sqlmodel import col, select

from usageflow.billing.lines import InvoiceLine, Segment
from usageflow.billing.prices import Wanted
from usageflow.catalog import plans
from usageflow.catalog.charges import Terms
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow, SubscriptionRow
from usageflow.db.session import Tx

_Plan: TypeAlias = tuple[str, int]
_NO_PLAN: Final[_Plan] = ("", 0)


class Content(NamedTuple):
    """The lines of an invoice in their order, and the subscription that it is of, if any."""

    lines: list[InvoiceLineRow]
    subscription: SubscriptionRow | None
    terms: Terms | None

    def values(self) -> list[InvoiceLine]:
        """The lines as values."""
        return [line_of(row) for row in self.lines]


def contents(tx: Tx, organization_id: str, invoices: Sequence[InvoiceRow]) -> dict[str, Content]:
    """The content of each invoice, by its id."""
    lines = defaultdict(list)
    for row in tx.session.exec(
        select(InvoiceLineRow)
        .where(
            col(InvoiceLineRow.organization_id) == organization_id,
            col(InvoiceLineRow.invoice_id).in_([invoice.id for invoice in invoices]),
        )
        .order_by(col(InvoiceLineRow.invoice_id), col(InvoiceLineRow.position))
    ):
        lines[row.invoice_id].append(row)
    subscriptions = _subscriptions(tx, organization_id, invoices)
    pairs = {pair for one in invoices if (pair := _plan(one)) is not None}
    terms = plans.terms_of_many(tx, pairs)
    return {
        one.id: Content(
            lines[one.id], subscriptions.get(one.subscription_id), terms.get(_plan(one) or _NO_PLAN)
        )
        for one in invoices
    }


def content(tx: Tx, invoice: InvoiceRow) -> Content:
    """The content of one."""
    return contents(tx, invoice.organization_id, [invoice])[invoice.id]


def wanted(invoice: InvoiceRow, content: Content, *, since: datetime | None) -> Wanted:
    """What the invoice of a subscription bills, as its lines and its plan say.

    The periods that it has late usage of are looked at again, and those that changed `since`.
    ValueError for one that a person wrote.
    """
    subscription, terms = content.subscription, content.terms
    start, end = invoice.period_start, invoice.period_end
    plan = _plan(invoice)
    if subscription is None or terms is None or start is None or end is None or plan is None:
        raise ValueError(f"the invoice {invoice.id} is not of a subscription")
    own = [line.share for line in content.lines if line.period_start == start]
    segment = Segment(
        subscription_id=subscription.id,
        customer_id=invoice.customer_id,
        plan_id=plan[0],
        plan_version=plan[1],
        terms=terms,
        start=start,
        end=end,
        share=Fraction(own[0]) if own else Fraction(1),
        running=invoice.kind == "interim" and end != subscription.period_end,
    )
    starts = {line.period_start for line in content.lines if line.period_start is not None}
    return Wanted(segment, subscription.time_zone, since, frozenset(starts - {start}), invoice.id)


def line_of(row: InvoiceLineRow) -> InvoiceLine:
    """A line as a value."""
    return InvoiceLine(**{name: getattr(row, name) for name in InvoiceLine.__struct_fields__})


def _plan(invoice: InvoiceRow) -> _Plan | None:
    if invoice.plan_id is None or invoice.plan_version is None:
        return None
    return invoice.plan_id, invoice.plan_version


def _subscriptions(
    tx: Tx, organization_id: str, invoices: Sequence[InvoiceRow]
) -> Mapping[str | None, SubscriptionRow]:
    ids = {one.subscription_id for one in invoices if one.subscription_id is not None}
    if not ids:
        return {}
    rows = tx.session.exec(
        select(SubscriptionRow).where(
            col(SubscriptionRow.organization_id) == organization_id,
            col(SubscriptionRow.id).in_(ids),
        )
    )
    return {row.id: row for row in rows}
