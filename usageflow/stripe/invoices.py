"""Our invoices at Stripe, for customers to pay there: issued, and ended when they are ended here.

Stripe gets the lines of an invoice as amounts, rounded already, so that it adds up to the same. Who
computes what is owed, and what follows from a payment, is not known here.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.db import outbox
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.session import Database, Tx
from usageflow.db.tables import CustomerRow, StripeAccountRow
from usageflow.errors import DeliveryError
from usageflow.money import plain
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.invoice_calls import Item, StripeInvoice, Wish, rejected

AT_ONCE: Final = 20
"""Invoices issued in one round: some seconds of calls, so that other duties have their turn."""
SKEW: Final = timedelta(hours=1)
"""How far Stripe's clock may be behind ours, looking for what was made in a round before."""
ENDED: Final = ("PAID", "VOID")

logger = logging.getLogger("usageflow.stripe")


class Due(NamedTuple):
    """An open invoice that Stripe does not have; without a wish for the `reason` there is none."""

    row: InvoiceRow
    owed: int
    wish: Wish | None
    reason: str


def issue_due(db: Database, gateway: StripeGateway, account_id: str) -> int:
    """Make a Stripe invoice of each open invoice that is to be paid by one; how many were made.

    What cannot be made stays, with the reason in `hold_reason` and the audit log, and is tried
    again. Safe to be interrupted anywhere and to be done by several at once. Raises DeliveryError
    if Stripe cannot be asked.
    """
    with db.reading() as tx:
        due = _due(tx, _organization(tx, account_id))
        tx.session.expunge_all()
    return sum(_issue(db, gateway, one) for one in due)


def end_settled(db: Database, gateway: StripeGateway, account_id: str) -> int:
    """End at Stripe what was paid in another way or voided here; how many were looked at.

    So that nobody pays twice. One that is ended has no `payment_url` any more. Raises DeliveryError
    if Stripe cannot be asked.
    """
    with db.reading() as tx:
        rows = tx.session.exec(
            select(InvoiceRow)
            .where(
                InvoiceRow.organization_id == _organization(tx, account_id),
                col(InvoiceRow.state).in_(ENDED),
                col(InvoiceRow.stripe_invoice_id).is_not(None),
                col(InvoiceRow.payment_url).is_not(None),
            )
            .order_by(col(InvoiceRow.issued_at), col(InvoiceRow.id))
            .limit(AT_ONCE)
        ).all()
        tx.session.expunge_all()
    for row in rows:
        _end(gateway, row)
        with db.transaction() as tx:
            tx.session.get_one(InvoiceRow, row.id).payment_url = None
    return len(rows)


def wished(row: InvoiceRow, customer: CustomerRow, lines: Sequence[InvoiceLineRow]) -> Due:
    """What Stripe is to be asked for, or why it cannot be. Pure."""
    owed = row.total - row.amount_paid - row.amount_credited
    if customer.stripe_customer_id is None:
        reason = f"the customer {customer.external_id} has no stripe_customer_id: set it"
        return Due(row, owed, None, reason)
    assert row.issued_at is not None  # noqa: S101 - it is open
    assert row.due_at is not None  # noqa: S101 - it is open
    wish = Wish(
        invoice_id=row.id,
        customer=customer.stripe_customer_id,
        currency=row.currency,
        description=f"Invoice {row.number}",
        days_until_due=max(0, (row.due_at - row.issued_at).days),
        items=tuple(_items(row, lines)),
    )
    return Due(row, owed, wish, "")


def _due(tx: Tx, organization_id: str) -> list[Due]:
    """Those that were not tried yet before those that could not be made."""
    held = col(InvoiceRow.hold_reason).is_not(None)
    rows = tx.session.exec(
        select(InvoiceRow)
        .where(
            InvoiceRow.organization_id == organization_id,
            InvoiceRow.state == "OPEN",
            InvoiceRow.payment_method == "stripe_invoice",
            col(InvoiceRow.stripe_invoice_id).is_(None),
        )
        .order_by(held, col(InvoiceRow.issued_at), col(InvoiceRow.id))
        .limit(AT_ONCE)
    ).all()
    return [
        wished(row, tx.session.get_one(CustomerRow, row.customer_id), _lines(tx, row))
        for row in rows
    ]


def _organization(tx: Tx, account_id: str) -> str:
    return tx.session.get_one(StripeAccountRow, account_id).organization_id


