"""Every table, in reading order: the schema on one page.

Rows only: a table class does not validate what it is given (SQLModel never does for tables), so
text from outside is parsed before it comes here. The triggers that keep usage events and sealed
units from being changed are in the first migration. Every table that grows leads with the
organization.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Final, cast

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from usageflow.db.exact import BIG_ID, ExactDecimal, UtcDateTime

EVENT_STATES: Final = ("counted", "inbox", "shadow", "skipped", "gap")
EVENT_FOR_HUMAN: Final = ("inbox", "gap")
"""The states of events that a human must see: not billed, though something was used."""
UNIT_STATES: Final = (
    "open",
    "sealed",
    "sending",
    "accepted",
    "settled",
    "ambiguous",
    "parked",
    "quarantined",
    "held",
)
UNIT_PENDING: Final = ("open", "sealed", "sending", "ambiguous", "parked")
"""The states of units that are still to be sent."""
UNIT_UNDECIDED: Final = ("sending", "ambiguous")
"""The states of units that Stripe may or may not have; at most one per lane."""


class Row(SQLModel):
    """The base of every table, with our own metadata and constraint names."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def table(row: type[Row]) -> Table:
    """The table behind a row class, for statements over many rows."""
    return cast("Table", row.__table__)  # type: ignore[attr-defined]  # SQLModel adds it


def _key(*references: str, **options: Any) -> Any:
    """A text column of the primary key."""
    return Field(sa_column=Column(Text, *map(ForeignKey, references), primary_key=True, **options))


def _text(*references: str, **options: Any) -> Any:
    """A text column that is always there."""
    return Field(sa_column=Column(Text, *map(ForeignKey, references), nullable=False, **options))


def _optional(*references: str) -> Any:
    """A text column that may be NULL."""
    return Field(default=None, sa_column=Column(Text, *map(ForeignKey, references), nullable=True))


def _instant() -> Any:
    return Field(sa_column=Column(UtcDateTime, nullable=False))


def _maybe_instant() -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime, nullable=True))


def _counter() -> Any:
    return Field(default=None, sa_column=Column(BIG_ID, primary_key=True, autoincrement=True))


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(_is_one_of(column, values), name=f"{column}_known")


def _is_one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN {values!r}"


def _where(condition: str) -> dict[str, Any]:
    """Options of a partial index."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


# Who we are


class InstallationRow(Row, table=True):
    """The one row that tells this database from every other; made by the first migration."""

    __tablename__ = "installation"
    id: str = _key()


class OrganizationRow(Row, table=True):
    """Whose usage it is; everything else hangs off one."""

    __tablename__ = "organization"
    id: str = _key()
    name: str = _text(unique=True)
    """What commands call it by."""
    created_at: datetime = _instant()
    display_name: str | None = _optional()
    """What its people call it."""


class MemberRow(Row, table=True):
    """A person of an organization. `password_hash` tells how it was made (`catalog.passwords`)."""

    __tablename__ = "member"
    __table_args__ = (
        CheckConstraint("role = 'OWNER'", name="role_known"),
        UniqueConstraint("organization_id", "email"),
    )
    id: str = _key()
    organization_id: str = _text("organization.id")
    email: str = _text()
    """In lower case."""
    password_hash: str = _text()
    role: str = _text()
    created_at: datetime = _instant()


class SignupTokenRow(Row, table=True):
    """The one link by which an organization's owner may sign up; only its SHA-256 is kept."""

    __tablename__ = "signup_token"
    organization_id: str = _key("organization.id")
    token_hash: str = _text(unique=True)
    created_at: datetime = _instant()
    expires_at: datetime = _instant()


class ApiKeyRow(Row, table=True):
    """A key of an edge or a client. Only its SHA-256 is kept; `prefix` is what may be shown."""

    __tablename__ = "api_key"
    id: str = _key()
    organization_id: str = _text("organization.id", index=True)
    name: str = _text()
    prefix: str = _text()
    key_hash: str = _text(unique=True)
    scopes: str = _text()
    """Separated by spaces."""
    created_at: datetime = _instant()
    revoked_at: datetime | None = _maybe_instant()
    last_used_at: datetime | None = _maybe_instant()


# What may be


