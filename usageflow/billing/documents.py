"""Invoices and credit notes as PDF, from their rows alone: nothing is computed here.

What stands on an issued invoice was kept with it (`parties`), so that it reads the same for ever;
what has happened to it since, payments and credits, is shown as of today. A draft shows what is
known today, and says that it is one.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

import msgspec
from sqlmodel import col, select

from usageflow.billing import display, parties, typesetting
from usageflow.billing.credit_notes import CreditLine
from usageflow.billing.invoices import amount_due
from usageflow.billing.parties import Party
from usageflow.billing.pricing import figure
from usageflow.billing.typesetting import Entry, Sheet, Total, Who
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import CreditNoteRow, InvoiceLineRow, InvoiceRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow

STEPS_SHOWN_MAX: Final = 8
"""Steps of the arithmetic below a line; `usageflow invoices explain` has all of them."""

_STAMPS: Final = {"DRAFT": "Draft", "VOID": "Void"}


class _Step(msgspec.Struct, frozen=True):
    """Of a step of pricing, what a person reads."""

    text: str


def invoice_pdf(tx: Tx, organization_id: str, invoice_id: str) -> tuple[str, bytes] | Refused:
    """File name and PDF of an invoice, in whichever state. Takes some milliseconds of one core."""
    sheet = invoice_sheet(tx, organization_id, invoice_id)
    return sheet if isinstance(sheet, Refused) else (file_name(sheet), typesetting.pdf(sheet))


def credit_note_pdf(
    tx: Tx, organization_id: str, credit_note_id: str
) -> tuple[str, bytes] | Refused:
    """File name and PDF of a credit note."""
    sheet = credit_note_sheet(tx, organization_id, credit_note_id)
    return sheet if isinstance(sheet, Refused) else (file_name(sheet), typesetting.pdf(sheet))


def file_name(sheet: Sheet) -> str:
    """By what a document is saved: its number."""
    return f"{sheet.number}.pdf"


def invoice_sheet(tx: Tx, organization_id: str, invoice_id: str) -> Sheet | Refused:
    """All that stands on an invoice."""
    row = tx.session.get(InvoiceRow, invoice_id)
    if row is None or row.organization_id != organization_id:
        return Refused("not_found", f"there is no invoice {invoice_id[:50]!r}")
    lines = tx.session.exec(
        select(InvoiceLineRow)
        .where(InvoiceLineRow.invoice_id == row.id)
        .order_by(col(InvoiceLineRow.position))
    ).all()
    return composed(row, lines, *_parties(tx, row))


def composed(
    row: InvoiceRow, lines: Sequence[InvoiceLineRow], issuer: Party, payer: Party
) -> Sheet:
    """An invoice of these rows. Pure."""
    return Sheet(
        kind="Invoice",
        number=row.number or f"draft-{row.id}",
        made_at=row.issued_at or row.created_at,
        stamp=_STAMPS.get(row.state),
        badge=_badge(row, issuer.time_zone),
        issuer=_who(issuer),
        payer=_who(payer),
        facts=tuple(_facts(row, issuer.time_zone)),
        amount_title=f"Amount ({row.currency})",
        lines=tuple(_entry(row, line, issuer.time_zone) for line in lines),
        totals=tuple(_totals(row)),
        notes=tuple(_notes(row, issuer)),
    )


def credit_note_sheet(tx: Tx, organization_id: str, credit_note_id: str) -> Sheet | Refused:
    """All that stands on a credit note; its parties are those of its invoice."""
    row = tx.session.get(CreditNoteRow, credit_note_id)
    if row is None or row.organization_id != organization_id:
        return Refused("not_found", f"there is no credit note {credit_note_id[:50]!r}")
    invoice = tx.session.get_one(InvoiceRow, row.invoice_id)
    issuer, payer = _parties(tx, invoice)
    lines = msgspec.json.decode(row.lines, type=list[CreditLine])
    return Sheet(
        kind="Credit note",
        number=row.number,
        made_at=row.created_at,
        issuer=_who(issuer),
        payer=_who(payer),
        facts=(
            ("Credit note", row.number),
            ("Issued", display.day(row.created_at, issuer.time_zone)),
            ("For invoice", invoice.number or ""),
        ),
        amount_title=f"Amount ({row.currency})",
        lines=tuple(
            Entry(description=line.description, amount=display.amount(line.amount, row.currency))
            for line in lines
        ),
        totals=(Total("Credited", display.money(row.amount, row.currency), strong=True),),
        notes=tuple(note for note in (f"Reason: {row.reason}", issuer.note) if note),
    )


def _parties(tx: Tx, row: InvoiceRow) -> tuple[Party, Party]:
    """Who bills and who is billed: as issued, or of a draft as known today."""
    customer = tx.session.get_one(CustomerRow, row.customer_id)
    return (
        parties.kept(row.bill_from) or parties.issuer(tx, row.organization_id),
        parties.kept(row.bill_to) or parties.payer(customer),
    )


def _who(party: Party) -> Who:
    return Who(name=party.name, lines=party.lines)


def _badge(row: InvoiceRow, zone: str) -> str | None:
    if row.collect == "stripe_meters":
        return "Charged through Stripe: this is no request for payment"
    if row.state == "DRAFT":
        return "Not issued yet: amounts may change"
    if row.state == "VOID" and row.ended_at is not None:
        return f"Void since {display.day(row.ended_at, zone)}: nothing is owed"
    if row.state == "PAID" and row.paid_at is not None:
        return f"Paid on {display.day(row.paid_at, zone)}"
    return None


def _facts(row: InvoiceRow, zone: str) -> Iterator[tuple[str, str]]:
    yield "Invoice", row.number or "draft"
    if row.issued_at is not None:
        yield "Issued", display.day(row.issued_at, zone)
    if row.due_at is not None and row.state != "VOID":
        yield "Due", display.day(row.due_at, zone)
    if row.period_start is not None and row.period_end is not None:
        yield "Period", display.span(row.period_start, row.period_end, zone)


def _entry(row: InvoiceRow, line: InvoiceLineRow, zone: str) -> Entry:
    return Entry(
        description=line.description,
        details=tuple(_details(row, line, zone)),
        quantity="" if line.quantity is None else quantity(line.quantity, line.unit),
        unit_price=(
            "" if line.unit_price is None else display.price(line.unit_price, row.currency)
        ),
        amount=display.amount(line.amount, row.currency),
    )


def _details(row: InvoiceRow, line: InvoiceLineRow, zone: str) -> Iterator[str]:
    """What a line does not say by itself: another period, its steps, what was billed before."""
    own = (line.period_start, line.period_end)
    if own != (row.period_start, row.period_end) and line.period_start and line.period_end:
        yield display.span(line.period_start, line.period_end, zone)
    if line.unit_price is None or line.billed_before:
        yield from _told(msgspec.json.decode(line.steps, type=list[_Step]))
    if line.billed_before:
        yield f"billed before: {display.amount(line.billed_before, row.currency)}"


def _told(steps: Sequence[_Step]) -> Iterator[str]:
    yield from (step.text for step in steps[:STEPS_SHOWN_MAX])
    if len(steps) > STEPS_SHOWN_MAX:
        yield f"and {len(steps) - STEPS_SHOWN_MAX} more steps"


def _totals(row: InvoiceRow) -> Iterator[Total]:
    """From the subtotal to what is due; what is nothing is left out."""
    currency = row.currency
    taxed = row.tax_percent is not None or row.tax != 0
    if taxed:
        percent = "" if row.tax_percent is None else f" ({figure(row.tax_percent)} %)"
        yield Total("Subtotal", display.amount(row.subtotal, currency))
        yield Total(f"Tax{percent}", display.amount(row.tax, currency))
    yield Total("Total", display.money(row.total, currency), strong=True)
    if row.amount_credited:
        yield Total("Credited", display.amount(-row.amount_credited, currency))
    if row.amount_paid:
        yield Total("Paid", display.amount(-row.amount_paid, currency))
    if row.state != "DRAFT" and row.collect == "local":
        yield Total("Amount due", display.money(due(row), currency), strong=True)


def quantity(value: Decimal, unit: str) -> str:
    """How much, and of what: 12,000 calls."""
    return f"{figure(value)} {unit}".rstrip()


def due(row: InvoiceRow) -> int:
    """What is still to be paid of an issued invoice, in minor units; nothing of a void one."""
    return 0 if row.state == "VOID" else amount_due(row)


def _notes(row: InvoiceRow, issuer: Party) -> Iterator[str]:
    if row.memo:
        yield row.memo
    if row.payment_url and row.state == "OPEN":
        yield f"Pay online: {row.payment_url}"
    if issuer.note:
        yield issuer.note
    if row.period_start is not None:
        yield f"Periods are of the time zone {issuer.time_zone}."