def _lines(tx: Tx, row: InvoiceRow) -> Sequence[InvoiceLineRow]:
    return tx.session.exec(
        select(InvoiceLineRow)
        .where(InvoiceLineRow.invoice_id == row.id)
        .order_by(col(InvoiceLineRow.position))
    ).all()


def _items(row: InvoiceRow, lines: Sequence[InvoiceLineRow]) -> Iterator[Item]:
    """Lines, tax, and what was credited or paid before: together what is owed."""
    for line in lines:
        if line.amount:
            start, end = line.period_start, line.period_end
            period = (start, end) if start is not None and end is not None else None
            yield Item(f"line-{line.position}", _described(line), line.amount, period)
    if row.tax:
        percent = "" if row.tax_percent is None else f" ({plain(row.tax_percent)} %)"
        yield Item("tax", f"Tax{percent}", row.tax, None)
    if settled := row.amount_credited + row.amount_paid:
        yield Item(f"settled-{settled}", "Credited or paid before", -settled, None)


def _described(line: InvoiceLineRow) -> str:
    if line.quantity is None or line.quantity == 1:
        return line.description
    return f"{line.description}: {line.quantity:,f} {line.unit}".rstrip()


def _issue(db: Database, gateway: StripeGateway, due: Due) -> bool:
    """Whether the invoice is at Stripe now, and was not before."""
    reason, made = due.reason, None
    if due.wish is not None:
        try:
            made = _made(gateway, due.wish, due)
        except DeliveryError as error:
            if not rejected(error):
                raise
            reason = str(error)
        else:
            reason = "" if made.status != "draft" else _other_total(due, made)
    with db.transaction() as tx:
        row = tx.session.get_one(InvoiceRow, due.row.id, with_for_update=True)
        if reason or made is None:
            return _kept_back(tx, row, reason)
        return _kept(tx, row, made)


def _made(gateway: StripeGateway, wish: Wish, due: Due) -> StripeInvoice:
    """The invoice at Stripe, made as far as it was not; a draft if it comes to something else."""
    assert due.row.issued_at is not None  # noqa: S101 - it is open
    calls = gateway.invoices
    made = calls.draft(wish, due.row.issued_at - SKEW)
    if made.status == "draft":
        calls.match_items(made.stripe_id, wish)
        made = calls.get(made.stripe_id)
        if made.total == due.owed:
            made = calls.finalize(made.stripe_id)
    return made


def _other_total(due: Due, made: StripeInvoice) -> str:
    return (
        f"at Stripe the draft {made.stripe_id} comes to {made.total} {due.row.currency} in minor "
        f"units, not to {due.owed}: see whether taxes or discounts are added there"
    )


def _kept_back(tx: Tx, row: InvoiceRow, reason: str) -> bool:
    """Say why, once, unless another server was luckier."""
    if row.stripe_invoice_id is None and row.hold_reason != reason:
        row.hold_reason = reason
        logger.warning("invoice %s is not at Stripe: %s", row.number, reason)
        _record(tx, row, "invoice.stripe.refused", {"reason": reason})
    return False


def _kept(tx: Tx, row: InvoiceRow, made: StripeInvoice) -> bool:
    """Remember it, and tell the customer where to pay; False if another server did so already."""
    if row.stripe_invoice_id is not None:
        return False
    row.stripe_invoice_id, row.payment_url = made.stripe_id, made.url
    row.hold_reason, row.updated_at = None, tx.now
    customer = tx.session.get_one(CustomerRow, row.customer_id)
    if customer.email is not None and made.status == "open":
        outbox.post(
            tx,
            row.organization_id,
            recipient=customer.email,
            subject=f"Invoice {row.number} can be paid online",
            text=f"Invoice {row.number} can be paid here:\n\n{made.url}\n",
        )
    _record(tx, row, "invoice.stripe.issue", {"stripe_invoice_id": made.stripe_id})
    return True


def _end(gateway: StripeGateway, row: InvoiceRow) -> None:
    """As it ended here, unless it has ended there."""
    assert row.stripe_invoice_id is not None  # noqa: S101 - it was looked for
    if gateway.invoices.get(row.stripe_invoice_id).status not in ("open", "uncollectible"):
        return
    if row.state == "VOID":
        gateway.invoices.void(row.stripe_invoice_id)
    else:
        gateway.invoices.paid_elsewhere(row.stripe_invoice_id)


def _record(tx: Tx, row: InvoiceRow, action: str, after: dict[str, str]) -> None:
    audit.record(
        tx, row.organization_id, actor=audit.SYSTEM, action=action, subject=row.id, after=after
    )
