"""The states of an invoice: which step leads where, and who is told.

One function applies every step. When a step is due is decided elsewhere (`finalizing`, `payments`).
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from usageflow.catalog.refusals import Refused
from usageflow.db import outbox
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow
from usageflow.money import from_minor, shortest

State: TypeAlias = Literal["DRAFT", "OPEN", "PAID", "UNCOLLECTIBLE", "VOID"]

TRANSITIONS: Final[Mapping[tuple[str, State], outbox.EventType]] = {
    ("DRAFT", "OPEN"): "invoice.finalized",
    ("DRAFT", "VOID"): "invoice.voided",
    ("OPEN", "PAID"): "invoice.paid",
    ("OPEN", "UNCOLLECTIBLE"): "invoice.failed",
    ("OPEN", "VOID"): "invoice.voided",
    ("UNCOLLECTIBLE", "PAID"): "invoice.paid",
    ("UNCOLLECTIBLE", "VOID"): "invoice.voided",
}
"""From state to state, and the event that tells of it. PAID and VOID are final."""
OWED: Final = ("OPEN", "UNCOLLECTIBLE")
"""The states in which money is still owed, hoped for or not."""


def problem(invoice: InvoiceRow, to: State) -> Refused | None:
    """Why the invoice cannot take this step; None if it can."""
    if (invoice.state, to) in TRANSITIONS:
        return None
    possible = [after for before, after in TRANSITIONS if before == invoice.state]
    ways = f"it can become {' or '.join(possible)}" if possible else "that is final"
    return Refused("conflict", f"the invoice is {invoice.state}: {ways}, not {to}")


def apply(tx: Tx, invoice: InvoiceRow, to: State) -> None:
    """Take a step that `problem` has nothing against, and tell of it.

    ValueError for a step that there is not.
    """
    event = TRANSITIONS.get((invoice.state, to))
    if event is None:
        raise ValueError(f"an invoice that is {invoice.state} cannot become {to}")
    invoice.state = to
    invoice.updated_at = tx.now
    if to == "PAID":
        invoice.paid_at = tx.now
    elif to != "OPEN":
        invoice.ended_at = tx.now
    tell(tx, invoice, event)


def tell(tx: Tx, invoice: InvoiceRow, event: outbox.EventType) -> None:
    """Tell the organization's webhooks of it."""
    outbox.emit(tx, invoice.organization_id, event, told(tx, invoice))


def told(tx: Tx, invoice: InvoiceRow) -> dict[str, Any]:
    """What a webhook tells of an invoice. `amount` is its total, in the currency's major units."""
    customer = tx.session.get_one(CustomerRow, invoice.customer_id)
    return {
        "invoiceId": invoice.id,
        "number": invoice.number,
        "status": invoice.state,
        "amount": shortest(from_minor(invoice.total, invoice.currency)),
        "currency": invoice.currency,
        "customerId": customer.external_id,
        "subscriptionId": invoice.subscription_id,
        "periodStart": invoice.period_start,
        "periodEnd": invoice.period_end,
        "createdAt": invoice.created_at,
    }
