"""GET /api/invoices: issued invoices, in the product documents' own dialect.

Drafts are not shown: what a draft comes to may still change, and an invoice here never does.
"""

from datetime import datetime
from typing import Annotated, Final

from fastapi import Query, Response
from pydantic import WithJsonSchema

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Id, Number, answer
from usageflow.api.rest import dialect_router, refusal
from usageflow.billing import invoices
from usageflow.billing.invoices import Outcome
from usageflow.catalog import customers
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow
from usageflow.money import from_minor, shortest

router = dialect_router("invoices")

LIMIT_MAX: Final = 100
"""Invoices in one answer; `cursor` leads to the next ones."""

Moment = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class IssuedInvoice(Answer):
    """An invoice, in camel case. `periodEnd` is the first moment after the period; one that was
    written by hand has no period, and is of the moment it was issued.

    PENDING: to be paid. FAILED: a payment of it failed, or it was given up.
    """

    id: str
    amount: Number
    status: Outcome
    periodStart: Moment  # noqa: N815 - the product documents' name
    periodEnd: Moment  # noqa: N815 - as above
    createdAt: Moment  # noqa: N815 - as above
    currency: str
    number: str
    customerId: str  # noqa: N815 - as above


class IssuedInvoices(Answer):
    """Invoices, newest first. With `nextCursor` there are more."""

    invoices: list[IssuedInvoice]
    nextCursor: str | None  # noqa: N815 - as above


@router.get("/invoices", response_model=IssuedInvoices)
def list_issued_invoices(
    *,
    access: Annotated[Access, needs("invoices.read")],
    rest: RestDep,
    customer_id: Annotated[Id | None, Query(alias="customerId")] = None,
    status: Outcome | None = None,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_MAX,
    cursor: Id | None = None,
) -> Response:
    """The organization's invoices, or those of a customer, by id or external id. Void ones are not
    owed, and not shown.
    """
    with rest.db.reading() as tx:
        found = invoices.issued(
            tx,
            access.organization_id,
            customer_id=None if customer_id is None else _customer(tx, access, customer_id),
            outcome=status,
            after=None if cursor is None else _after(tx, access, cursor),
            limit=limit + 1,
        )
        shown = [_told(tx, row) for row in found[:limit]]
    more = shown[-1].id if len(found) > limit else None
    return answer(IssuedInvoices(invoices=shown, nextCursor=more))


def _told(tx: Tx, row: InvoiceRow) -> IssuedInvoice:
    assert row.issued_at is not None  # noqa: S101 - it was issued
    return IssuedInvoice(
        id=row.id,
        amount=shortest(from_minor(row.total, row.currency)),
        status=invoices.outcome(row),
        periodStart=_moment(row.period_start or row.issued_at),
        periodEnd=_moment(row.period_end or row.issued_at),
        createdAt=_moment(row.created_at),
        currency=row.currency,
        number=row.number or "",
        customerId=tx.session.get_one(CustomerRow, row.customer_id).external_id,
    )


def _moment(instant: datetime) -> str:
    """With milliseconds, as JavaScript has it and the product documents show it."""
    return instant.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _customer(tx: Tx, access: Access, customer: str) -> str:
    row = customers.find(tx, access.organization_id, customer)
    return refusal(customers.unknown(customer)) if row is None else row.id


def _after(tx: Tx, access: Access, cursor: str) -> InvoiceRow:
    row = invoices.find(tx, access.organization_id, cursor)
    return refusal(Refused("invalid", "no such cursor", "cursor")) if row is None else row