class MetricRow(Row, table=True):
    """What is counted."""

    __tablename__ = "metric"
    __table_args__ = (CheckConstraint("aggregation = 'SUM'", name="aggregation_known"),)
    organization_id: str = _key("organization.id")
    key: str = _key()
    name: str = _text()
    unit: str = _text(default="")
    aggregation: str = _text(default="SUM")
    created_at: datetime = _instant()


class PolicyRow(Row, table=True):
    """One version of a policy; `document` is its canonical JSON."""

    __tablename__ = "policy"
    organization_id: str = _key("organization.id")
    name: str = _key()
    version: int = Field(primary_key=True)
    document: str = _text()
    active: bool
    created_at: datetime = _instant()


class CustomerRow(Row, table=True):
    """The payer."""

    __tablename__ = "customer"
    __table_args__ = (UniqueConstraint("organization_id", "external_id"),)
    id: str = _key()
    organization_id: str = _text("organization.id")
    external_id: str = _text()
    created_at: datetime = _instant()


class CustomerIdentityRow(Row, table=True):
    """One way a customer is recognised."""

    __tablename__ = "customer_identity"
    organization_id: str = _key("organization.id")
    field: str = _key()
    value: str = _key()
    customer_id: str = _text("customer.id", index=True)


# What was


class UsageEventRow(Row, table=True):
    """One immutable fact. Triggers refuse every change except those of `usageflow.ledger`:
    `unit_id` once, and what the release of an inbox event fills in.
    """

    __tablename__ = "usage_event"
    __table_args__ = (
        UniqueConstraint("organization_id", "id"),
        _one_of("state", EVENT_STATES),
        CheckConstraint(
            "state <> 'counted' OR (quantity IS NOT NULL AND customer_id IS NOT NULL)",
            name="counted_complete",
        ),
        Index(
            "ix_usage_event_customer_metric_time",
            "organization_id",
            "customer_id",
            "metric",
            "occurred_at",
        ),
        Index(
            "ix_usage_event_inbox",
            "organization_id",
            "seq",
            **_where(_is_one_of("state", EVENT_FOR_HUMAN)),
        ),
        Index(
            "ix_usage_event_unassigned",
            "organization_id",
            "seq",
            **_where("event_name IS NOT NULL AND unit_id IS NULL AND state = 'counted'"),
        ),
        Index("ix_usage_event_unit_id", "unit_id", **_where("unit_id IS NOT NULL")),
    )
    seq: int | None = _counter()
    organization_id: str = _text("organization.id")
    id: str = _text()
    customer_id: str | None = _optional("customer.id")
    metric: str = _text()
    quantity: Decimal | None = Field(default=None, sa_column=Column(ExactDecimal, nullable=True))
    occurred_at: datetime = _instant()
    received_at: datetime = _instant()
    identity_field: str = _text()
    identity_value: str | None = _optional()
    policy: str = _text()
    policy_version: str = _text()
    event_name: str | None = _optional()
    state: str = _text()
    reason: str | None = _optional()
    request_method: str = _text()
    request_route: str = _text()
    request_status: int | None = None
    fingerprint: str = _text()
    unit_id: int | None = Field(
        default=None, sa_column=Column(BIG_ID, ForeignKey("unit.id"), nullable=True)
    )


class UnmatchedEndpointRow(Row, table=True):
    """Requests that no policy matched, by method and template, as the edges report them.

    `sketch` is JSON: names and types of what was seen, and no values. `routed`: see
    `middleware.endpoints`.
    """

    __tablename__ = "unmatched_endpoint"
    organization_id: str = _key("organization.id")
    method: str = _key()
    template: str = _key()
    requests: int = Field(sa_column=Column(BIG_ID, nullable=False))
    routed: bool
    sketch: str = _text()
    first_seen_at: datetime = _instant()
    last_seen_at: datetime = _instant()


class UsageWindowRow(Row, table=True):
    """The sum of counted events per customer, metric and UTC hour; derived from usage events."""

    __tablename__ = "usage_window"
    organization_id: str = _key("organization.id")
    customer_id: str = _key("customer.id")
    metric: str = _key()
    hour: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    total: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    events: int = Field(sa_column=Column(BIG_ID, nullable=False))


