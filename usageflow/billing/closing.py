"""Closing: the draft of an invoice for a stretch of a subscription's time.

It leaves the subscription in its period; going on to the next one is `turnover`'s, issuing the
draft `finalizing`'s. What is billed is `lines`'s, what it is computed from `prices`'s.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, TypeAlias

from sqlalchemy import insert as sql_insert
from sqlalchemy import text
from sqlalchemy.orm import make_transient_to_detached
from sqlmodel import col, select

from usageflow.billing import schedules
from usageflow.billing.invoice_states import tell
from usageflow.billing.lines import InvoiceLine, Segment, sums
from usageflow.billing.prices import Bill, Prices, Wanted
from usageflow.billing.pricing import figure
from usageflow.catalog.charges import Terms
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow, SubscriptionRow
from usageflow.db.columns import table
from usageflow.db.ids import new_id
from usageflow.db.session import Tx
from usageflow.db.statements import insert

Kind: TypeAlias = Literal["period", "interim"]

LINES_SHOWN_MAX: Final = 5
"""Metrics named in a reason; a person finds the others on the invoice."""


def close(
    tx: Tx,
    subscription: SubscriptionRow,
    terms: Terms,
    *,
    end: datetime,
    kind: Kind,
    prices: Prices | None = None,
) -> InvoiceRow:
    """Make the draft for `[subscription.period_start, end)`, with late usage of earlier periods.

    `period` ends the period, be it early; there is one such invoice for each, and who closes a
    period again gets it. `interim` is a wish within the period, which goes on: usage is billed so
    far, what is agreed per period in full. Of a period that has ended it bills what came late. The
    draft is issued by itself when the organization's
    time of grace is over, unless a plan that Stripe prices made it, or something speaks against it.
    The caller holds the subscription's row, so that nobody else closes it meanwhile.
    """
    prices = prices or Prices(tx, subscription.organization_id)
    bill = prices.bill(wanted(subscription, terms, end=end, kind=kind)).bounded()
    invoice = _draft(tx, subscription, terms, bill, prices, end=end, kind=kind)
    if not _insert(tx, invoice):
        return _closed(tx, subscription)
    store_lines(tx, invoice, bill.lines, prices)
    subscription.billed_at = tx.now
    if invoice.collect == "local":
        tell(tx, invoice, "invoice.created")
    return invoice


def wanted(subscription: SubscriptionRow, terms: Terms, *, end: datetime, kind: Kind) -> Wanted:
    """What `close` bills."""
    running = kind == "interim" and end != subscription.period_end
    until = subscription.period_end if running else end
    segment = Segment(
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
        plan_id=subscription.plan_id,
        plan_version=subscription.plan_version,
        terms=terms,
        start=subscription.period_start,
        end=end,
        share=schedules.share(subscription, terms, until),
        running=running,
    )
    return Wanted(segment, subscription.time_zone, subscription.billed_at)


def hold_reason(bill: Bill, total: int) -> str | None:
    """What a person must decide before this can be issued; None if nothing."""
    if bill.too_large is not None:
        used = figure(bill.too_large.quantity or Decimal(0))
        return (
            f"{bill.too_large.description} ({used}) comes to more than anybody can pay, so no line "
            "is kept: void this draft, and write by hand what is owed"
        )
    if total < 0:
        return (
            "the total is negative, and a customer cannot be asked for less than nothing: give it "
            "back by a credit note on an earlier invoice, then void this draft"
        )
    if bill.forwarded:
        metrics = ", ".join(bill.forwarded[:LINES_SHOWN_MAX])
        return (
            f"usage of {metrics} in this time was sent to Stripe, which may have priced it: "
            "release the invoice if Stripe did not, else void it"
        )
    return None


def store_lines(
    tx: Tx, invoice: InvoiceRow, lines: Sequence[InvoiceLine], prices: Prices | None = None
) -> None:
    """Add the lines of a draft, in their order; `prices` knows what their metrics count."""
    rows = [
        {
            "organization_id": invoice.organization_id,
            "invoice_id": invoice.id,
            "position": position,
            "unit": "" if prices is None else prices.unit(line.metric),
            **{name: getattr(line, name) for name in line.__struct_fields__},
        }
        for position, line in enumerate(lines, start=1)
    ]
    if rows:
        tx.session.execute(sql_insert(table(InvoiceLineRow)), rows)


def _draft(
    tx: Tx,
    subscription: SubscriptionRow,
    terms: Terms,
    bill: Bill,
    prices: Prices,
    *,
    end: datetime,
    kind: Kind,
) -> InvoiceRow:
    """The row of the invoice. One that Stripe prices is a shadow, and nothing is done with it."""
    percent = prices.tax_percent(prices.customer(subscription.customer_id))
    local = terms.collect == "local"
    owed = sums(bill.lines, percent, terms.currency)
    return InvoiceRow(
        id=new_id("inv"),
        organization_id=subscription.organization_id,
        customer_id=subscription.customer_id,
        subscription_id=subscription.id,
        kind=kind,
        state="DRAFT",
        collect=terms.collect,
        payment_method=terms.payment,
        currency=terms.currency,
        period_start=subscription.period_start,
        period_end=end,
        plan_id=subscription.plan_id,
        plan_version=subscription.plan_version,
        watermark=prices.watermark,
        tax_percent=percent,
        subtotal=owed.subtotal,
        tax=owed.tax,
        total=owed.total,
        hold_reason=hold_reason(bill, owed.total) if local else None,
        finalize_at=tx.now + timedelta(seconds=prices.settings.grace_s) if local else None,
        created_at=tx.now,
        updated_at=tx.now,
    )


def _insert(tx: Tx, invoice: InvoiceRow) -> bool:
    """Whether it is the period's invoice now; not if there is one already."""
    statement = (
        insert(tx, InvoiceRow)
        .on_conflict_do_nothing(
            index_elements=["subscription_id", "period_start"], index_where=text("kind = 'period'")
        )
        .returning(table(InvoiceRow).c.id)
    )
    if tx.session.execute(statement, [invoice.model_dump()]).one_or_none() is None:
        return False
    make_transient_to_detached(invoice)  # it is stored as it is: no need to read it back
    tx.session.add(invoice)
    return True


def _closed(tx: Tx, subscription: SubscriptionRow) -> InvoiceRow:
    """The invoice that ended the period."""
    return tx.session.exec(
        select(InvoiceRow).where(
            col(InvoiceRow.organization_id) == subscription.organization_id,
            col(InvoiceRow.subscription_id) == subscription.id,
            col(InvoiceRow.period_start) == subscription.period_start,
            col(InvoiceRow.kind) == "period",
        )
    ).one()
