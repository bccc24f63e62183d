"""Invoices: create, change, finalize, send, pay, void, write off, delete, list and search.

What happens to one is told as snapshot events. Nothing advances by itself: `auto_advance` is kept
and shown, but an invoice is finalized and paid only by a call. A parameter that would change what
is owed and is not emulated is a 501.
"""

from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from typing import Any, Final

from usageflow.stripe.emulator import payments
from usageflow.stripe.emulator import search as searching
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.invoice import (
    TEXTS,
    Invoice,
    given,
    invoices_of,
    items_of,
    not_emulated,
    telling,
)
from usageflow.stripe.emulator.metadata import merged
from usageflow.stripe.emulator.paging import page, within
from usageflow.stripe.emulator.replies import Reply, error, invalid, missing, ok
from usageflow.stripe.emulator.state import Account

TERMS: Final = ("auto_advance", "collection_method", "days_until_due", "due_date")
UPDATED: Final = (*TEXTS, *TERMS, "metadata")
CREATED: Final = (*UPDATED, "customer", "currency", "pending_invoice_items_behavior")
UPDATED_WHEN_FINAL: Final = {"auto_advance", "metadata"}
LISTED: Final = (
    "customer",
    "status",
    "collection_method",
    "created",
    "due_date",
    "limit",
    "starting_after",
    "ending_before",
)
SEARCH_FIELDS: Final = ("customer", "currency", "number", "status")
_PATH: Final = "/v1/invoices"
_PAID: Final = ["paid", "payment_succeeded"]

Change = Callable[[Account, Invoice, dict[str, Any], datetime], list[str] | Reply]
"""Something that happens to an invoice: the events that tell of it, or why it cannot happen."""


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/invoices`: a draft, with the customer's waiting items if it is to have them."""
    params = call.params
    refusal = not_emulated(params, CREATED)
    if refusal is not None:
        return refusal
    terms = given(account, params)
    if isinstance(terms, Reply):
        return terms
    invoice = Invoice(account.new_id("in"), *terms, now, now)
    refusal = invoice.agree(params, now)
    if refusal is not None:
        return refusal
    if params.get("pending_invoice_items_behavior") == "include":
        for item in items_of(account).values():
            if item.waits_for(invoice):
                invoice.add(item)
    invoices_of(account)[invoice.object_id] = invoice
    shown = invoice.shown(account)
    account.emit("invoice.created", shown, now)
    return ok(shown)


def retrieve(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/invoices/{invoice}`."""
    invoice = _found(account, call)
    return _missing(call) if invoice is None else ok(invoice.shown(account))


def delete(account: Account, call: Call, now: datetime) -> Reply:
    """`DELETE /v1/invoices/{invoice}`: a draft, with its items."""
    invoice = _found(account, call)
    if invoice is None:
        return _missing(call)
    if invoice.status != "draft":
        return invalid("You can only delete draft invoices.", code="invoice_not_editable")
    del invoices_of(account)[invoice.object_id]
    for item in invoice.items:
        del items_of(account)[item.object_id]
    account.emit("invoice.deleted", invoice.shown(account), now)
    return ok({"id": invoice.object_id, "object": "invoice", "deleted": True})


def list_all(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/invoices`, of a customer, a status, a way to collect, a time."""
    params = call.params
    refusal = not_emulated(params, LISTED)
    if refusal is not None:
        return refusal
    shown = [
        invoice.shown(account)
        for invoice in reversed(invoices_of(account).values())
        if params.get("customer") in (None, invoice.customer)
        and params.get("status") in (None, invoice.status)
        and params.get("collection_method") in (None, invoice.collection_method)
        and within(int(invoice.created_at.timestamp()), params.get("created"))
        and within(invoice.due_date, params.get("due_date"))
    ]
    return page(shown, params, _PATH)


def search(account: Account, call: Call, now: datetime) -> Reply:
    """`GET /v1/invoices/search`."""
    query = searching.parsed(call.params["query"], SEARCH_FIELDS)
    if isinstance(query, Reply):
        return query
    hits = [
        invoice.shown(account)
        for invoice in reversed(invoices_of(account).values())
        if (indexed := invoice.searchable(now, account.search_lag)) is not None
        and query.matches(*indexed)
    ]
    return searching.result(hits, call.params, f"{_PATH}/search")


def _changed(
    act: Change, known: Collection[str], account: Account, call: Call, now: datetime
) -> Reply:
    """One operation on the invoice in the path, with the parameters it knows."""
    invoice = _found(account, call)
    if invoice is None:
        return _missing(call)
    refusal = not_emulated(call.params, known)
    if refusal is not None:
        return refusal
    with telling(account, invoice, now) as events:
        outcome = act(account, invoice, call.params, now)
        if isinstance(outcome, Reply):
            return outcome
        events.extend(outcome)
    return ok(invoice.shown(account))


