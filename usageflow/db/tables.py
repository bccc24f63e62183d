"""Every table, in reading order: the schema on one page.

Rows only: a table class does not validate what it is given (SQLModel never does for tables), so
text from outside is parsed before it comes here. The triggers that keep usage events and sealed
units from being changed are in the first migration. Every table that grows leads with the
organization.
"""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, UniqueConstraint
from sqlmodel import Field

from usageflow.db.columns import (
    Row,
    counter,
    decimal_column,
    instant,
    is_one_of,
    key_column,
    maybe_decimal,
    maybe_instant,
    one_of,
    optional_text,
    text_column,
    where,
)
from usageflow.db.exact import BIG_ID, UtcDateTime


def _uuid() -> str:
    return str(uuid.uuid4())


ROLES: Final = ("OWNER", "ADMIN", "DEVELOPER", "VIEWER")
AGGREGATIONS: Final = ("SUM", "COUNT", "MAX", "UNIQUE_COUNT", "LAST")
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


# Who we are


class InstallationRow(Row, table=True):
    """The one row that tells this database from every other; made by the first migration."""

    __tablename__ = "installation"
    id: str = key_column()


class OrganizationRow(Row, table=True):
    """Whose usage it is; everything else hangs off one."""

    __tablename__ = "organization"
    id: str = key_column()
    name: str = text_column(unique=True)
    """What commands call it by."""
    created_at: datetime = instant()
    display_name: str | None = optional_text()
    """What its people call it."""
    settings: str | None = optional_text()
    """JSON, see `catalog.organization_settings`: currency, time zone, what is due when."""


class PersonRow(Row, table=True):
    """Somebody who signs in. `password_hash` tells how it was made (`catalog.passwords`)."""

    __tablename__ = "person"
    id: str = key_column()
    email: str = text_column(unique=True)
    """In lower case."""
    password_hash: str = text_column()
    created_at: datetime = instant()


class MemberRow(Row, table=True):
    """What a person may do in an organization."""

    __tablename__ = "member"
    __table_args__ = (
        one_of("role", ROLES),
        UniqueConstraint("organization_id", "person_id"),
        Index("ix_member_person_id", "person_id"),
    )
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    person_id: str = text_column("person.id")
    role: str = text_column()
    created_at: datetime = instant()


class InvitationRow(Row, table=True):
    """A way in for one address, once; only the SHA-256 of its token is kept."""

    __tablename__ = "invitation"
    __table_args__ = (
        one_of("role", ROLES),
        Index(
            "ix_invitation_open",
            "organization_id",
            "email",
            unique=True,
            **where("accepted_at IS NULL AND revoked_at IS NULL"),
        ),
    )
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    email: str = text_column()
    role: str = text_column()
    token_hash: str = text_column(unique=True)
    invited_by: str = text_column()
    created_at: datetime = instant()
    expires_at: datetime = instant()
    accepted_at: datetime | None = maybe_instant()
    revoked_at: datetime | None = maybe_instant()


class SessionRow(Row, table=True):
    """A person signed in, acting for one organization; only hashes of its two tokens are kept.

    `refresh_used_hash` is the token before: who shows it again has a stolen one.
    """

    __tablename__ = "session"
    __table_args__ = (
        Index("ix_session_person_id", "person_id"),
        Index("ix_session_refresh_used_hash", "refresh_used_hash"),
    )
    id: str = key_column()
    person_id: str = text_column("person.id")
    organization_id: str = text_column("organization.id")
    access_hash: str = text_column(unique=True)
    access_expires_at: datetime = instant()
    refresh_hash: str = text_column(unique=True)
    refresh_used_hash: str | None = optional_text()
    refresh_expires_at: datetime = instant()
    created_at: datetime = instant()
    last_used_at: datetime = instant()
    address: str = text_column(default="")
    user_agent: str = text_column(default="")
    revoked_at: datetime | None = maybe_instant()


class SignupTokenRow(Row, table=True):
    """The one link by which an organization's owner may sign up; only its SHA-256 is kept."""

    __tablename__ = "signup_token"
    organization_id: str = key_column("organization.id")
    token_hash: str = text_column(unique=True)
    created_at: datetime = instant()
    expires_at: datetime = instant()


