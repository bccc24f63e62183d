"""How invoices, their lines, payments and credit notes stand in answers: money in major units."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlmodel import col, select

from usageflow.api.exact_json import Answer, Number
from usageflow.billing import credit_notes, parties, payments
from usageflow.billing.contents import contents
from usageflow.billing.invoices import amount_due
from usageflow.billing.lines import InvoiceLine
from usageflow.billing.preview import Preview
from usageflow.db.billing_tables import CreditNoteRow, InvoiceLineRow, InvoiceRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow
from usageflow.money import from_minor

Status = Literal["DRAFT", "OPEN", "PAID", "UNCOLLECTIBLE", "VOID"]


class LineItem(Answer):
    """A line. `quantity` is the usage of the whole period so far; `billed_before` is what earlier
    invoices billed of its price, `line_total` what this one does. `unit_amount` is there where
    quantity times it is the price; else the invoice's explanation says how it came about.
    """

    position: int
    kind: str
    description: str
    metric: str | None
    unit: str
    charge_id: str | None
    quantity: Number | None
    unit_amount: Number | None
    billed_before: Number
    line_total: Number
    period_start: datetime | None
    period_end: datetime | None
    share: str


class PartyOut(Answer):
    """Who bills, or is billed, as it stands on the invoice."""

    name: str
    address: list[str]
    email: str | None
    tax_id: str | None


class InvoiceOut(Answer):
    """An invoice. `period_end` is the first moment after its period.

    With `hold_reason` a draft waits for a person; else it is issued at `finalize_at`.
    """

    id: str
    invoice_number: str | None
    status: Status
    kind: str
    collect: str
    payment_method: str
    customer_id: str
    customer_external_id: str
    subscription_id: str | None
    plan_id: str | None
    plan_version: int | None
    currency: str
    subtotal: Number
    tax_percent: Number | None
    tax: Number
    total: Number
    amount_due: Number
    amount_paid: Number
    amount_credited: Number
    memo: str
    hold_reason: str | None
    finalize_at: datetime | None
    issue_date: datetime | None
    due_date: datetime | None
    paid_at: datetime | None
    ended_at: datetime | None
    period_start: datetime | None
    period_end: datetime | None
    payment_failures: int
    payment_failed_at: datetime | None
    payment_url: str | None
    created_at: datetime
    updated_at: datetime
    line_items: list[LineItem]


class PaymentOut(Answer):
    """Word of a payment, and what came of it. `amount`: none means all that was due."""

    kind: str
    source: str
    reference: str
    amount: Number | None
    note: str
    at: datetime
    outcome: str | None


class CreditLineOut(Answer):
    """A line of a credit note."""

    description: str
    amount: Number


class CreditNoteOut(Answer):
    """A credit note."""

    id: str
    number: str
    invoice_id: str
    currency: str
    amount: Number
    reason: str
    lines: list[CreditLineOut]
    created_by: str
    created_at: datetime


class InvoiceDetail(InvoiceOut):
    """An invoice with all that happened to it."""

    bill_to: PartyOut | None
    bill_from: PartyOut | None
    payments: list[PaymentOut]
    credit_notes: list[CreditNoteOut]


class PreviewOut(Answer):
    """What an invoice would come to; there is none."""

    plan_id: str
    plan_version: int
    currency: str
    period_start: datetime
    period_end: datetime
    subtotal: Number
    tax: Number
    total: Number
    line_items: list[LineItem]


def told(tx: Tx, organization_id: str, rows: Sequence[InvoiceRow]) -> list[InvoiceOut]:
    """The invoices with their lines."""
    kept = contents(tx, organization_id, rows)
    names = _external_ids(tx, organization_id, rows)
    return [InvoiceOut(**_fields(row, kept[row.id].lines, names)) for row in rows]


def told_in_detail(tx: Tx, row: InvoiceRow) -> InvoiceDetail:
    """One invoice and its payments and credit notes."""
    [out] = told(tx, row.organization_id, [row])
    return InvoiceDetail(
        **dict(out),
        bill_to=_party(row.bill_to),
        bill_from=_party(row.bill_from),
        payments=[
            PaymentOut(
                kind=one.kind,
                source=one.source,
                reference=one.reference,
                amount=None if one.amount is None else from_minor(one.amount, row.currency),
                note=one.note,
                at=one.at,
                outcome=one.outcome,
            )
            for one in payments.of_invoice(tx, row)
        ],
        credit_notes=[told_credit(one) for one in credit_notes.of_invoice(tx, row)],
    )


def told_credit(row: CreditNoteRow) -> CreditNoteOut:
    """A credit note."""
    lines = msgspec.json.decode(row.lines, type=list[credit_notes.CreditLine])
    return CreditNoteOut(
        id=row.id,
        number=row.number,
        invoice_id=row.invoice_id,
        currency=row.currency,
        amount=from_minor(row.amount, row.currency),
        reason=row.reason,
        lines=[
            CreditLineOut(description=one.description, amount=from_minor(one.amount, row.currency))
            for one in lines
        ],
        created_by=row.created_by,
        created_at=row.created_at,
    )


def told_preview(preview: Preview) -> PreviewOut:
    """A preview."""
    currency = preview.currency
    return PreviewOut(
        plan_id=preview.plan_id,
        plan_version=preview.plan_version,
        currency=currency,
        period_start=preview.period_start,
        period_end=preview.period_end,
        subtotal=from_minor(preview.sums.subtotal, currency),
        tax=from_minor(preview.sums.tax, currency),
        total=from_minor(preview.sums.total, currency),
        line_items=[
            _line(line, position, preview.units.get(line.metric or "", ""), currency)
            for position, line in enumerate(preview.lines, start=1)
        ],
    )


def _fields(
    row: InvoiceRow, lines: Sequence[InvoiceLineRow], names: Mapping[str, str]
) -> dict[str, Any]:
    amounts = {
        "subtotal": row.subtotal,
        "tax": row.tax,
        "total": row.total,
        "amount_due": amount_due(row),
        "amount_paid": row.amount_paid,
        "amount_credited": row.amount_credited,
    }
    return row.model_dump() | {
        **{name: from_minor(amount, row.currency) for name, amount in amounts.items()},
        "invoice_number": row.number,
        "status": row.state,
        "customer_external_id": names[row.customer_id],
        "issue_date": row.issued_at,
        "due_date": row.due_at,
        "line_items": [_line(line, line.position, line.unit, row.currency) for line in lines],
    }


def _line(line: InvoiceLine | InvoiceLineRow, position: int, unit: str, currency: str) -> LineItem:
    return LineItem(
        position=position,
        kind=line.kind,
        description=line.description,
        metric=line.metric,
        unit=unit,
        charge_id=line.charge_id,
        quantity=line.quantity,
        unit_amount=line.unit_price,
        billed_before=from_minor(line.billed_before, currency),
        line_total=from_minor(line.amount, currency),
        period_start=line.period_start,
        period_end=line.period_end,
        share=line.share,
    )


def _external_ids(tx: Tx, organization_id: str, rows: Sequence[InvoiceRow]) -> dict[str, str]:
    found = tx.session.exec(
        select(CustomerRow.id, CustomerRow.external_id).where(
            col(CustomerRow.organization_id) == organization_id,
            col(CustomerRow.id).in_({row.customer_id for row in rows}),
        )
    )
    return dict(found.all())


def _party(text: str) -> PartyOut | None:
    party = parties.kept(text)
    if party is None:
        return None
    return PartyOut(
        name=party.name, address=list(party.address), email=party.email, tax_id=party.tax_id
    )
