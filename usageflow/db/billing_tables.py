"""The tables of billing, in reading order: features, plans, subscriptions, invoices, payments.

Rows only, as `tables`. Amounts are whole minor units of the invoice's currency. The triggers that
keep plan versions, issued invoices and credit notes from being changed are in migration 0005.
"""

from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, UniqueConstraint
from sqlmodel import Field

from usageflow.db.columns import (
    Row,
    amount_column,
    big_column,
    counter,
    instant,
    key_column,
    maybe_decimal,
    maybe_instant,
    one_of,
    optional_text,
    text_column,
    where,
)

FEATURE_TYPES: Final = ("meter", "switch", "custom")
SUBSCRIPTION_STATES: Final = ("TRIAL", "ACTIVE", "PAST_DUE", "PAUSED", "SUSPENDED", "CANCELLED")
INVOICE_STATES: Final = ("DRAFT", "OPEN", "PAID", "UNCOLLECTIBLE", "VOID")
INVOICE_KINDS: Final = ("period", "interim", "manual")
"""What made an invoice: the end of a period, a wish within one, a person."""
LINE_KINDS: Final = ("base", "fixed", "usage", "minimum", "late", "manual")
COLLECT: Final = ("local", "stripe_meters")
PAYMENT_METHODS: Final = ("manual", "stripe_invoice")
PAYMENT_KINDS: Final = ("paid", "failed", "voided", "uncollectible")


class FeatureRow(Row, table=True):
    """What a plan may grant: the use of a metric, a switch, or a value of one's own."""

    __tablename__ = "feature"
    __table_args__ = (
        one_of("type", FEATURE_TYPES),
        UniqueConstraint("organization_id", "lookup_key"),
    )
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    lookup_key: str = text_column()
    name: str = text_column()
    type: str = text_column()
    description: str = text_column(default="")
    metric: str | None = optional_text()
    created_at: datetime = instant()
    archived_at: datetime | None = maybe_instant()


class PlanRow(Row, table=True):
    """A plan by name; what it costs is in its versions, of which `version` is the newest."""

    __tablename__ = "plan"
    __table_args__ = (UniqueConstraint("organization_id", "lookup_id"),)
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    lookup_id: str = text_column()
    name: str = text_column()
    description: str = text_column(default="")
    is_active: bool
    """Whether it can be subscribed to."""
    version: int
    created_at: datetime = instant()
    updated_at: datetime = instant()


class PlanVersionRow(Row, table=True):
    """What a plan costs and grants, for ever: `document` is JSON (`catalog.charges.Terms`)."""

    __tablename__ = "plan_version"
    plan_id: str = key_column("plan.id")
    version: int = Field(primary_key=True)
    organization_id: str = text_column("organization.id")
    document: str = text_column()
    created_at: datetime = instant()


class SubscriptionRow(Row, table=True):
    """A customer's use of a plan version, and the billing period it is in.

    The period is number `period_index` of the schedule that `anchor_at`, `time_zone` and the plan
    give; it may have begun later than that (after a trial or a change of plan), at `period_start`.
    `due_at` is when the worker has something to do with it: None once it is over.
    """

    __tablename__ = "subscription"
    __table_args__ = (
        one_of("state", SUBSCRIPTION_STATES),
        ForeignKeyConstraint(
            ["plan_id", "plan_version"], ["plan_version.plan_id", "plan_version.version"]
        ),
        Index("ix_subscription_due", "due_at", **where("due_at IS NOT NULL")),
        Index("ix_subscription_customer", "organization_id", "customer_id"),
        Index(
            "ix_subscription_current",
            "customer_id",
            "plan_id",
            unique=True,
            **where("state <> 'CANCELLED'"),
        ),
    )
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    customer_id: str = text_column("customer.id")
    plan_id: str = text_column()
    plan_version: int
    state: str = text_column()
    time_zone: str = text_column()
    anchor_at: datetime = instant()
    period_index: int
    period_start: datetime = instant()
    period_end: datetime = instant()
    trial_end: datetime | None = maybe_instant()
    due_at: datetime | None = maybe_instant()
    cancel_at_period_end: bool = False
    canceled_at: datetime | None = maybe_instant()
    """When its end was asked for."""
    cancel_reason: str | None = optional_text()
    ended_at: datetime | None = maybe_instant()
    paused_at: datetime | None = maybe_instant()
    past_due_at: datetime | None = maybe_instant()
    next_plan_id: str | None = optional_text()
    """The plan it changes to at the end of the period."""
    next_plan_version: int | None = None
    billed_at: datetime | None = maybe_instant()
    """When its last lines were computed; what changed since in a billed period is late usage."""
    created_at: datetime = instant()
    updated_at: datetime = instant()


