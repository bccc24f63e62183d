"""/api/v1/invoices/{id}/...: how an invoice came about, down to the requests that it bills."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Path, Response
from pydantic import BaseModel

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Id, Number, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.billing import evidence, invoices, recompute
from usageflow.billing.contents import content
from usageflow.billing.explain import explain
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceLineRow, InvoiceRow
from usageflow.db.session import Tx

router = v1_router("invoices")

CanRead = Annotated[Access, needs("invoices.read")]
CanReadUsage = Annotated[Access, needs("usage.read")]
Position = Annotated[int, Path(ge=1, le=2**31 - 1)]

_TEXT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


class StepOut(Answer):
    """One product of the arithmetic."""

    text: str
    quantity: Number
    unit_price: Number
    amount: Number


class LineExplained(Answer):
    """A line: its steps add up to `exact`, rounded once to `rounded`; less `billed_before`, that is
    `amount`.
    """

    position: int
    kind: str
    description: str
    metric: str | None
    unit: str
    quantity: Number | None
    period_start: datetime | None
    period_end: datetime | None
    share: str
    plan_version: int | None
    steps: list[StepOut]
    exact: Number
    rounded: Number
    billed_before: Number
    amount: Number


class ExplanationOut(Answer):
    """The arithmetic of an invoice; `text` has all of it for a reader."""

    invoice_id: str
    number: str | None
    status: str
    currency: str
    watermark: int | None
    lines: list[LineExplained]
    subtotal: Number
    tax_percent: Number | None
    tax: Number
    total: Number
    text: str


class RecomputationOut(Answer):
    """Whether the invoice, computed again from the events of the ledger, is the same byte for
    byte; if not, what differs.
    """

    identical: bool
    differences: list[str]


class WindowOut(Answer):
    """The usage of an hour or a day (UTC); `partial`: some may lie outside of the period."""

    start: datetime
    total: Number
    events: int
    maximum: Number
    last: Number
    partial: bool


class WindowsOut(Answer):
    """The windows of a line, in order."""

    metric: str | None
    windows: list[WindowOut]


class EventOut(Answer):
    """An event that a line bills, and the request it is of. `after_invoice`: it came later."""

    id: str
    occurred_at: datetime
    received_at: datetime
    quantity: Number
    identity_field: str
    identity_value: str | None
    policy: str
    policy_version: str
    request_method: str
    request_route: str
    request_status: int | None
    after_invoice: bool


@router.get("/invoices/{invoice_id}/explain", response_model=ExplanationOut, responses=_TEXT)
def explain_invoice(
    *,
    invoice_id: Id,
    access: CanRead,
    rest: RestDep,
    format: Literal["json", "text"] = "json",  # noqa: A002 - the name in the query
) -> Response:
    """Every step from usage to total, to be redone by hand; `format=text` for a reader."""
    with rest.db.reading() as tx:
        row = _found(tx, access, invoice_id)
        explained = explain(row, content(tx, row).lines)
    if format == "text":
        return Response(explained.text, media_type="text/plain; charset=utf-8")
    return answer(
        ExplanationOut.model_validate(
            msgspec.structs.asdict(explained)
            | {"lines": [_plain(line) for line in explained.lines]}
        )
    )


@router.post("/invoices/{invoice_id}/recompute", response_model=RecomputationOut)
def recompute_invoice(invoice_id: Id, access: CanRead, rest: RestDep) -> Response:
    """Compute an issued invoice again, from every event and the terms of then. Nothing changes."""
    with rest.db.reading() as tx:
        found = recompute.differences(tx, _found(tx, access, invoice_id))
    if isinstance(found, Refused):
        refusal(found)
    return answer(RecomputationOut(identical=not found, differences=found))


@router.get("/invoices/{invoice_id}/lines/{position}/windows", response_model=WindowsOut)
def read_windows(
    *,
    invoice_id: Id,
    position: Position,
    access: CanReadUsage,
    rest: RestDep,
    group_by: evidence.Grain = "day",
) -> Response:
    """The usage that a line bills, by hour or by day."""
    with rest.db.reading() as tx:
        row = _found(tx, access, invoice_id)
        line = _line(tx, row, position)
        found = evidence.windows(tx, row, line, by=group_by)
        shown = [WindowOut(**window._asdict()) for window in found]
        return answer(WindowsOut(metric=line.metric, windows=shown))


@router.get("/invoices/{invoice_id}/lines/{position}/events", response_model=Listed[EventOut])
def list_events(
    invoice_id: Id, position: Position, access: CanReadUsage, rest: RestDep, page: PageDep
) -> Response:
    """The events that a line bills, in the order they happened."""
    with rest.db.reading() as tx:
        row = _found(tx, access, invoice_id)
        line = _line(tx, row, position)
        found, total = evidence.events(tx, row, line, offset=page.offset, limit=page.limit)
        shown: list[BaseModel] = [
            EventOut.model_validate(
                event.model_dump() | {"after_invoice": (event.seq or 0) > (row.watermark or 0)}
            )
            for event in found
        ]
        return listed(shown, total, page)


def _found(tx: Tx, access: Access, invoice_id: str) -> InvoiceRow:
    row = invoices.find(tx, access.organization_id, invoice_id)
    return refusal(invoices.unknown(invoice_id)) if row is None else row


def _line(tx: Tx, invoice: InvoiceRow, position: int) -> InvoiceLineRow:
    line = evidence.line(tx, invoice, position)
    if line is None:
        refusal(Refused("not_found", f"the invoice has no line {position}"))
    return line


def _plain(line: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.structs.asdict(line)
    return plain | {"steps": [msgspec.structs.asdict(step) for step in plain["steps"]]}
