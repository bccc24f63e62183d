"""Invoices that a person writes: their own lines, in any currency, for any customer.

A draft can be changed and deleted; from when it is issued it is an invoice like every other.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import delete as deleting
from sqlmodel import col

from usageflow.billing.closing import store_lines
from usageflow.billing.invoice_states import tell
from usageflow.billing.invoices import locked, note, standing, unknown
from usageflow.billing.lines import InvoiceLine, sums
from usageflow.billing.pricing import times
from usageflow.catalog import customers, organization_settings
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.ids import new_id
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow
from usageflow.events import quantity_problem
from usageflow.money import AMOUNT_MAX, currency_problem, price_problem, shortest, to_minor

ITEMS_MAX: Final = 250
"""Lines of one invoice; as many as Stripe takes."""


class Item(NamedTuple):
    """A line: `quantity` times `unit_amount`, in major units of the invoice's currency."""

    description: str
    quantity: Decimal
    unit_amount: Decimal


class Draft(NamedTuple):
    """What a person wants on an invoice. Tax None: the customer's, else the organization's."""

    customer: str
    currency: str
    items: Sequence[Item]
    due_at: datetime | None = None
    memo: str = ""
    tax_percent: Decimal | None = None


def create(tx: Tx, organization_id: str, draft: Draft, *, actor: Actor) -> InvoiceRow | Refused:
    """Write a draft; it is issued when a person says so."""
    payer = _payer(tx, organization_id, draft)
    if isinstance(payer, Refused):
        return payer
    invoice = InvoiceRow(
        id=new_id("inv"),
        organization_id=organization_id,
        customer_id=payer.id,
        kind="manual",
        state="DRAFT",
        collect="local",
        payment_method="manual",
        currency=draft.currency,
        subtotal=0,
        total=0,
        created_at=tx.now,
        updated_at=tx.now,
    )
    _write(tx, invoice, payer, draft)
    tell(tx, invoice, "invoice.created")
    note(tx, invoice, "create", None, actor)
    return invoice


def change(
    tx: Tx, organization_id: str, invoice_id: str, draft: Draft, *, actor: Actor
) -> InvoiceRow | Refused:
    """Write a draft anew, as a whole."""
    invoice = _own_draft(tx, organization_id, invoice_id)
    if isinstance(invoice, Refused):
        return invoice
    payer = _payer(tx, organization_id, draft)
    if isinstance(payer, Refused):
        return payer
    before = standing(invoice)
    _delete_lines(tx, invoice)
    _write(tx, invoice, payer, draft)
    note(tx, invoice, "change", before, actor)
    return invoice


def delete(tx: Tx, organization_id: str, invoice_id: str, *, actor: Actor) -> Refused | None:
    """Let a draft never have been."""
    invoice = _own_draft(tx, organization_id, invoice_id)
    if isinstance(invoice, Refused):
        return invoice
    note(tx, invoice, "delete", standing(invoice), actor)
    _delete_lines(tx, invoice)
    tx.session.delete(invoice)
    tx.session.flush()
    return None


def _own_draft(tx: Tx, organization_id: str, invoice_id: str) -> InvoiceRow | Refused:
    invoice = locked(tx, organization_id, invoice_id)
    if invoice is None:
        return unknown(invoice_id)
    if invoice.state != "DRAFT":
        return Refused(
            "conflict", f"the invoice is {invoice.state} and never changes; write a credit note"
        )
    if invoice.kind != "manual":
        return Refused("conflict", "the draft of a subscription is computed; it can be voided")
    return invoice


def _payer(tx: Tx, organization_id: str, draft: Draft) -> CustomerRow | Refused:
    """Who is to pay, if the rest can be written too."""
    for field, problem in _problems(draft):
        return Refused("invalid", problem, field)
    payer = customers.find(tx, organization_id, draft.customer)
    if payer is None:
        return Refused("not_found", f"there is no customer {draft.customer}", "customer_id")
    return payer


def _problems(draft: Draft) -> Iterator[tuple[str, str]]:
    if problem := currency_problem(draft.currency):
        yield "currency", problem
        return
    if not 0 < len(draft.items) <= ITEMS_MAX:
        yield "line_items", f"{len(draft.items)} of them; an invoice has 1 to {ITEMS_MAX}"
    for index, item in enumerate(draft.items):
        if problem := quantity_problem(item.quantity):
            yield f"line_items[{index}].quantity", problem
        if problem := price_problem(item.unit_amount):
            yield f"line_items[{index}].unit_amount", problem
    if draft.tax_percent is not None and not 0 <= draft.tax_percent <= 100:  # noqa: PLR2004 - per cent
        yield "tax_percent", f"{draft.tax_percent} per cent; from 0 to 100 are possible"
    elif sums(_lines(draft), draft.tax_percent, draft.currency).total > AMOUNT_MAX:
        yield "line_items", "more money than anybody can pay"


def _lines(draft: Draft) -> list[InvoiceLine]:
    found = []
    for item in draft.items:
        step = times(item.quantity, item.unit_amount)
        found.append(
            InvoiceLine(
                kind="manual",
                description=item.description,
                quantity=shortest(item.quantity),
                unit_price=shortest(item.unit_amount),
                amount=to_minor(step.amount, draft.currency),
                steps=msgspec.json.encode([step]).decode(),
            )
        )
    return found


def _write(tx: Tx, invoice: InvoiceRow, payer: CustomerRow, draft: Draft) -> None:
    """What the draft says, in the rows."""
    settings = organization_settings.read(tx, invoice.organization_id)
    given = (draft.tax_percent, payer.tax_percent, settings.tax_percent)
    lines = _lines(draft)
    invoice.customer_id = payer.id
    invoice.currency = draft.currency
    invoice.due_at = draft.due_at
    invoice.memo = draft.memo
    invoice.tax_percent = next((percent for percent in given if percent is not None), None)
    invoice.subtotal, invoice.tax, invoice.total = sums(lines, invoice.tax_percent, draft.currency)
    invoice.updated_at = tx.now
    tx.session.add(invoice)
    tx.session.flush()
    store_lines(tx, invoice, lines)


def _delete_lines(tx: Tx, invoice: InvoiceRow) -> None:
    tx.session.execute(
        deleting(InvoiceLineRow).where(
            col(InvoiceLineRow.organization_id) == invoice.organization_id,
            col(InvoiceLineRow.invoice_id) == invoice.id,
        )
    )
