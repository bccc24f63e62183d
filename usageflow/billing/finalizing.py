"""Finalizing: a draft is computed anew, numbered, dated, and never changes again.

Usage that came since the draft was made is on the invoice. Mail and webhooks are rows that commit
with it; how they fare changes nothing here.
"""

from datetime import timedelta

from sqlalchemy import delete
from sqlmodel import col, select

from usageflow.billing import invoice_states, numbers, parties
from usageflow.billing.closing import hold_reason, store_lines
from usageflow.billing.contents import Content, content, wanted
from usageflow.billing.display import day, money
from usageflow.billing.lines import InvoiceLine, canonical, sums
from usageflow.billing.prices import Bill, Prices, Wanted
from usageflow.catalog.refusals import Refused
from usageflow.db import outbox
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow


def finalize(tx: Tx, invoice: InvoiceRow, *, release: bool = False) -> Refused | None:
    """Issue a draft that the caller holds, if it is the next one of its subscription.

    The invoices of a subscription are issued in the order in which they were made, as each bills
    what those before it did not.
    """
    if refused := _problem(tx, invoice):
        return refused
    prices = Prices(tx, invoice.organization_id)
    return issue(tx, invoice, content(tx, invoice), prices, release=release)


def issue(
    tx: Tx, invoice: InvoiceRow, kept: Content, prices: Prices, *, release: bool = False
) -> Refused | None:
    """Issue the next draft of a subscription: OPEN, or PAID at once if nothing is owed.

    Refused, with the reason kept on the draft, if a person must decide something first; `release`
    says that usage which was sent to Stripe is billed here.
    """
    bill = _bill(tx, invoice, prices, kept)
    customer = prices.customer(invoice.customer_id)
    if kept.subscription is not None:
        invoice.tax_percent = prices.tax_percent(customer)
    _keep(tx, invoice, bill.lines, kept, prices)
    reason = hold_reason(bill, invoice.total)
    invoice.hold_reason = reason
    if reason is not None and not (release and invoice.total >= 0 and bill.too_large is None):
        return Refused("conflict", reason)
    _number_and_date(tx, invoice, customer, prices)
    return None


def again(invoice: InvoiceRow, kept: Content) -> Wanted:
    """What the draft of a subscription bills, less what invoices made before it bill."""
    since = None if kept.subscription is None else kept.subscription.billed_at
    return wanted(invoice, kept, since=since)


def _problem(tx: Tx, invoice: InvoiceRow) -> Refused | None:
    """Why it cannot be issued, whatever it bills."""
    if invoice.collect != "local":
        return Refused("conflict", "Stripe prices this usage; its shadow here is never issued")
    if refused := invoice_states.problem(invoice, "OPEN"):
        return refused
    if invoice.subscription_id is None:
        return None
    first = tx.session.exec(
        select(InvoiceRow.id)
        .where(
            col(InvoiceRow.organization_id) == invoice.organization_id,
            col(InvoiceRow.customer_id) == invoice.customer_id,  # for the index
            col(InvoiceRow.subscription_id) == invoice.subscription_id,
            col(InvoiceRow.state) == "DRAFT",
            col(InvoiceRow.collect) == "local",
        )
        .order_by(col(InvoiceRow.id))  # ids sort by age
        .limit(1)
    ).one()
    if first == invoice.id:
        return None
    return Refused(
        "conflict", f"the subscription's draft {first} comes before it: issue or void that one"
    )


def _bill(tx: Tx, invoice: InvoiceRow, prices: Prices, kept: Content) -> Bill:
    """What the draft bills with all that is known now; a person's own lines stay as they are."""
    if kept.subscription is None:
        return Bill(kept.values(), [])
    bill = prices.bill(again(invoice, kept)).bounded()
    if kept.subscription.billed_at == invoice.created_at:
        # else a younger draft has billed later periods, at which nobody has looked here
        kept.subscription.billed_at = tx.now
    invoice.watermark = prices.watermark
    return bill


def _keep(
    tx: Tx, invoice: InvoiceRow, lines: list[InvoiceLine], kept: Content, prices: Prices
) -> None:
    """Keep the lines, if they are not those there are, and what they come to."""
    if canonical(lines) != canonical(kept.values()):
        tx.session.execute(
            delete(InvoiceLineRow).where(
                col(InvoiceLineRow.organization_id) == invoice.organization_id,
                col(InvoiceLineRow.invoice_id) == invoice.id,
            )
        )
        store_lines(tx, invoice, lines, prices)
    owed = sums(lines, invoice.tax_percent, invoice.currency)
    invoice.subtotal, invoice.tax, invoice.total = owed


def _number_and_date(tx: Tx, invoice: InvoiceRow, customer: CustomerRow, prices: Prices) -> None:
    """The invoice as its customer gets it."""
    settings = prices.settings
    invoice.number = numbers.take(
        tx, invoice.organization_id, "INV", at=tx.now, zone=settings.time_zone
    )
    invoice.issued_at = tx.now
    if invoice.due_at is None:
        invoice.due_at = tx.now + timedelta(days=settings.payment_terms_days)
    invoice.bill_to = parties.frozen(parties.payer(customer))
    invoice.bill_from = prices.issuer
    invoice.hold_reason = None
    invoice_states.apply(tx, invoice, "OPEN")
    if not invoice.total:
        invoice_states.apply(tx, invoice, "PAID")
    elif customer.email is not None:
        _mail(tx, invoice, customer.email, settings.time_zone)


def _mail(tx: Tx, invoice: InvoiceRow, recipient: str, zone: str) -> None:
    """Tell the customer what is owed, and by when; nothing is asked of who owes nothing."""
    assert invoice.due_at is not None  # noqa: S101 - it was issued
    assert invoice.number is not None  # noqa: S101 - it was issued
    owed, by = money(invoice.total, invoice.currency), day(invoice.due_at, zone)
    issuer = parties.kept(invoice.bill_from)
    name = issuer.name if issuer is not None else ""
    outbox.post(
        tx,
        invoice.organization_id,
        recipient=recipient,
        subject=f"Invoice {invoice.number} from {name}",
        text=f"Invoice {invoice.number}: {owed}, due on {by}.\n\n{name}\n",
        invoice_id=invoice.id,
    )
