"""Credit notes: less is owed on an invoice that was issued, which itself never changes.

On an open invoice it lowers what is due; of a paid one the money is to be given back, which nobody
does here.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlmodel import col, select

from usageflow.billing import dunning, invoice_states, numbers
from usageflow.billing.display import money
from usageflow.billing.invoices import amount_due, locked, note, standing, unknown
from usageflow.catalog import organization_settings
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import CreditNoteRow, InvoiceRow
from usageflow.db.ids import new_id
from usageflow.db.session import Tx
from usageflow.money import minor_step

CREDITABLE: Final = ("OPEN", "PAID")


class CreditLine(msgspec.Struct, frozen=True):
    """What is credited, in minor units, tax included."""

    description: str
    amount: int


def create(
    tx: Tx,
    organization_id: str,
    invoice_id: str,
    *,
    lines: Sequence[CreditLine],
    reason: str,
    actor: Actor,
) -> CreditNoteRow | Refused:
    """Credit the sum of the lines: at most what the invoice came to and was not credited yet.

    An open invoice on which nothing is due any more is PAID.
    """
    invoice = locked(tx, organization_id, invoice_id)
    if invoice is None:
        return unknown(invoice_id)
    if refused := _problem(invoice, lines):
        return refused
    before, zone = standing(invoice), organization_settings.read(tx, organization_id).time_zone
    credited = CreditNoteRow(
        id=new_id("cn"),
        organization_id=organization_id,
        invoice_id=invoice.id,
        number=numbers.take(tx, organization_id, "CN", at=tx.now, zone=zone),
        currency=invoice.currency,
        amount=sum(line.amount for line in lines),
        reason=reason,
        lines=msgspec.json.encode(lines).decode(),
        created_by=actor.name,
        created_at=tx.now,
    )
    tx.session.add(credited)
    invoice.amount_credited += credited.amount
    invoice.updated_at = tx.now
    if invoice.state == "OPEN" and not amount_due(invoice):
        invoice_states.apply(tx, invoice, "PAID")
        if invoice.subscription_id is not None:
            dunning.mind(tx, organization_id, invoice.subscription_id)
    note(tx, invoice, "credit", before, actor, text=reason)
    return credited


def of_invoice(tx: Tx, invoice: InvoiceRow) -> list[CreditNoteRow]:
    """The invoice's credit notes, oldest first."""
    return list(
        tx.session.exec(
            select(CreditNoteRow)
            .where(
                col(CreditNoteRow.organization_id) == invoice.organization_id,
                col(CreditNoteRow.invoice_id) == invoice.id,
            )
            .order_by(col(CreditNoteRow.created_at), col(CreditNoteRow.id))
        )
    )


def _problem(invoice: InvoiceRow, lines: Sequence[CreditLine]) -> Refused | None:
    if invoice.state not in CREDITABLE:
        return Refused("conflict", f"the invoice is {invoice.state}: nothing on it can be credited")
    step = minor_step(invoice.currency)
    if not lines or any(line.amount <= 0 or line.amount % step for line in lines):
        return Refused("invalid", "each line credits an amount that can be paid, above 0", "amount")
    left = invoice.total - invoice.amount_credited
    if sum(line.amount for line in lines) > left:
        rest = money(left, invoice.currency)
        return Refused("conflict", f"no more than {rest} of the invoice can be credited", "amount")
    return None
