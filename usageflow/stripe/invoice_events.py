"""What Stripe tells of invoices that are ours: word of a payment, for billing to apply.

Which state follows is billing's: word may come twice, late, and in any order.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlmodel import col, or_, select

from usageflow.db import outbox
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.outbox import PaymentKind
from usageflow.db.session import Tx
from usageflow.stripe.inbound import InboundEvent
from usageflow.stripe.invoice_calls import OURS

KINDS: Final[Mapping[str, PaymentKind]] = MappingProxyType(
    {
        "invoice.paid": "paid",
        "invoice.payment_failed": "failed",
        "invoice.voided": "voided",
        "invoice.marked_uncollectible": "uncollectible",
    }
)
SOURCE: Final = "stripe"


def tell(tx: Tx, organization_id: str, event: InboundEvent) -> bool:
    """Pass on what happened to an invoice of the organization's account; False if it is not ours.

    One that is paid was paid in full: what Stripe calls its total was settled, in whichever way.
    """
    invoice_id = _ours(tx, organization_id, event.object)
    if invoice_id is None:
        return False
    kind = KINDS[event.type]
    return outbox.tell_payment(
        tx,
        organization_id,
        invoice_id,
        kind,
        source=SOURCE,
        reference=event.event_id,
        at=event.created,
        amount=int(event.object["total"]) if kind == "paid" else None,
    )


def _ours(tx: Tx, organization_id: str, told: Mapping[str, Any]) -> str | None:
    """Our invoice: the one that has this Stripe invoice, or is named by it and has none yet."""
    named = (told.get("metadata") or {}).get(OURS, "")
    stripe_id = col(InvoiceRow.stripe_invoice_id)
    return tx.session.exec(
        select(InvoiceRow.id).where(
            InvoiceRow.organization_id == organization_id,
            or_(
                stripe_id == str(told["id"]),
                (col(InvoiceRow.id) == named) & stripe_id.is_(None),
            ),
        )
    ).first()