class ApiKeyRow(Row, table=True):
    """A key of an edge or a client. Only its SHA-256 is kept; `prefix` is what may be shown."""

    __tablename__ = "api_key"
    id: str = key_column()
    organization_id: str = text_column("organization.id", index=True)
    name: str = text_column()
    prefix: str = text_column()
    key_hash: str = text_column(unique=True)
    scopes: str = text_column()
    """Separated by spaces."""
    created_at: datetime = instant()
    revoked_at: datetime | None = maybe_instant()
    last_used_at: datetime | None = maybe_instant()
    expires_at: datetime | None = maybe_instant()


# What may be


class MetricRow(Row, table=True):
    """What is counted. `id` and `token` (the product documents' `meter_token`) name it as well.

    `property` is the field of an event's metadata or properties that holds the quantity or, for
    UNIQUE_COUNT, what is told apart; `filters` is JSON: [{property, values}], all of which hold.
    """

    __tablename__ = "metric"
    __table_args__ = (one_of("aggregation", AGGREGATIONS),)
    organization_id: str = key_column("organization.id")
    key: str = key_column()
    id: str = text_column(unique=True, default=_uuid)
    token: str = text_column(unique=True, default=_uuid)
    name: str = text_column()
    unit: str = text_column(default="")
    aggregation: str = text_column(default="SUM")
    property: str | None = optional_text()
    filters: str = text_column(default="[]")
    description: str = text_column(default="")
    created_at: datetime = instant()


class PolicyRow(Row, table=True):
    """One version of a policy; `document` is its canonical JSON."""

    __tablename__ = "policy"
    organization_id: str = key_column("organization.id")
    name: str = key_column()
    version: int = Field(primary_key=True)
    document: str = text_column()
    active: bool
    created_at: datetime = instant()


class CustomerRow(Row, table=True):
    """The payer."""

    __tablename__ = "customer"
    __table_args__ = (UniqueConstraint("organization_id", "external_id"),)
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    external_id: str = text_column()
    created_at: datetime = instant()
    name: str | None = optional_text()
    email: str | None = optional_text()
    phone: str | None = optional_text()
    address: str | None = optional_text()
    """JSON: line1, line2, city, state, postal_code, country."""
    tax_percent: Decimal | None = maybe_decimal()
    stripe_customer_id: str | None = optional_text()
    metadata_: str | None = Field(default=None, sa_column=Column("metadata", Text, nullable=True))
    """JSON."""
    archived_at: datetime | None = maybe_instant()


class CustomerIdentityRow(Row, table=True):
    """One way a customer is recognised."""

    __tablename__ = "customer_identity"
    organization_id: str = key_column("organization.id")
    field: str = key_column()
    value: str = key_column()
    customer_id: str = text_column("customer.id", index=True)


# What was


class UsageEventRow(Row, table=True):
    """One immutable fact. Triggers refuse every change except those of `usageflow.ledger`:
    `unit_id` once, and what the release of an inbox event fills in.
    """

    __tablename__ = "usage_event"
    __table_args__ = (
        UniqueConstraint("organization_id", "id"),
        one_of("state", EVENT_STATES),
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
            **where(is_one_of("state", EVENT_FOR_HUMAN)),
        ),
        Index(
            "ix_usage_event_unassigned",
            "organization_id",
            "seq",
            **where("event_name IS NOT NULL AND unit_id IS NULL AND state = 'counted'"),
        ),
        Index("ix_usage_event_unit_id", "unit_id", **where("unit_id IS NOT NULL")),
    )
    seq: int | None = counter()
    organization_id: str = text_column("organization.id")
    id: str = text_column()
    customer_id: str | None = optional_text("customer.id")
    metric: str = text_column()
    quantity: Decimal | None = maybe_decimal()
    occurred_at: datetime = instant()
    received_at: datetime = instant()
    identity_field: str = text_column()
    identity_value: str | None = optional_text()
    policy: str = text_column()
    policy_version: str = text_column()
    event_name: str | None = optional_text()
    state: str = text_column()
    reason: str | None = optional_text()
    request_method: str = text_column()
    request_route: str = text_column()
    request_status: int | None = None
    fingerprint: str = text_column()
    unit_id: int | None = Field(
        default=None, sa_column=Column(BIG_ID, ForeignKey("unit.id"), nullable=True)
    )
    idempotency_key: str | None = optional_text()
    """What a client of the API called it; edges mint their ids themselves."""
    metadata_: str | None = Field(default=None, sa_column=Column("metadata", Text, nullable=True))
    """JSON, as the client sent it; never billed."""
    unique_value: str | None = optional_text()
    """What a metric of aggregation UNIQUE_COUNT tells apart."""