def _update(
    _account: Account, invoice: Invoice, params: dict[str, Any], now: datetime
) -> list[str] | Reply:
    """A draft's texts and terms; of others what may still change."""
    if invoice.status != "draft" and not UPDATED_WHEN_FINAL.issuperset(params):
        return invalid("Finalized invoices can't be updated in this way.")
    metadata = merged(invoice.metadata, params)
    if isinstance(metadata, Reply):
        return metadata
    refusal = invoice.agree(params, now)
    if refusal is None:
        invoice.metadata = metadata
    return refusal or []


def _finalize(
    account: Account, invoice: Invoice, params: dict[str, Any], now: datetime
) -> list[str] | Reply:
    """Numbered and open, or paid at once if nothing is due."""
    refusal = invoice.refusal("finalized")
    if refusal is not None:
        return refusal
    invoice.auto_advance = params.get("auto_advance", invoice.auto_advance)
    return _finalized(account, invoice, now)


def _finalized(account: Account, invoice: Invoice, now: datetime) -> list[str]:
    """The events of a draft that becomes final, which it does on the way to being sent or paid."""
    if invoice.status != "draft":
        return []
    invoice.pass_to("finalized", now)
    invoice.fall_due(now)
    numbers = account.objects["invoice_number"]
    numbers["last"] = numbers.get("last", 0) + 1
    invoice.texts["number"] = invoice.texts["number"] or f"EMULATED-{numbers['last']:04d}"
    if invoice.total > 0:
        return ["finalized"]
    invoice.pass_to("paid", now)
    return ["finalized", *_PAID]


def _send(
    account: Account, invoice: Invoice, _params: dict[str, Any], now: datetime
) -> list[str] | Reply:
    """No mail leaves."""
    if invoice.collection_method != "send_invoice":
        return invalid("Only an invoice with collection_method=send_invoice can be sent.")
    if invoice.status not in ("draft", "open"):
        return invalid(f"This invoice is {invoice.status}, so it cannot be sent.")
    return [*_finalized(account, invoice, now), "sent"]


def _pay(
    account: Account, invoice: Invoice, params: dict[str, Any], now: datetime
) -> list[str] | Reply:
    """Out of band, or by a payment that may be declined."""
    events = _finalized(account, invoice, now)
    if events and invoice.status == "paid":
        return events
    refusal = invoice.refusal("paid")
    if refusal is not None:
        return refusal
    if params.get("paid_out_of_band"):
        invoice.pass_to("paid", now)
        return [*events, "paid"]
    declined = payments.declined(account)
    invoice.try_payment(now, declined=declined)
    return [*events, "payment_failed"] if declined else [*events, *_PAID]


def _pass_to(
    change: str, _account: Account, invoice: Invoice, _params: dict[str, Any], now: datetime
) -> list[str] | Reply:
    refusal = invoice.refusal(change)
    if refusal is not None:
        return refusal
    invoice.pass_to(change, now)
    return [change]


def pay(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/invoices/{invoice}/pay`; what is still open then was declined."""
    reply = _changed(
        _pay, ("paid_out_of_band", "payment_method", "off_session"), account, call, now
    )
    if reply.body.get("status") in ("open", "uncollectible"):
        return error(402, "Your card was declined.", kind="card_error", code="card_declined")
    return reply


HANDLERS: Final = {
    "GetV1Invoices": list_all,
    "PostV1Invoices": create,
    "GetV1InvoicesSearch": search,
    "GetV1InvoicesInvoice": retrieve,
    "PostV1InvoicesInvoice": partial(_changed, _update, UPDATED),
    "DeleteV1InvoicesInvoice": delete,
    "PostV1InvoicesInvoiceFinalize": partial(_changed, _finalize, ("auto_advance",)),
    "PostV1InvoicesInvoiceMarkUncollectible": partial(
        _changed, partial(_pass_to, "marked_uncollectible"), ()
    ),
    "PostV1InvoicesInvoicePay": pay,
    "PostV1InvoicesInvoiceSend": partial(_changed, _send, ()),
    "PostV1InvoicesInvoiceVoid": partial(_changed, partial(_pass_to, "voided"), ()),
}


def _found(account: Account, call: Call) -> Invoice | None:
    return invoices_of(account).get(call.path["invoice"])


def _missing(call: Call) -> Reply:
    return missing("invoice", call.path["invoice"])
