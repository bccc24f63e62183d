"""An invoice and its items: states, totals and how the API shows them.

Amounts are integers in the currency's minor unit. Taxes, discounts and balances are not emulated:
the total is the sum of the items.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from usageflow.stripe.emulator.metadata import merged
from usageflow.stripe.emulator.replies import Reply, error, invalid
from usageflow.stripe.emulator.snapshots import previous_attributes
from usageflow.stripe.emulator.state import Account

LINES_SHOWN_MAX: Final = 10
"""Lines within an invoice; the items of a longer one are listed by `GET /v1/invoiceitems`."""
DEFAULT_CURRENCY: Final = "usd"
_CURRENCY: Final = re.compile(r"[a-z]{3}\Z", re.ASCII)

PAYMENT_ATTEMPTS_MAX: Final = 4
PAYMENT_RETRY_AFTER: Final = timedelta(days=3)
"""When an automatic payment is due again; that it happens is not emulated."""
TEXTS: Final = ("description", "footer", "statement_descriptor", "number", "custom_fields")

TRANSITIONS: Final[dict[str, dict[str, str]]] = {
    "finalized": {"draft": "open"},
    "paid": {"open": "paid", "uncollectible": "paid"},
    "voided": {"open": "void", "uncollectible": "void"},
    "marked_uncollectible": {"open": "uncollectible"},
}
"""What may happen to an invoice in which status, and the status that follows."""


@dataclass(slots=True)
class Item:
    """An amount that a customer owes; it waits for an invoice until it has one."""

    object_id: str
    date: int
    customer: str
    amount: int
    currency: str
    period: dict[str, int]
    metadata: dict[str, str]
    description: str | None = None
    discountable: bool = True
    invoice: str | None = None

    def waits_for(self, invoice: "Invoice") -> bool:
        """Whether this item may go onto this invoice."""
        return self.invoice is None and (self.customer, self.currency) == (
            invoice.customer,
            invoice.currency,
        )

    def shown(self, account: Account) -> dict[str, Any]:
        """The invoice item."""
        return {
            "id": self.object_id,
            "object": "invoiceitem",
            "amount": self.amount,
            "currency": self.currency,
            "customer": self.customer,
            "date": self.date,
            "description": self.description,
            "discountable": self.discountable,
            "discounts": [],
            "invoice": self.invoice,
            "livemode": account.livemode,
            "metadata": self.metadata,
            "parent": None,
            "period": self.period,
            "pricing": None,
            "proration": False,
            "quantity": 1,
            "quantity_decimal": "1",
            "tax_rates": [],
        }

    def line(self, account: Account) -> dict[str, Any]:
        """The item as a line of its invoice."""
        details = {"invoice_item": self.object_id, "proration": False}
        return {
            "id": f"il_{self.object_id.partition('_')[2]}",
            "object": "line_item",
            "amount": self.amount,
            "currency": self.currency,
            "description": self.description,
            "discountable": self.discountable,
            "invoice": self.invoice,
            "livemode": account.livemode,
            "metadata": self.metadata,
            "parent": {"type": "invoice_item_details", "invoice_item_details": details},
            "period": self.period,
            "pricing": None,
            "quantity": 1,
            "subtotal": self.amount,
        }


@dataclass(slots=True)
class Invoice:
    """An invoice. `texts` are kept as given; `indexed` is what search still sees until its index
    has caught up with the change at `changed_at`.
    """

    object_id: str
    customer: str
    currency: str
    metadata: dict[str, str]
    created_at: datetime
    changed_at: datetime
    texts: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(TEXTS))
    collection_method: str = "charge_automatically"
    auto_advance: bool = False
    days_until_due: int | None = None
    due_date: int | None = None
    status: str = "draft"
    happened: dict[str, int] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    attempt_count: int = 0
    next_payment_attempt: int | None = None
    indexed: tuple[dict[str, Any], dict[str, str]] | None = None

    @property
    def total(self) -> int:
        """The sum of the items."""
        return sum(item.amount for item in self.items)

    def agree(self, params: dict[str, Any], now: datetime) -> Reply | None:
        """Take over texts and terms, or refuse terms that contradict each other."""
        method = params.get("collection_method", self.collection_method)
        days = params.get("days_until_due", None if "due_date" in params else self.days_until_due)
        due = params.get("due_date", self.due_date)
        if method == "send_invoice" and days is None and due is None:
            return invalid("`send_invoice` needs `days_until_due` or `due_date`.", param="due_date")
        if method != "send_invoice" and not days is due is None:
            message = "Only an invoice that is sent has `days_until_due` or `due_date`."
            return invalid(message, param="collection_method")
        self.collection_method, self.days_until_due, self.due_date = method, days, due
        self.auto_advance = params.get("auto_advance", self.auto_advance)
        self.texts.update({name: params[name] or None for name in TEXTS if name in params})
        if "days_until_due" in params:
            self.fall_due(now)
        return None

    def fall_due(self, now: datetime) -> None:
        """Count the days until the invoice is due, if it has days, from now on."""
        if self.days_until_due is not None:
            self.due_date = int((now + timedelta(days=self.days_until_due)).timestamp())

    def refusal(self, change: str) -> Reply | None:
        """The refusal of what cannot happen to an invoice in its status."""
        if self.status in TRANSITIONS[change]:
            return None
        message = f"This invoice is {self.status}, so it cannot be {change.replace('_', ' ')}."
        return error(400, message, code="invoice_not_editable")

    def pass_to(self, change: str, now: datetime) -> None:
        """Let a change happen that is not refused."""
        self.status = TRANSITIONS[change][self.status]
        self.happened[change] = int(now.timestamp())
        self.next_payment_attempt = None

    def add(self, item: Item) -> None:
        """Put an item onto the invoice."""
        item.invoice = self.object_id
        self.items.append(item)

    def try_payment(self, now: datetime, *, declined: bool) -> None:
        """Pay, or fail to: then the invoice stays open, and one that collects by itself is tried
        again some days later.
        """
        self.attempt_count += 1
        if not declined:
            self.pass_to("paid", now)
            return
        again = self.auto_advance and self.collection_method == "charge_automatically"
        left = again and self.attempt_count < PAYMENT_ATTEMPTS_MAX
        retry_at = int((now + PAYMENT_RETRY_AFTER).timestamp())
        self.next_payment_attempt = retry_at if left else None

    def searchable(
        self, now: datetime, lag: timedelta
    ) -> tuple[dict[str, Any], dict[str, str]] | None:
        """The fields and metadata in the search index at `now`; None if it is not in it yet."""
        if now - self.changed_at < lag:
            return self.indexed
        number = self.texts["number"]
        fields = {"customer": self.customer, "currency": self.currency, "number": number}
        return {**fields, "status": self.status}, self.metadata

    def shown(self, account: Account) -> dict[str, Any]:
        """The invoice."""
        total, customer = self.total, account.customers[self.customer]
        created = int(self.created_at.timestamp())
        due = max(total, 0)
        paid = due if self.status == "paid" else 0
        final = self.status != "draft"
        lines = [item.line(account) for item in self.items]
        page = f"https://invoice.stripe.com/i/{account.object_id}/{self.object_id}"
        return {
            "id": self.object_id,
            "object": "invoice",
            **self.texts,
            "amount_due": due,
            "amount_overpaid": 0,
            "amount_paid": paid,
            "amount_remaining": due - paid,
            "amount_shipping": 0,
            "attempt_count": self.attempt_count,
            "attempted": self.attempt_count > 0,
            "auto_advance": self.auto_advance,
            "automatic_tax": {"enabled": False, "liability": None, "status": None},
            "billing_reason": "manual",
            "collection_method": self.collection_method,
            "created": created,
            "currency": self.currency,
            "customer": self.customer,
            "customer_email": customer.fields["email"],
            "customer_name": customer.fields["name"],
            "default_tax_rates": [],
            "discounts": [],
            "due_date": self.due_date,
            "ending_balance": min(total, 0) if final else None,
            "hosted_invoice_url": page if final else None,
            "invoice_pdf": f"{page}/pdf" if final else None,
            "issuer": {"type": "self"},
            "lines": {
                "object": "list",
                "data": lines[:LINES_SHOWN_MAX],
                "has_more": len(lines) > LINES_SHOWN_MAX,
                "total_count": len(lines),
                "url": f"/v1/invoices/{self.object_id}/lines",
            },
            "livemode": account.livemode,
            "metadata": self.metadata,
            "next_payment_attempt": self.next_payment_attempt,
            "parent": None,
            "payment_settings": {"payment_method_options": None, "payment_method_types": None},
            "period_end": created,
            "period_start": created,
            "post_payment_credit_notes_amount": 0,
            "pre_payment_credit_notes_amount": 0,
            "starting_balance": 0,
            "status": self.status,
            "status_transitions": {
                f"{change}_at": self.happened.get(change) for change in TRANSITIONS
            },
            "subtotal": total,
            "total": total,
        }


def invoices_of(account: Account) -> dict[str, Invoice]:
    """The account's invoices, oldest first."""
    return account.objects["invoice"]


