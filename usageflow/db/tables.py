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
    "reissued",
    "written_off",
)
UNIT_KINDS: Final = ("usage", "part", "reissue", "correction")
"""What a unit carries: events; a part of an event too large for one unit; again what another unit
carried in vain; or a signed amount that makes Stripe's sum right, and is no usage.
"""
ACCOUNT_KINDS: Final = ("own", "connect", "cloudevents")
ACCOUNT_STATES: Final = ("active", "paused", "deauthorized")
FOLDING: Final = ("meters", "all")
"""Which units may hold several events: those of meters that add up, or every one."""
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
    """Where usage is sent: `own` (by secret key), a connected `acct_...`, or a CloudEvents sink.

    `secret` is the sealed key of an own account that was not given by the environment.
    `deauthorized`: its owner has withdrawn the connection; `paused`: Stripe refused the key.
    `clock_at` is the latest time this account was forwarded at: a clock below it was set back.
    Stripe's events were asked for up to `polled_at`.
    """

    __tablename__ = "stripe_account"
    __table_args__ = (
        UniqueConstraint("organization_id", "account", "livemode"),
        _one_of("kind", ACCOUNT_KINDS),
        _one_of("state", ACCOUNT_STATES),
        _one_of("folding", FOLDING),
    )
    id: str = _key()
    organization_id: str = _text("organization.id")
    kind: str = _text()
    account: str = _text()
    livemode: bool
    state: str = _text()
    reason: str | None = _optional()
    folding: str = _text(default="meters")
    secret: str | None = _optional()
    created_at: datetime = _instant()
    clock_at: datetime | None = _maybe_instant()
    polled_at: datetime | None = _maybe_instant()


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
    """From when to when a metadata value means a Stripe customer; `valid_until` None: still.

    Several at one moment are kept as several. `source` is `stripe` (its metadata says so) or
    `attached` (a person says so, which stands above what Stripe says).
    """

    __tablename__ = "stripe_customer"
    __table_args__ = (
        Index("ix_stripe_customer_id", "account_id", "stripe_customer_id"),
        _one_of("source", ("stripe", "attached")),
    )
    account_id: str = _key("stripe_account.id")
    field: str = _key()
    value: str = _key()
    stripe_customer_id: str = _key()
    valid_from: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    valid_until: datetime | None = _maybe_instant()
    source: str = _text(default="stripe")
    seen_at: datetime = _instant()


class BillingPeriodRow(Row, table=True):
    """A moment at which a billing period of a Stripe customer ends, as its subscriptions tell."""

    __tablename__ = "billing_period"
    account_id: str = _key("stripe_account.id")
    stripe_customer_id: str = _key()
    ends_at: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))


