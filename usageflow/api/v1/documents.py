"""/api/v1 addresses that answer with a file: invoices and credit notes as PDF, usage statements.

What stands in them is `billing.documents`'s and `billing.statements`'s.
"""

from typing import Annotated, Any, Final, NamedTuple, TypeVar

from fastapi import Depends, Query, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Id, Instant
from usageflow.api.files import PDF, pdf_file, statement_file
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import documents, invoices, statements
from usageflow.billing.statement_files import MEDIA_TYPES, Format
from usageflow.billing.statements import Detail
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.periods import Period

router = v1_router("documents")

Document = TypeVar("Document")

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_FILES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The document", "content": {PDF: _BINARY}}
}
_STATEMENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "A line for each hour or event, and the total of each metric",
        "content": {media.partition(";")[0]: _BINARY for media in MEDIA_TYPES.values()},
    }
}


class Form(NamedTuple):
    """How a usage statement is written, and whether hour by hour or event by event."""

    format: Format
    detail: Detail


def _form(form: Annotated[Format, Query(alias="format")] = "csv", detail: Detail = "hours") -> Form:
    return Form(form, detail)


def _interval(start: Instant, end: Instant) -> Period:
    return Period(start, end)


FormDep = Annotated[Form, Depends(_form)]
IntervalDep = Annotated[Period, Depends(_interval)]
CanReadInvoices = Annotated[Access, needs("invoices.read")]
CanReadUsage = Annotated[Access, needs("usage.read")]


@router.get("/invoices/{invoice_id}/pdf", response_class=Response, responses=_FILES)
def invoice_pdf(invoice_id: Id, access: CanReadInvoices, rest: RestDep) -> Response:
    """An invoice as PDF, in whichever state."""
    with rest.db.reading() as tx:
        sheet = documents.invoice_sheet(tx, access.organization_id, _id(tx, access, invoice_id))
    return pdf_file(_found(sheet))


@router.get("/credit-notes/{credit_note_id}/pdf", response_class=Response, responses=_FILES)
def credit_note_pdf(credit_note_id: Id, access: CanReadInvoices, rest: RestDep) -> Response:
    """A credit note as PDF."""
    with rest.db.reading() as tx:
        sheet = documents.credit_note_sheet(tx, access.organization_id, credit_note_id)
    return pdf_file(_found(sheet))


@router.get(
    "/invoices/{invoice_id}/usage-statement", response_class=Response, responses=_STATEMENTS
)
def invoice_usage_statement(
    invoice_id: Id, form: FormDep, access: CanReadUsage, rest: RestDep
) -> Response:
    """The usage that an invoice bills, as it was when the invoice was computed."""
    with rest.db.reading() as tx:
        statement = statements.of_invoice(tx, access.organization_id, _id(tx, access, invoice_id))
    return statement_file(rest.db, _found(statement), *form)


@router.get(
    "/customers/{customer_id}/usage-statement", response_class=Response, responses=_STATEMENTS
)
def customer_usage_statement(
    customer_id: Id, interval: IntervalDep, form: FormDep, access: CanReadUsage, rest: RestDep
) -> Response:
    """All that a customer used from `start` up to `end`."""
    with rest.db.reading() as tx:
        statement = statements.of_customer(tx, access.organization_id, customer_id, *interval)
    return statement_file(rest.db, _found(statement), *form)


def _id(tx: Tx, access: Access, invoice: str) -> str:
    """The id of an invoice that is named by it or by its number."""
    found = invoices.find(tx, access.organization_id, invoice)
    return invoice if found is None else found.id


def _found(found: Document | Refused) -> Document:
    if isinstance(found, Refused):
        refusal(found)
    return found