class InvoiceRow(Row, table=True):
    """What a customer owes. From OPEN on only what happens to it may change, by a trigger.

    `watermark` is the newest event of the ledger that its lines know. With `hold_reason` it stays
    a draft until a person decides. `bill_to` and `bill_from` are JSON, as they were when it was
    issued. A plan that Stripe prices has shadow invoices (`collect`), which stay drafts.
    """

    __tablename__ = "invoice"
    __table_args__ = (
        one_of("state", INVOICE_STATES),
        one_of("kind", INVOICE_KINDS),
        one_of("collect", COLLECT),
        one_of("payment_method", PAYMENT_METHODS),
        UniqueConstraint("organization_id", "number"),
        Index("ix_invoice_organization", "organization_id", "created_at", "id"),
        Index("ix_invoice_customer", "organization_id", "customer_id", "created_at"),
        Index(
            "ix_invoice_period",
            "subscription_id",
            "period_start",
            unique=True,
            **where("kind = 'period'"),
        ),
        Index("ix_invoice_finalize", "finalize_at", **where("state = 'DRAFT'")),
        Index("ix_invoice_due", "due_at", **where("state = 'OPEN'")),
    )
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    customer_id: str = text_column("customer.id")
    subscription_id: str | None = optional_text("subscription.id")
    kind: str = text_column()
    state: str = text_column()
    collect: str = text_column()
    payment_method: str = text_column()
    number: str | None = optional_text()
    currency: str = text_column()
    period_start: datetime | None = maybe_instant()
    period_end: datetime | None = maybe_instant()
    plan_id: str | None = optional_text("plan.id")
    plan_version: int | None = None
    watermark: int | None = big_column()
    subtotal: int = amount_column()
    tax_percent: Decimal | None = maybe_decimal()
    tax: int = amount_column(default=0)
    total: int = amount_column()
    amount_paid: int = amount_column(default=0)
    amount_credited: int = amount_column(default=0)
    memo: str = text_column(default="")
    bill_to: str = text_column(default="{}")
    bill_from: str = text_column(default="{}")
    hold_reason: str | None = optional_text()
    finalize_at: datetime | None = maybe_instant()
    """When the draft is issued by itself."""
    issued_at: datetime | None = maybe_instant()
    due_at: datetime | None = maybe_instant()
    paid_at: datetime | None = maybe_instant()
    ended_at: datetime | None = maybe_instant()
    """When it was voided or given up."""
    payment_failures: int = 0
    payment_failed_at: datetime | None = maybe_instant()
    stripe_invoice_id: str | None = optional_text()
    payment_url: str | None = optional_text()
    created_at: datetime = instant()
    updated_at: datetime = instant()


class InvoiceLineRow(Row, table=True):
    """One line. What a period's lines bill under one charge, on all invoices, is its price.

    `quantity` is the usage of the whole period so far, `billed_before` what earlier lines billed of
    its price, `amount` what is left. `share` is the part of a period it is for ("17/31"), `steps`
    JSON: the arithmetic.
    """

    __tablename__ = "invoice_line"
    __table_args__ = (
        one_of("kind", LINE_KINDS),
        UniqueConstraint("invoice_id", "position"),
        Index("ix_invoice_line_period", "subscription_id", "period_start"),
    )
    id: int | None = counter()
    organization_id: str = text_column("organization.id")
    invoice_id: str = text_column("invoice.id")
    position: int
    kind: str = text_column()
    description: str = text_column()
    charge_id: str | None = optional_text()
    metric: str | None = optional_text()
    subscription_id: str | None = optional_text("subscription.id")
    plan_id: str | None = optional_text("plan.id")
    plan_version: int | None = None
    period_start: datetime | None = maybe_instant()
    period_end: datetime | None = maybe_instant()
    share: str = text_column(default="1")
    quantity: Decimal | None = maybe_decimal()
    unit: str = text_column(default="")
    """What it is of, as the metric called it then."""
    unit_price: Decimal | None = maybe_decimal()
    billed_before: int = amount_column(default=0)
    amount: int = amount_column()
    steps: str = text_column(default="[]")


class NumberSeriesRow(Row, table=True):
    """The last number given in a series of a year: taken in the transaction that uses it."""

    __tablename__ = "number_series"
    organization_id: str = key_column("organization.id")
    series: str = key_column()
    year: int = Field(primary_key=True)
    last: int


class CreditNoteRow(Row, table=True):
    """Less is owed on an issued invoice: never changed itself. `lines` is JSON."""

    __tablename__ = "credit_note"
    __table_args__ = (UniqueConstraint("organization_id", "number"),)
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    invoice_id: str = text_column("invoice.id", index=True)
    number: str = text_column()
    currency: str = text_column()
    amount: int = amount_column()
    reason: str = text_column()
    lines: str = text_column(default="[]")
    created_by: str = text_column()
    created_at: datetime = instant()


class PaymentRow(Row, table=True):
    """Word of a payment: by hand, or from Stripe, which may tell it twice and in any order.

    `reference` is unique for its source; `applied_at` None: billing has not taken it yet.
    """

    __tablename__ = "payment"
    __table_args__ = (
        one_of("kind", PAYMENT_KINDS),
        UniqueConstraint("organization_id", "source", "reference"),
        Index("ix_payment_waiting", "id", **where("applied_at IS NULL")),
        Index("ix_payment_invoice", "invoice_id"),
    )
    id: int | None = counter()
    organization_id: str = text_column("organization.id")
    invoice_id: str = text_column("invoice.id")
    kind: str = text_column()
    source: str = text_column()
    reference: str = text_column()
    amount: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    note: str = text_column(default="")
    at: datetime = instant()
    recorded_at: datetime = instant()
    applied_at: datetime | None = maybe_instant()
    outcome: str | None = optional_text()


class PortalLinkRow(Row, table=True):
    """A customer's way to its own usage and invoices; only the SHA-256 of its token is kept."""

    __tablename__ = "portal_link"
    token_hash: str = key_column()
    organization_id: str = text_column("organization.id")
    customer_id: str = text_column("customer.id", index=True)
    created_at: datetime = instant()
    expires_at: datetime = instant()
    revoked_at: datetime | None = maybe_instant()