def items_of(account: Account) -> dict[str, Item]:
    """The account's invoice items, oldest first, those of invoices included."""
    return account.objects["invoiceitem"]


@contextmanager
def telling(account: Account, invoice: Invoice | None, now: datetime) -> Iterator[list[str]]:
    """Tell of what happens to an invoice meanwhile: an event of what differs, and those that are
    put onto the list. Where there is no invoice, nothing is told.
    """
    events: list[str] = []
    if invoice is None:
        yield events
        return
    before, indexed = invoice.shown(account), invoice.searchable(now, account.search_lag)
    yield events
    shown = invoice.shown(account)
    if changed := previous_attributes(before, shown):
        invoice.changed_at, invoice.indexed = now, indexed
        account.emit("invoice.updated", shown, now, changed)
    for event in events:
        account.emit(f"invoice.{event}", shown, now)


def not_emulated(params: Collection[str], known: Collection[str]) -> Reply | None:
    """The refusal of a parameter that would change what is owed, or what is answered."""
    unknown = sorted(set(params).difference(known))
    if not unknown:
        return None
    message = f"The emulator does not emulate `{unknown[0]}` here."
    return error(501, message, kind="api_error", param=unknown[0])


def given(
    account: Account, params: dict[str, Any], currency: str = DEFAULT_CURRENCY
) -> tuple[str, str, dict[str, str]] | Reply:
    """Customer, currency and metadata of something new, or what is wrong with them."""
    customer_id = params.get("customer")
    if customer_id is None:
        message = "Missing required param: customer."
        return invalid(message, param="customer", code="parameter_missing")
    customer = account.customers.get(customer_id)
    if customer is None or customer.deleted:
        message = f"No such customer: '{customer_id}'"
        return invalid(message, param="customer", code="resource_missing")
    currency = params.get("currency", currency).lower()
    if not _CURRENCY.match(currency):
        return invalid(f"Invalid currency: {currency}", param="currency")
    metadata = merged({}, params)
    return metadata if isinstance(metadata, Reply) else (customer_id, currency, metadata)
