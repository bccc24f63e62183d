"""/api/v1/invoices: what customers owe, written by hand or by the end of a period.

An invoice is named by its id or its number. Invoices that are generated, and previews, are asked
for at `api.v1.generation`; how one came about is told by `api.v1.invoice_evidence`.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Response
from pydantic import Field

from usageflow.api.access import Access, Rest, RestDep, needs
from usageflow.api.exact_json import Body, Exact, Id, Instant, Line, Prose, answer
from usageflow.api.invoice_answers import (
    CreditNoteOut,
    InvoiceDetail,
    InvoiceOut,
    Status,
    told,
    told_credit,
    told_in_detail,
)
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import credit_notes, invoices, manual, payments, subscriptions
from usageflow.billing.credit_notes import CreditLine
from usageflow.billing.manual import ITEMS_MAX, Draft, Item
from usageflow.catalog import customers
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.session import Tx
from usageflow.money import from_minor, to_minor

router = v1_router("invoices")

CanRead = Annotated[Access, needs("invoices.read")]
CanWrite = Annotated[Access, needs("invoices.write")]
Text = Annotated[str, Field(min_length=1), Line]


class NewLineItem(Body):
    """A line to bill: `quantity` times `unit_amount`, rounded once."""

    description: Id
    quantity: Exact
    unit_amount: Exact


class NewInvoice(Body):
    """An invoice to write. Without `tax_percent` the customer's tax is charged, or the
    organization's; without `due_date` it is due after the organization's payment terms.
    """

    customer_id: Id
    currency: Id
    due_date: Instant | None = None
    memo: Prose = ""
    tax_percent: Exact | None = None
    line_items: Annotated[list[NewLineItem], Field(min_length=1, max_length=ITEMS_MAX)]


class Note(Body):
    """What a person wants to be known about it, kept with the payment and in the audit log."""

    note: Line = ""


class PaymentNote(Note):
    """What was paid: all that is due, or an amount."""

    amount: Exact | None = None


class NewStatus(Note):
    """The state to bring an invoice to: OPEN issues a draft."""

    status: Literal["OPEN", "PAID", "UNCOLLECTIBLE", "VOID"]


class NewCreditLine(Body):
    """What is credited, tax included."""

    description: Id
    amount: Exact


class NewCreditNote(Body):
    """A credit: one amount, or several lines."""

    reason: Id
    amount: Exact | None = None
    lines: Annotated[list[NewCreditLine], Field(max_length=ITEMS_MAX)] = Field(default_factory=list)


@router.get("/invoices", response_model=Listed[InvoiceOut])
def list_invoices(
    *,
    access: CanRead,
    rest: RestDep,
    page: PageDep,
    customer_id: Id | None = None,
    subscription_id: Id | None = None,
    status: Status | None = None,
    since: Annotated[Instant | None, Query(alias="from")] = None,
    until: Annotated[Instant | None, Query(alias="to")] = None,
    collect: Literal["local", "stripe_meters"] = "local",
) -> Response:
    """Invoices, newest first; `from` and `to` bound when they were made.

    With `collect=stripe_meters` the shadows of what Stripe prices, which are never issued.
    """
    with rest.db.reading() as tx:
        customer = None if customer_id is None else _customer(tx, access, customer_id)
        rows, total = invoices.listing(
            tx,
            access.organization_id,
            customer_id=customer,
            subscription_id=subscription_id,
            state=status,
            collect=collect,
            since=since,
            until=until,
            offset=page.offset,
            limit=page.limit,
        )
        return listed(told(tx, access.organization_id, rows), total, page)


@router.get("/customers/{customer}/invoices", response_model=Listed[InvoiceOut])
def list_invoices_of_customer(
    customer: Id, access: CanRead, rest: RestDep, page: PageDep
) -> Response:
    """All invoices of a customer, newest first."""
    return list_invoices(access=access, rest=rest, page=page, customer_id=customer)


@router.get("/subscriptions/{subscription}/invoices", response_model=Listed[InvoiceOut])
def list_invoices_of_subscription(
    subscription: Id, access: CanRead, rest: RestDep, page: PageDep
) -> Response:
    """All invoices of a subscription, newest first."""
    with rest.db.reading() as tx:
        if subscriptions.find(tx, access.organization_id, subscription) is None:
            refusal(subscriptions.unknown(subscription))
    return list_invoices(access=access, rest=rest, page=page, subscription_id=subscription)


@router.post("/invoices", response_model=InvoiceDetail, status_code=201)
def create_invoice(body: NewInvoice, access: CanWrite, rest: RestDep) -> Response:
    """Write an invoice by hand: a draft, until it is finalized."""
    with rest.db.transaction() as tx:
        made = manual.create(tx, access.organization_id, _draft(body), actor=access.actor)
        detail = _detail(tx, made)
    rest.on_billing()
    return answer(detail, 201)


@router.get("/invoices/{invoice_id}", response_model=InvoiceDetail)
def read_invoice(invoice_id: Id, access: CanRead, rest: RestDep) -> Response:
    """One invoice, with its lines, payments and credit notes."""
    with rest.db.reading() as tx:
        row = invoices.find(tx, access.organization_id, invoice_id)
        return answer(_detail(tx, row or invoices.unknown(invoice_id)))


@router.put("/invoices/{invoice_id}", response_model=InvoiceDetail)
def replace_invoice(invoice_id: Id, body: NewInvoice, access: CanWrite, rest: RestDep) -> Response:
    """Write a draft anew, as a whole."""
    return _done(access, rest, manual.change, invoice_id, draft=_draft(body))


@router.delete("/invoices/{invoice_id}", status_code=204)
def delete_invoice(invoice_id: Id, access: CanWrite, rest: RestDep) -> Response:
    """Delete a draft that was written by hand."""
    with rest.db.transaction() as tx:
        refused = manual.delete(tx, access.organization_id, invoice_id, actor=access.actor)
        return refusal(refused) if refused else Response(status_code=204)


@router.post("/invoices/{invoice_id}/finalize", response_model=InvoiceDetail)
def finalize_invoice(invoice_id: Id, access: CanWrite, rest: RestDep) -> Response:
    """Issue a draft now: numbered, dated, and unchanged from then on."""
    return _done(access, rest, invoices.issue, invoice_id)


@router.post("/invoices/{invoice_id}/release", response_model=InvoiceDetail)
def release_invoice(invoice_id: Id, access: CanWrite, rest: RestDep) -> Response:
    """Issue a draft that is held because its usage was sent to Stripe: it is to be paid here."""
    return _done(access, rest, invoices.issue, invoice_id, release=True)


@router.post("/invoices/{invoice_id}/void", response_model=InvoiceDetail)
def void_invoice(
    invoice_id: Id, access: CanWrite, rest: RestDep, body: Note | None = None
) -> Response:
    """Nothing is owed on it; what it billed is forgiven, not billed again."""
    return _done(access, rest, invoices.void, invoice_id, text=_text(body))


@router.post("/invoices/{invoice_id}/uncollectible", response_model=InvoiceDetail)
def give_invoice_up(
    invoice_id: Id, access: CanWrite, rest: RestDep, body: Note | None = None
) -> Response:
    """It will hardly be paid; should it be after all, say so."""
    return _done(access, rest, invoices.give_up, invoice_id, text=_text(body))


@router.post("/invoices/{invoice_id}/pay", response_model=InvoiceDetail)
def pay_invoice(
    invoice_id: Id, access: CanWrite, rest: RestDep, body: PaymentNote | None = None
) -> Response:
    """It was paid: all that is due, or an amount of it."""
    amount = None if body is None else body.amount
    return _done(access, rest, payments.pay, invoice_id, text=_text(body), amount=amount)


@router.post("/invoices/{invoice_id}/fail", response_model=InvoiceDetail)
def fail_invoice(
    invoice_id: Id, access: CanWrite, rest: RestDep, body: Note | None = None
) -> Response:
    """A payment of it failed."""
    return _done(access, rest, payments.fail, invoice_id, text=_text(body))


@router.patch("/invoices/{invoice_id}/status", response_model=InvoiceDetail)
def set_status(invoice_id: Id, body: NewStatus, access: CanWrite, rest: RestDep) -> Response:
    """Bring an invoice to a state, with a note."""
    if body.status == "OPEN":
        return _done(access, rest, invoices.issue, invoice_id)
    return _done(access, rest, _WAYS[body.status], invoice_id, text=body.note)


@router.post("/invoices/{invoice_id}/credit-notes", response_model=CreditNoteOut, status_code=201)
def create_credit_note(
    invoice_id: Id, body: NewCreditNote, access: CanWrite, rest: RestDep
) -> Response:
    """Credit a part of an issued invoice, or all of it."""
    if (body.amount is None) == (not body.lines):
        refusal(Refused("invalid", "an amount or lines: say what is credited once", "amount"))
    with rest.db.transaction() as tx:
        invoice = invoices.find(tx, access.organization_id, invoice_id)
        if invoice is None:
            refusal(invoices.unknown(invoice_id))
        given = [(one.description, one.amount) for one in body.lines]
        if body.amount is not None:
            given = [(body.reason, body.amount)]
        made = credit_notes.create(
            tx,
            access.organization_id,
            invoice.id,
            lines=[CreditLine(text, _minor(amount, invoice.currency)) for text, amount in given],
            reason=body.reason,
            actor=access.actor,
        )
        out = refusal(made) if isinstance(made, Refused) else told_credit(made)
    rest.on_billing()
    return answer(out, 201)


@router.get("/invoices/{invoice_id}/credit-notes", response_model=Listed[CreditNoteOut])
def list_credit_notes(invoice_id: Id, access: CanRead, rest: RestDep, page: PageDep) -> Response:
    """The credit notes of an invoice, oldest first."""
    with rest.db.reading() as tx:
        invoice = invoices.find(tx, access.organization_id, invoice_id)
        if invoice is None:
            refusal(invoices.unknown(invoice_id))
        rows = credit_notes.of_invoice(tx, invoice)
        shown = rows[page.offset : page.offset + page.limit]
        return listed([told_credit(row) for row in shown], len(rows), page)


_WAYS: Final[dict[str, Callable[..., InvoiceRow | Refused]]] = {
    "PAID": payments.pay,
    "UNCOLLECTIBLE": invoices.give_up,
    "VOID": invoices.void,
}


def _done(
    access: Access,
    rest: Rest,
    act: Callable[..., InvoiceRow | Refused],
    invoice_id: str,
    *,
    amount: Decimal | None = None,
    **details: Any,
) -> Response:
    """The invoice after something was done with it; `amount` is in its currency."""
    with rest.db.transaction() as tx:
        if amount is not None:
            known = invoices.find(tx, access.organization_id, invoice_id)
            if known is None:
                refusal(invoices.unknown(invoice_id))
            details["amount"] = _minor(amount, known.currency)
        found = act(tx, access.organization_id, invoice_id, **details, actor=access.actor)
        detail = _detail(tx, found)
    rest.on_billing()
    return answer(detail)


def _detail(tx: Tx, found: InvoiceRow | Refused) -> InvoiceDetail:
    if isinstance(found, Refused):
        refusal(found)
    tx.session.flush()
    return told_in_detail(tx, found)


def _draft(body: NewInvoice) -> Draft:
    return Draft(
        customer=body.customer_id,
        currency=body.currency,
        items=[Item(one.description, one.quantity, one.unit_amount) for one in body.line_items],
        due_at=body.due_date,
        memo=body.memo,
        tax_percent=body.tax_percent,
    )


def _minor(amount: Decimal, currency: str) -> int:
    """An amount that can be paid, in minor units."""
    minor = to_minor(amount, currency)
    if minor <= 0 or from_minor(minor, currency) != amount:
        refusal(Refused("invalid", f"{amount} {currency} cannot be paid", "amount"))
    return minor


def _text(body: Note | None) -> str:
    return "" if body is None else body.note


def _customer(tx: Tx, access: Access, customer: str) -> str:
    row = customers.find(tx, access.organization_id, customer)
    return refusal(customers.unknown(customer)) if row is None else row.id
