"""What happened and must be told: rows that commit with what they tell of.

`usageflow.webhooks` sends events and mail, `usageflow.billing` applies word of payments. Nothing is
sent from here.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from usageflow.db.billing_tables import PaymentRow
from usageflow.db.columns import table
from usageflow.db.ids import new_id
from usageflow.db.outbox_tables import MailRow, WebhookEventRow
from usageflow.db.session import Tx
from usageflow.db.statements import insert

EventType = Literal[
    "invoice.created",
    "invoice.finalized",
    "invoice.paid",
    "invoice.failed",
    "invoice.voided",
    "subscription.created",
    "subscription.activated",
    "subscription.suspended",
    "subscription.canceled",
    "webhook.test",
]
PaymentKind = Literal["paid", "failed", "voided", "uncollectible"]

_encoder: Final = msgspec.json.Encoder(decimal_format="number")


def emit(
    tx: Tx,
    organization_id: str,
    type: EventType,  # noqa: A002 - the name it has in the body
    data: Mapping[str, Any],
    *,
    endpoint_id: str | None = None,
) -> str:
    """An event for the organization's webhooks, or for one endpoint alone; its id.

    The body is `{id, type, created_at, data}` (Standard Webhooks), fixed from now on: what is
    signed is what is stored. Decimals in `data` become JSON numbers with every digit.
    """
    event_id = new_id("evt")
    body = {"id": event_id, "type": type, "created_at": tx.now, "data": data}
    tx.session.add(
        WebhookEventRow(
            id=event_id,
            organization_id=organization_id,
            type=type,
            body=_encoder.encode(body).decode(),
            created_at=tx.now,
            endpoint_id=endpoint_id,
        )
    )
    return event_id


def post(
    tx: Tx,
    organization_id: str,
    *,
    recipient: str,
    subject: str,
    text: str,
    invoice_id: str | None = None,
) -> None:
    """A mail to send, with the invoice's PDF if it is about one. No secret may be in it twice:
    links in `text` are the only copy of their token.
    """
    tx.session.add(
        MailRow(
            organization_id=organization_id,
            recipient=recipient,
            subject=subject,
            text=text,
            invoice_id=invoice_id,
            state="waiting",
            next_at=tx.now,
            created_at=tx.now,
        )
    )


def tell_payment(
    tx: Tx,
    organization_id: str,
    invoice_id: str,
    kind: PaymentKind,
    *,
    source: str,
    reference: str,
    at: datetime,
    amount: int | None = None,
    note: str = "",
) -> bool:
    """Word of a payment, in minor units; False if this source told this `reference` before."""
    statement = (
        insert(tx, PaymentRow)
        .values(
            organization_id=organization_id,
            invoice_id=invoice_id,
            kind=kind,
            source=source,
            reference=reference,
            amount=amount,
            note=note,
            at=at,
            recorded_at=tx.now,
        )
        .on_conflict_do_nothing(index_elements=["organization_id", "source", "reference"])
        .returning(table(PaymentRow).c.id)
    )
    return tx.session.execute(statement).first() is not None
