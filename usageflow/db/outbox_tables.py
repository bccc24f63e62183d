"""The tables of what is told to others: webhooks and mail. Rows only, as `tables`.

A row is written in the transaction of what it tells of; senders drain the rows.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import Column, ForeignKey, Index, UniqueConstraint
from sqlmodel import Field

from usageflow.db.columns import (
    Row,
    counter,
    instant,
    key_column,
    maybe_instant,
    one_of,
    optional_text,
    text_column,
    where,
)
from usageflow.db.exact import BIG_ID

DELIVERY_STATES: Final = ("pending", "delivered", "failed", "cancelled")
MAIL_STATES: Final = ("waiting", "sent", "failed")


class WebhookEndpointRow(Row, table=True):
    """Where events are told to. `types` is JSON, empty for all; `secret` is sealed.

    `previous_secret` signs beside it until `previous_until`. While an older delivery of it is to be
    tried again (`blocked_until`), no younger one is sent.
    """

    __tablename__ = "webhook_endpoint"
    id: str = key_column()
    organization_id: str = text_column("organization.id", index=True)
    url: str = text_column()
    types: str = text_column(default="[]")
    description: str = text_column(default="")
    enabled: bool
    secret: str = text_column()
    previous_secret: str | None = optional_text()
    previous_until: datetime | None = maybe_instant()
    disabled_reason: str | None = optional_text()
    lease_owner: str | None = optional_text()
    leased_until: datetime = instant()
    blocked_until: datetime = instant()
    created_at: datetime = instant()
    updated_at: datetime = instant()
    deleted_at: datetime | None = maybe_instant()
    failing_since: datetime | None = maybe_instant()
    """Since when no attempt has succeeded."""


class WebhookEventRow(Row, table=True):
    """Something that happened, as it is told; `body` is the JSON that is signed."""

    __tablename__ = "webhook_event"
    __table_args__ = (
        Index("ix_webhook_event_unsent", "seq", **where("fanned_out_at IS NULL")),
        Index("ix_webhook_event_organization", "organization_id", "seq"),
    )
    seq: int | None = counter()
    id: str = text_column(unique=True)
    organization_id: str = text_column("organization.id")
    type: str = text_column()
    body: str = text_column()
    created_at: datetime = instant()
    endpoint_id: str | None = optional_text()
    """The only endpoint it is for (a test); none: all that want its type."""
    fanned_out_at: datetime | None = maybe_instant()


class WebhookDeliveryRow(Row, table=True):
    """An event on its way to an endpoint: one after the other, in the order of `seq`."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        one_of("state", DELIVERY_STATES),
        UniqueConstraint("endpoint_id", "event_seq", "replay"),
        Index("ix_webhook_delivery_pending", "endpoint_id", "seq", **where("state = 'pending'")),
        Index("ix_webhook_delivery_organization", "organization_id", "seq"),
    )
    seq: int | None = counter()
    organization_id: str = text_column("organization.id")
    endpoint_id: str = text_column("webhook_endpoint.id")
    event_seq: int = Field(
        sa_column=Column(BIG_ID, ForeignKey("webhook_event.seq"), nullable=False)
    )
    replay: int = 0
    """How often it was asked to be told anew."""
    state: str = text_column()
    attempts: int = 0
    first_attempt_at: datetime | None = maybe_instant()
    next_at: datetime = instant()
    last_status: int | None = None
    last_error: str | None = optional_text()
    created_at: datetime = instant()
    ended_at: datetime | None = maybe_instant()


class WebhookAttemptRow(Row, table=True):
    """One try to deliver, and what came of it."""

    __tablename__ = "webhook_attempt"
    delivery_seq: int = Field(
        sa_column=Column(BIG_ID, ForeignKey("webhook_delivery.seq"), primary_key=True)
    )
    number: int = Field(primary_key=True)
    organization_id: str = text_column("organization.id")
    at: datetime = instant()
    status: int | None = None
    error: str | None = optional_text()
    duration_ms: int
    answer: str = text_column(default="")
    """The beginning of what the endpoint answered."""


class SmtpRow(Row, table=True):
    """By which server an organization's mail is sent; `secret` is the sealed password."""

    __tablename__ = "smtp"
    id: str = key_column()
    organization_id: str = text_column("organization.id", unique=True)
    host: str = text_column()
    port: int
    security: str = text_column()
    """`starttls`, `tls` or `none`."""
    username: str | None = optional_text()
    secret: str | None = optional_text()
    sender: str = text_column()
    updated_at: datetime = instant()


class MailRow(Row, table=True):
    """A mail to send; a failure delays nothing else. `invoice_id`: its PDF goes with it."""

    __tablename__ = "mail"
    __table_args__ = (
        one_of("state", MAIL_STATES),
        Index("ix_mail_waiting", "next_at", **where("state = 'waiting'")),
        Index("ix_mail_organization", "organization_id", "id"),
    )
    id: int | None = counter()
    organization_id: str = text_column("organization.id")
    recipient: str = text_column()
    subject: str = text_column()
    text: str = text_column()
    invoice_id: str | None = optional_text()
    state: str = text_column()
    attempts: int = 0
    next_at: datetime = instant()
    lease_owner: str | None = optional_text()
    leased_until: datetime | None = maybe_instant()
    error: str | None = optional_text()
    created_at: datetime = instant()
    sent_at: datetime | None = maybe_instant()