class UnmatchedEndpointRow(Row, table=True):
    """Requests that no policy matched, by method and template, as the edges report them.

    `sketch` is JSON: names and types of what was seen, and no values. `routed`: see
    `middleware.endpoints`.
    """

    __tablename__ = "unmatched_endpoint"
    organization_id: str = key_column("organization.id")
    method: str = key_column()
    template: str = key_column()
    requests: int = Field(sa_column=Column(BIG_ID, nullable=False))
    routed: bool
    sketch: str = text_column()
    first_seen_at: datetime = instant()
    last_seen_at: datetime = instant()


class UsageWindowRow(Row, table=True):
    """Counted events per customer, metric and UTC hour, added up; derived from usage events.

    `last` is the quantity of the latest event by time, then by `seq`; `changed_at` is
    when the transaction that last added to it began; `forwarded` is the part of `total` that goes
    to Stripe under an event name.
    """

    __tablename__ = "usage_window"
    # in the order of its key, as it is read: a period's windows lie together on the disk
    __table_args__ = ({"sqlite_with_rowid": False},)
    organization_id: str = key_column("organization.id")
    customer_id: str = key_column("customer.id")
    metric: str = key_column()
    hour: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    total: Decimal = decimal_column()
    events: int = Field(sa_column=Column(BIG_ID, nullable=False))
    maximum: Decimal = decimal_column()
    last: Decimal = decimal_column()
    last_at: datetime = instant()
    last_seq: int = Field(sa_column=Column(BIG_ID, nullable=False))
    changed_at: datetime = instant()
    forwarded: Decimal = decimal_column(default=Decimal(0))


class UsageValueRow(Row, table=True):
    """A value that a UNIQUE_COUNT metric saw in an hour; derived from usage events like windows.

    `events` is how many told it.
    """

    __tablename__ = "usage_value"
    __table_args__ = ({"sqlite_with_rowid": False},)
    organization_id: str = key_column("organization.id")
    customer_id: str = key_column("customer.id")
    metric: str = key_column()
    hour: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    value: str = key_column()
    events: int = Field(sa_column=Column(BIG_ID, nullable=False))


class IngestRejectionRow(Row, table=True):
    """A line of a batch that is not in the ledger, and why. `digest` keeps repeats out."""

    __tablename__ = "ingest_rejection"
    __table_args__ = (UniqueConstraint("organization_id", "digest"),)
    seq: int | None = counter()
    organization_id: str = text_column("organization.id")
    event_key: str | None = optional_text()
    body: str = text_column()
    digest: str = text_column()
    reason: str = text_column()
    received_at: datetime = instant()


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
        one_of("kind", ACCOUNT_KINDS),
        one_of("state", ACCOUNT_STATES),
        one_of("folding", FOLDING),
    )
    id: str = key_column()
    organization_id: str = text_column("organization.id")
    kind: str = text_column()
    account: str = text_column()
    livemode: bool
    state: str = text_column()
    reason: str | None = optional_text()
    folding: str = text_column(default="meters")
    secret: str | None = optional_text()
    created_at: datetime = instant()
    clock_at: datetime | None = maybe_instant()
    polled_at: datetime | None = maybe_instant()


class StripeMeterRow(Row, table=True):
    """What is known of an account's meter: how it adds up, and whether it takes events."""

    __tablename__ = "stripe_meter"
    account_id: str = key_column("stripe_account.id")
    event_name: str = key_column()
    meter_id: str = text_column()
    formula: str = text_column()
    status: str = text_column()
    event_time_window: str | None = optional_text()
    refreshed_at: datetime = instant()


class StripeCustomerRow(Row, table=True):
    """From when to when a metadata value means a Stripe customer; `valid_until` None: still.

    Several at one moment are kept as several. `source` is `stripe` (its metadata says so) or
    `attached` (a person says so, which stands above what Stripe says).
    """

    __tablename__ = "stripe_customer"
    __table_args__ = (
        Index("ix_stripe_customer_id", "account_id", "stripe_customer_id"),
        one_of("source", ("stripe", "attached")),
    )
    account_id: str = key_column("stripe_account.id")
    field: str = key_column()
    value: str = key_column()
    stripe_customer_id: str = key_column()
    valid_from: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    valid_until: datetime | None = maybe_instant()
    source: str = text_column(default="stripe")
    seen_at: datetime = instant()