class IngestRejectionRow(Row, table=True):
    """A line of a batch that is not in the ledger, and why. `digest` keeps repeats out."""

    __tablename__ = "ingest_rejection"
    __table_args__ = (UniqueConstraint("organization_id", "digest"),)
    seq: int | None = _counter()
    organization_id: str = _text("organization.id")
    event_key: str | None = _optional()
    body: str = _text()
    digest: str = _text()
    reason: str = _text()
    received_at: datetime = _instant()


# On the way to Stripe


class StripeAccountRow(Row, table=True):
    """A Stripe account usage is sent to: `own` (by secret key), or a connected `acct_...`."""

    __tablename__ = "stripe_account"
    __table_args__ = (
        UniqueConstraint("organization_id", "account"),
        _one_of("state", ("active", "paused")),
    )
    id: str = _key()
    organization_id: str = _text("organization.id")
    account: str = _text()
    livemode: bool
    state: str = _text()
    reason: str | None = _optional()
    created_at: datetime = _instant()


class StripeMeterRow(Row, table=True):
    """What is known of an account's meter: how it adds up, and whether it takes events."""

    __tablename__ = "stripe_meter"
    account_id: str = _key("stripe_account.id")
    event_name: str = _key()
    meter_id: str = _text()
    formula: str = _text()
    status: str = _text()
    event_time_window: str | None = _optional()
    refreshed_at: datetime = _instant()


class StripeCustomerRow(Row, table=True):
    """Stripe customers seen with a metadata value; several for one value are kept as several."""

    __tablename__ = "stripe_customer"
    account_id: str = _key("stripe_account.id")
    field: str = _key()
    value: str = _key()
    stripe_customer_id: str = _key()
    seen_at: datetime = _instant()


class LaneRow(Row, table=True):
    """(account, customer, event name): at most one call in flight.

    Free without a `lease_owner` or past `leased_until`, and past `blocked_until`. `leased_until` of
    a free lane is when it was last served, so the longest waiting lane is next. `waiting`: it has
    units to send.
    """

    __tablename__ = "lane"
    __table_args__ = (
        UniqueConstraint("account_id", "customer_id", "event_name"),
        Index("ix_lane_waiting", "account_id", "waiting", "leased_until"),
    )
    id: int | None = _counter()
    organization_id: str = _text("organization.id")
    account_id: str = _text("stripe_account.id")
    customer_id: str = _text("customer.id")
    event_name: str = _text()
    identity_field: str = _text()
    identity_value: str = _text()
    lease_owner: str | None = _optional()
    leased_until: datetime = _instant()
    blocked_until: datetime = _instant()
    failures: int = 0
    """Answers in a row that decided nothing; the pause before the next try grows with it."""
    waiting: bool


class UnitRow(Row, table=True):
    """What one Stripe meter event carries. A trigger freezes the payload once it is sealed.

    `first_attempt_at` is set while Stripe may have the unit; `occurred_at` lies in `hour` and is
    the time Stripe is told.
    """

    __tablename__ = "unit"
    __table_args__ = (
        UniqueConstraint("lane_id", "hour", "sequence"),
        _one_of("state", UNIT_STATES),
        Index("ix_unit_open", "lane_id", "hour", unique=True, **_where("state = 'open'")),
        Index(
            "ix_unit_undecided",
            "lane_id",
            unique=True,
            **_where(_is_one_of("state", UNIT_UNDECIDED)),
        ),
        Index("ix_unit_pending", "lane_id", "id", **_where(_is_one_of("state", UNIT_PENDING))),
        Index("ix_unit_state", "organization_id", "state"),
    )
    id: int | None = _counter()
    organization_id: str = _text("organization.id")
    lane_id: int = Field(sa_column=Column(BIG_ID, ForeignKey("lane.id"), nullable=False))
    hour: datetime = _instant()
    sequence: int
    occurred_at: datetime = _instant()
    quantity: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    events: int
    state: str = _text()
    identifier: str = _text(unique=True)
    stripe_customer_id: str | None = _optional()
    first_attempt_at: datetime | None = _maybe_instant()
    attempts: int = 0
    reason: str | None = _optional()
    created_at: datetime = _instant()
    updated_at: datetime = _instant()
