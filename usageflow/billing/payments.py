"""Payments: word of them, by hand or from Stripe, moves an invoice; each once, in any order.

Money that came counts, whatever was told before or after. What cannot be followed is noted with
the payment for a person: that a void invoice was paid, or one that is paid shall be void.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from sqlmodel import col, select

from usageflow.billing import dunning, invoice_states
from usageflow.billing.display import amount as shown
from usageflow.billing.invoice_states import OWED
from usageflow.billing.invoices import amount_due, locked, note, standing, unknown
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.db import outbox
from usageflow.db.billing_tables import InvoiceRow, PaymentRow
from usageflow.db.ids import new_id
from usageflow.db.outbox import PaymentKind
from usageflow.db.session import Tx
from usageflow.money import AMOUNT_MAX

BY_HAND: Final = "manual"
"""The source of what a person tells."""


def pay(
    tx: Tx,
    organization_id: str,
    invoice_id: str,
    *,
    text: str = "",
    amount: int | None = None,
    actor: Actor,
) -> InvoiceRow | Refused:
    """A person says that it was paid: `amount` minor units, or all that is due."""
    return _by_hand(tx, organization_id, invoice_id, "paid", text=text, amount=amount, actor=actor)


def fail(
    tx: Tx, organization_id: str, invoice_id: str, *, text: str = "", actor: Actor
) -> InvoiceRow | Refused:
    """A person says that a payment of it failed."""
    return _by_hand(tx, organization_id, invoice_id, "failed", text=text, amount=None, actor=actor)


def of_invoice(tx: Tx, invoice: InvoiceRow) -> list[PaymentRow]:
    """Everything that was told of its payment, in the order in which it was."""
    return list(
        tx.session.exec(
            select(PaymentRow)
            .where(
                col(PaymentRow.organization_id) == invoice.organization_id,
                col(PaymentRow.invoice_id) == invoice.id,
            )
            .order_by(col(PaymentRow.id))
        )
    )


def apply(tx: Tx, payment: PaymentRow) -> None:
    """Let word of a payment that the caller holds have its effect, and note which it was."""
    invoice = locked(tx, payment.organization_id, payment.invoice_id)
    if invoice is None:
        payment.outcome = "noted: there is no such invoice"
    elif invoice.state not in OWED:
        payment.outcome = f"noted: the invoice was {invoice.state}"
    else:
        payment.outcome = _EFFECTS[payment.kind](tx, invoice, payment)
    payment.applied_at = tx.now
    if invoice is not None and invoice.subscription_id is not None:
        dunning.mind(tx, invoice.organization_id, invoice.subscription_id)


def _by_hand(
    tx: Tx,
    organization_id: str,
    invoice_id: str,
    kind: PaymentKind,
    *,
    text: str,
    amount: int | None,
    actor: Actor,
) -> InvoiceRow | Refused:
    invoice = locked(tx, organization_id, invoice_id)
    if invoice is None:
        return unknown(invoice_id)
    if invoice.state not in OWED:
        return Refused("conflict", f"the invoice is {invoice.state}: there is nothing to be paid")
    if amount is not None and amount > AMOUNT_MAX:
        return Refused("invalid", "more money than anybody can pay", "amount")
    before, reference = standing(invoice), new_id("pay")
    outbox.tell_payment(
        tx,
        organization_id,
        invoice.id,
        kind,
        source=BY_HAND,
        reference=reference,
        at=tx.now,
        amount=amount,
        note=text,
    )
    apply(tx, of_invoice(tx, invoice)[-1])
    note(tx, invoice, kind, before, actor, text=text)
    return invoice


def _paid(tx: Tx, invoice: InvoiceRow, payment: PaymentRow) -> str:
    due = amount_due(invoice)
    came = due if payment.amount is None else payment.amount
    invoice.amount_paid += came
    invoice.updated_at = tx.now
    if came < due:
        rest = shown(due - came, invoice.currency)
        return f"paid in part: {rest} {invoice.currency} are still due"
    invoice_states.apply(tx, invoice, "PAID")
    more = shown(came - due, invoice.currency)
    return "paid" if came == due else f"paid, and {more} {invoice.currency} more than was due"


def _failed(tx: Tx, invoice: InvoiceRow, payment: PaymentRow) -> str:
    invoice.payment_failures += 1
    invoice.payment_failed_at = _earlier(invoice.payment_failed_at, payment.at)
    invoice.updated_at = tx.now
    invoice_states.tell(tx, invoice, "invoice.failed")
    return "failed"


def _voided(tx: Tx, invoice: InvoiceRow, _: PaymentRow) -> str:
    invoice_states.apply(tx, invoice, "VOID")
    return "voided"


def _given_up(tx: Tx, invoice: InvoiceRow, _: PaymentRow) -> str:
    if invoice.state == "OPEN":
        invoice_states.apply(tx, invoice, "UNCOLLECTIBLE")
    return "given up"


_EFFECTS: Final[Mapping[str, Callable[[Tx, InvoiceRow, PaymentRow], str]]] = {
    "paid": _paid,
    "failed": _failed,
    "voided": _voided,
    "uncollectible": _given_up,
}


def _earlier(known: datetime | None, at: datetime) -> datetime:
    return at if known is None else min(known, at)