class BillingPeriodRow(Row, table=True):
    """A moment at which a billing period of a Stripe customer ends, as its subscriptions tell."""

    __tablename__ = "billing_period"
    account_id: str = key_column("stripe_account.id")
    stripe_customer_id: str = key_column()
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
        Index("ix_lane_waiting", "account_id", "oldest_at", **where("waiting")),
        Index("ix_lane_identity", "account_id", "identity_field", "identity_value"),
    )
    id: int | None = counter()
    organization_id: str = text_column("organization.id")
    account_id: str = text_column("stripe_account.id")
    customer_id: str = text_column("customer.id")
    event_name: str = text_column()
    identity_field: str = text_column()
    identity_value: str = text_column()
    lease_owner: str | None = optional_text()
    leased_until: datetime = instant()
    blocked_until: datetime = instant()
    failures: int = 0
    """Answers in a row that decided nothing; the pause before the next try grows with it."""
    waiting: bool
    oldest_at: datetime = instant()
    metered: Decimal = decimal_column(default=Decimal(0))
    settled: Decimal = decimal_column(default=Decimal(0))
    last_sequence: int = 0
    """The number of its last unit."""


class LaneBoundaryRow(Row, table=True):
    """A moment within an hour that no unit of the lane may cross: before it, it is another's."""

    __tablename__ = "lane_boundary"
    lane_id: int = Field(sa_column=Column(BIG_ID, ForeignKey("lane.id"), primary_key=True))
    at: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    reason: str = text_column()
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
        one_of("state", UNIT_STATES),
        one_of("kind", UNIT_KINDS),
        Index("ix_unit_open", "lane_id", "hour", unique=True, **where("state = 'open'")),
        Index(
            "ix_unit_undecided",
            "lane_id",
            unique=True,
            **where(is_one_of("state", UNIT_UNDECIDED)),
        ),
        Index("ix_unit_pending", "lane_id", "id", **where(is_one_of("state", UNIT_PENDING))),
        Index("ix_unit_accepted", "lane_id", "hour", **where("state = 'accepted'")),
        Index(
            "ix_unit_unsettled",
            "organization_id",
            "state",
            **where("state <> 'settled'"),
        ),
        Index("ix_unit_customer_hour", "stripe_customer_id", "hour"),
        Index(
            "ix_unit_customer_unsettled",
            "stripe_customer_id",
            "hour",
            **where("state <> 'settled'"),
        ),
    )
    id: int | None = counter()
    organization_id: str = text_column("organization.id")
    lane_id: int = Field(sa_column=Column(BIG_ID, ForeignKey("lane.id"), nullable=False))
    hour: datetime = instant()
    sequence: int
    kind: str = text_column(default="usage")
    parent_id: int | None = Field(
        default=None, sa_column=Column(BIG_ID, ForeignKey("unit.id"), nullable=True)
    )
    occurred_at: datetime = instant()
    quantity: Decimal = decimal_column()
    events: int
    state: str = text_column()
    identifier: str = text_column(unique=True)
    stripe_customer_id: str | None = optional_text()
    first_attempt_at: datetime | None = maybe_instant()
    resend_until: datetime | None = maybe_instant()
    accepted_at: datetime | None = maybe_instant()
    attempts: int = 0
    reason: str | None = optional_text()
    created_at: datetime = instant()
    updated_at: datetime = instant()


# What Stripe tells, and what came of it


class StripeEventRow(Row, table=True):
    """An event of Stripe's that has been dealt with; kept so that its repeats are not."""

    __tablename__ = "stripe_event"
    __table_args__ = (Index("ix_stripe_event_received_at", "received_at"),)
    account_id: str = key_column("stripe_account.id")
    event_id: str = key_column()
    type: str = text_column()
    received_at: datetime = instant()


class ErrorReportRow(Row, table=True):
    """Stripe's word that it dropped meter events after it had accepted them.

    `codes` is JSON: {code: count}. `explained`: how many of `error_count` were told by identifier;
    while there are others, everything sent in its window is suspect (`open`).
    """

    __tablename__ = "error_report"
    __table_args__ = (
        one_of("state", ("open", "closed")),
        Index("ix_error_report_window", "account_id", "window_end"),
    )
    account_id: str = key_column("stripe_account.id")
    event_id: str = key_column()
    event_name: str | None = optional_text()
    codes: str = text_column()
    message: str = text_column()
    error_count: int
    explained: int
    window_start: datetime = instant()
    window_end: datetime = instant()
    state: str = text_column()
    received_at: datetime = instant()