class LaneRow(Row, table=True):
    """(account, customer, event name): at most one call in flight.

    Free without a `lease_owner` or past `leased_until`, and past `blocked_until`. `waiting`: it has
    units to send, the first of which is for usage of `oldest_at`. `metered` is the sum of all
    events that were ever put into its units, `settled` of those that Stripe was seen to have.
    """

    __tablename__ = "lane"
    __table_args__ = (
        UniqueConstraint("account_id", "customer_id", "event_name"),
        Index("ix_lane_waiting", "account_id", "oldest_at", **_where("waiting")),
        Index("ix_lane_identity", "account_id", "identity_field", "identity_value"),
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
    oldest_at: datetime = _instant()
    metered: Decimal = Field(default=Decimal(0), sa_column=Column(ExactDecimal, nullable=False))
    settled: Decimal = Field(default=Decimal(0), sa_column=Column(ExactDecimal, nullable=False))
    last_sequence: int = 0
    """The number of its last unit."""


class LaneBoundaryRow(Row, table=True):
    """A moment within an hour that no unit of the lane may cross: before it, it is another's."""

    __tablename__ = "lane_boundary"
    lane_id: int = Field(sa_column=Column(BIG_ID, ForeignKey("lane.id"), primary_key=True))
    at: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    reason: str = _text()
    """`customer`: the identity became another customer; `period`: a billing period ended."""


class UnitRow(Row, table=True):
    """What one Stripe meter event carries. A trigger freezes the payload once it is sealed.

    `first_attempt_at` is set while Stripe may have the unit, and until `resend_until` the same
    identifier may be sent again; `occurred_at` lies in `hour` and is the time Stripe is told.
    `parent_id` is the unit this one is a part or the reissue of.
    """

    __tablename__ = "unit"
    __table_args__ = (
        UniqueConstraint("lane_id", "hour", "sequence"),
        _one_of("state", UNIT_STATES),
        _one_of("kind", UNIT_KINDS),
        Index("ix_unit_open", "lane_id", "hour", unique=True, **_where("state = 'open'")),
        Index(
            "ix_unit_undecided",
            "lane_id",
            unique=True,
            **_where(_is_one_of("state", UNIT_UNDECIDED)),
        ),
        Index("ix_unit_pending", "lane_id", "id", **_where(_is_one_of("state", UNIT_PENDING))),
        Index("ix_unit_accepted", "lane_id", "hour", **_where("state = 'accepted'")),
        Index(
            "ix_unit_unsettled",
            "organization_id",
            "state",
            **_where("state <> 'settled'"),
        ),
        Index("ix_unit_customer_hour", "stripe_customer_id", "hour"),
        Index(
            "ix_unit_customer_unsettled",
            "stripe_customer_id",
            "hour",
            **_where("state <> 'settled'"),
        ),
    )
    id: int | None = _counter()
    organization_id: str = _text("organization.id")
    lane_id: int = Field(sa_column=Column(BIG_ID, ForeignKey("lane.id"), nullable=False))
    hour: datetime = _instant()
    sequence: int
    kind: str = _text(default="usage")
    parent_id: int | None = Field(
        default=None, sa_column=Column(BIG_ID, ForeignKey("unit.id"), nullable=True)
    )
    occurred_at: datetime = _instant()
    quantity: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    events: int
    state: str = _text()
    identifier: str = _text(unique=True)
    stripe_customer_id: str | None = _optional()
    first_attempt_at: datetime | None = _maybe_instant()
    resend_until: datetime | None = _maybe_instant()
    accepted_at: datetime | None = _maybe_instant()
    attempts: int = 0
    reason: str | None = _optional()
    created_at: datetime = _instant()
    updated_at: datetime = _instant()


# What Stripe tells, and what came of it


class StripeEventRow(Row, table=True):
    """An event of Stripe's that has been dealt with; kept so that its repeats are not."""

    __tablename__ = "stripe_event"
    __table_args__ = (Index("ix_stripe_event_received_at", "received_at"),)
    account_id: str = _key("stripe_account.id")
    event_id: str = _key()
    type: str = _text()
    received_at: datetime = _instant()


class ErrorReportRow(Row, table=True):
    """Stripe's word that it dropped meter events after it had accepted them.

    `codes` is JSON: {code: count}. `explained`: how many of `error_count` were told by identifier;
    while there are others, everything sent in its window is suspect (`open`).
    """

    __tablename__ = "error_report"
    __table_args__ = (
        _one_of("state", ("open", "closed")),
        Index("ix_error_report_window", "account_id", "window_end"),
    )
    account_id: str = _key("stripe_account.id")
    event_id: str = _key()
    event_name: str | None = _optional()
    codes: str = _text()
    message: str = _text()
    error_count: int
    explained: int
    window_start: datetime = _instant()
    window_end: datetime = _instant()
    state: str = _text()
    received_at: datetime = _instant()


class ReconciliationRow(Row, table=True):
    """A difference between ledger and Stripe for one Stripe customer, event name and hour.

    `expected` is what Stripe should have, `observed` what it shows, since `observed_at`.
    `proposal` is `unit` (send `quantity`, signed), `cancel` (the event `identifier`), `reissue`
    (the unit `identifier`), or none.
    """

    __tablename__ = "reconciliation"
    __table_args__ = (
        _one_of("classification", ("unsettled", "late", "foreign", "rejected")),
        _one_of("state", ("open", "applied", "dismissed", "resolved")),
        Index("ix_reconciliation_slot", "account_id", "stripe_customer_id", "event_name", "hour"),
        Index(
            "ix_reconciliation_open",
            "account_id",
            "stripe_customer_id",
            "event_name",
            "hour",
            unique=True,
            **_where("state IN ('open', 'applied', 'dismissed')"),
        ),
    )
    id: int | None = _counter()
    organization_id: str = _text("organization.id", index=True)
    account_id: str = _text("stripe_account.id")
    stripe_customer_id: str = _text()
    event_name: str = _text()
    hour: datetime = _instant()
    expected: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    observed: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    classification: str = _text()
    reason: str = _text()
    proposal: str | None = _optional()
    quantity: Decimal | None = Field(default=None, sa_column=Column(ExactDecimal, nullable=True))
    identifier: str | None = _optional()
    state: str = _text()
    first_seen_at: datetime = _instant()
    observed_at: datetime = _instant()
    checked_at: datetime = _instant()


class StripeReadsRow(Row, table=True):
    """How many reads an account's reconciliation took on a UTC day; Stripe allots them."""

    __tablename__ = "stripe_reads"
    account_id: str = _key("stripe_account.id")
    day: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    reads: int


class StripeWebhookRow(Row, table=True):
    """A webhook endpoint or event destination we made at Stripe; its secret is sealed."""

    __tablename__ = "stripe_webhook"
    id: str = _key()
    organization_id: str = _text("organization.id", index=True)
    account_id: str = _text("stripe_account.id")
    endpoint_id: str = _text()
    kind: str = _text()
    """`snapshot` or `thin`."""
    url: str = _text()
    secret: str = _text()
    created_at: datetime = _instant()


class OauthStateRow(Row, table=True):
    """A connection to Stripe that was begun: whose, by which browser, and until when."""

    __tablename__ = "oauth_state"
    state_hash: str = _key()
    session_hash: str = _text()
    organization_id: str = _text("organization.id")
    created_at: datetime = _instant()
    expires_at: datetime = _instant()
    used_at: datetime | None = _maybe_instant()


class StatementRow(Row, table=True):
    """Where all usage of an event name was at one moment: the parts add up to `metered`, exactly.

    `held` units wait for a person like quarantined ones; they are told apart by why.
    """

    __tablename__ = "statement"
    organization_id: str = _key("organization.id")
    at: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    event_name: str = _key()
    metered: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    settled: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    in_flight: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    parked: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    quarantined: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    held: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))
    written_off: Decimal = Field(sa_column=Column(ExactDecimal, nullable=False))


class AuditRow(Row, table=True):
    """Who changed what: never changed itself. `before` and `after` are JSON."""

    __tablename__ = "audit"
    seq: int | None = _counter()
    organization_id: str = _text("organization.id", index=True)
    at: datetime = _instant()
    actor: str = _text()
    action: str = _text()
    subject: str = _text()
    before: str | None = _optional()
    after: str | None = _optional()
