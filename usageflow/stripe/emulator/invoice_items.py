"""Invoice items: create, update, retrieve, delete and list.

An item waits for an invoice or is put onto a draft at once. With its invoice it becomes final.
"""

from datetime import datetime
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.invoice import (
    DEFAULT_CURRENCY,
    Invoice,
    Item,
    given,
    invoices_of,
    items_of,
    not_emulated,
    telling,
)
from usageflow.stripe.emulator.metadata import merged
from usageflow.stripe.emulator.paging import page, within
from usageflow.stripe.emulator.replies import Reply, invalid, missing, ok
from usageflow.stripe.emulator.state import Account

UPDATED: Final = ("amount", "description", "discountable", "metadata", "period")
CREATED: Final = (*UPDATED, "customer", "currency", "invoice")
LISTED: Final = (
    "customer",
    "invoice",
    "pending",
    "created",
    "limit",
    "starting_after",
    "ending_before",
)


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/invoiceitems`."""
    params = call.params
    refusal = not_emulated(params, CREATED) or _wrong(params)
    if refusal is not None:
        return refusal
    if "amount" not in params:
        message = "Missing required param: amount."
        return invalid(message, param="amount", code="parameter_missing")
    invoice = invoices_of(account).get(params.get("invoice", ""))
    if "invoice" in params and invoice is None:
        return missing("invoice", params["invoice"])
    terms = given(account, params, DEFAULT_CURRENCY if invoice is None else invoice.currency)
    if isinstance(terms, Reply):
        return terms
    customer, currency, metadata = terms
    moment = int(now.timestamp())
    item = Item(
        object_id=account.new_id("ii"),
        date=moment,
        customer=customer,
        amount=params["amount"],
        currency=currency,
        period=params.get("period", {"start": moment, "end": moment}),
        metadata=metadata,
        description=params.get("description"),
        discountable=params.get("discountable", True),
    )
    if invoice is not None and (invoice.status != "draft" or not item.waits_for(invoice)):
        message = "The invoice is no draft, or of another customer or currency."
        return invalid(message, param="invoice")
    with telling(account, invoice, now):
        items_of(account)[item.object_id] = item
        if invoice is not None:
            invoice.add(item)
    shown = item.shown(account)
    account.emit("invoiceitem.created", shown, now)
    return ok(shown)


def update(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/invoiceitems/{invoiceitem}`, as long as its invoice is no more than a draft."""
    item, params = _found(account, call), call.params
    if item is None:
        return _missing(call)
    refusal = not_emulated(params, UPDATED) or _wrong(params) or _final(account, item)
    if refusal is not None:
        return refusal
    metadata = merged(item.metadata, params)
    if isinstance(metadata, Reply):
        return metadata
    with telling(account, _invoice(account, item), now):
        item.metadata = metadata
        item.amount = params.get("amount", item.amount)
        item.description = params.get("description", item.description) or None
        item.discountable = params.get("discountable", item.discountable)
        item.period = params.get("period", item.period)
    return ok(item.shown(account))


def retrieve(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/invoiceitems/{invoiceitem}`."""
    item = _found(account, call)
    return _missing(call) if item is None else ok(item.shown(account))


def delete(account: Account, call: Call, now: datetime) -> Reply:
    """`DELETE /v1/invoiceitems/{invoiceitem}`, as long as its invoice is no more than a draft."""
    item = _found(account, call)
    if item is None:
        return _missing(call)
    refusal = _final(account, item)
    if refusal is not None:
        return refusal
    invoice = _invoice(account, item)
    with telling(account, invoice, now):
        del items_of(account)[item.object_id]
        if invoice is not None:
            invoice.items.remove(item)
    account.emit("invoiceitem.deleted", item.shown(account), now)
    return ok({"id": item.object_id, "object": "invoiceitem", "deleted": True})


def list_all(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/invoiceitems`, of a customer, of an invoice, waiting for one or not, of a time."""
    params = call.params
    refusal = not_emulated(params, LISTED)
    if refusal is not None:
        return refusal
    shown = [
        item.shown(account)
        for item in reversed(items_of(account).values())
        if params.get("customer") in (None, item.customer)
        and params.get("invoice") in (None, item.invoice)
        and params.get("pending") in (None, item.invoice is None)
        and within(item.date, params.get("created"))
    ]
    return page(shown, params, "/v1/invoiceitems")


HANDLERS: Final = {
    "GetV1Invoiceitems": list_all,
    "PostV1Invoiceitems": create,
    "GetV1InvoiceitemsInvoiceitem": retrieve,
    "PostV1InvoiceitemsInvoiceitem": update,
    "DeleteV1InvoiceitemsInvoiceitem": delete,
}


def _found(account: Account, call: Call) -> Item | None:
    return items_of(account).get(call.path["invoiceitem"])


def _missing(call: Call) -> Reply:
    return missing("invoiceitem", call.path["invoiceitem"])


def _invoice(account: Account, item: Item) -> Invoice | None:
    return invoices_of(account).get(item.invoice or "")


def _final(account: Account, item: Item) -> Reply | None:
    """The refusal of a change to what has been billed."""
    invoice = _invoice(account, item)
    if invoice is None or invoice.status == "draft":
        return None
    return invalid("This invoice item is on a finalized invoice.", code="invoice_not_editable")


def _wrong(params: dict[str, Any]) -> Reply | None:
    """The refusal of a period that ends before it starts."""
    period = params.get("period", {"start": 0, "end": 0})
    if period["start"] <= period["end"]:
        return None
    return invalid("`period[end]` is before `period[start]`.", param="period[end]")