class ReconciliationRow(Row, table=True):
    """A difference between ledger and Stripe for one Stripe customer, event name and hour.

    `expected` is what Stripe should have, `observed` what it shows, since `observed_at`.
    `proposal` is `unit` (send `quantity`, signed), `cancel` (the event `identifier`), `reissue`
    (the unit `identifier`), or none.
    """

    __tablename__ = "reconciliation"
    __table_args__ = (
        one_of("classification", ("unsettled", "late", "foreign", "rejected")),
        one_of("state", ("open", "applied", "dismissed", "resolved")),
        Index("ix_reconciliation_slot", "account_id", "stripe_customer_id", "event_name", "hour"),
        Index(
            "ix_reconciliation_open",
            "account_id",
            "stripe_customer_id",
            "event_name",
            "hour",
            unique=True,
            **where("state IN ('open', 'applied', 'dismissed')"),
        ),
    )
    id: int | None = counter()
    organization_id: str = text_column("organization.id", index=True)
    account_id: str = text_column("stripe_account.id")
    stripe_customer_id: str = text_column()
    event_name: str = text_column()
    hour: datetime = instant()
    expected: Decimal = decimal_column()
    observed: Decimal = decimal_column()
    classification: str = text_column()
    reason: str = text_column()
    proposal: str | None = optional_text()
    quantity: Decimal | None = maybe_decimal()
    identifier: str | None = optional_text()
    state: str = text_column()
    first_seen_at: datetime = instant()
    observed_at: datetime = instant()
    checked_at: datetime = instant()


class StripeReadsRow(Row, table=True):
    """How many reads an account's reconciliation took on a UTC day; Stripe allots them."""

    __tablename__ = "stripe_reads"
    account_id: str = key_column("stripe_account.id")
    day: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    reads: int


class StripeWebhookRow(Row, table=True):
    """A webhook endpoint or event destination we made at Stripe; its secret is sealed."""

    __tablename__ = "stripe_webhook"
    id: str = key_column()
    organization_id: str = text_column("organization.id", index=True)
    account_id: str = text_column("stripe_account.id")
    endpoint_id: str = text_column()
    kind: str = text_column()
    """`snapshot` or `thin`."""
    url: str = text_column()
    secret: str = text_column()
    created_at: datetime = instant()


class OauthStateRow(Row, table=True):
    """A connection to Stripe that was begun: whose, by which browser, and until when."""

    __tablename__ = "oauth_state"
    state_hash: str = key_column()
    session_hash: str = text_column()
    organization_id: str = text_column("organization.id")
    created_at: datetime = instant()
    expires_at: datetime = instant()
    used_at: datetime | None = maybe_instant()


class StatementRow(Row, table=True):
    """Where all usage of an event name was at one moment: the parts add up to `metered`, exactly.

    `held` units wait for a person like quarantined ones; they are told apart by why.
    """

    __tablename__ = "statement"
    organization_id: str = key_column("organization.id")
    at: datetime = Field(sa_column=Column(UtcDateTime, primary_key=True))
    event_name: str = key_column()
    metered: Decimal = decimal_column()
    settled: Decimal = decimal_column()
    in_flight: Decimal = decimal_column()
    parked: Decimal = decimal_column()
    quarantined: Decimal = decimal_column()
    held: Decimal = decimal_column()
    written_off: Decimal = decimal_column()


class AuditRow(Row, table=True):
    """Who changed what: never changed itself. `before` and `after` are JSON."""

    __tablename__ = "audit"
    seq: int | None = counter()
    organization_id: str = text_column("organization.id", index=True)
    at: datetime = instant()
    actor: str = text_column()
    action: str = text_column()
    subject: str = text_column()
    before: str | None = optional_text()
    after: str | None = optional_text()
    request_id: str | None = optional_text()
    hash: str | None = optional_text()
    """SHA-256 over the hash of the organization's entry before and this entry; none in entries from
    before there was a chain."""


class AuditHeadRow(Row, table=True):
    """The end of an organization's audit chain: whoever adds to it takes this row first."""

    __tablename__ = "audit_head"
    organization_id: str = key_column("organization.id")
    hash: str = text_column()
    entries: int = Field(sa_column=Column(BIG_ID, nullable=False))
