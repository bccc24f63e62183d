"""The whole first schema: tables, and the triggers that make the ledger append-only.

A later revision that rebuilds `usage_event` or `unit` on SQLite must create their triggers again:
rebuilding a table drops them.
"""

import uuid

import sqlalchemy as sa
from alembic import op

from usageflow.db import exact

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

EVENT_FROZEN = (
    "seq",
    "organization_id",
    "id",
    "metric",
    "occurred_at",
    "received_at",
    "identity_field",
    "identity_value",
    "policy",
    "policy_version",
    "event_name",
    "request_method",
    "request_route",
    "request_status",
    "fingerprint",
)
"""What never changes in a usage event."""
EVENT_RELEASED = ("customer_id", "quantity", "state", "reason")
"""What the release of an event from the inbox fills in."""
UNIT_FROZEN = ("id", "organization_id", "lane_id", "hour", "sequence", "occurred_at", "identifier")
"""What never changes in a unit."""
UNIT_FOLDED = ("quantity", "events")
"""What changes in a unit only while it is open."""


def upgrade() -> None:
    _create_tables()
    op.execute(
        sa.text("INSERT INTO installation (id) VALUES (:id)").bindparams(id=str(uuid.uuid4()))
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _sqlite_triggers() if sqlite else _postgresql_triggers():
        op.execute(statement)


def _changed(columns: tuple[str, ...], differs: str) -> str:
    return "(" + " OR ".join(f"OLD.{column} {differs} NEW.{column}" for column in columns) + ")"


def _rules(differs: str) -> list[tuple[str, str, str]]:
    """(table, condition of a refused UPDATE, message)."""
    return [
        (
            "usage_event",
            f"{_changed(EVENT_FROZEN, differs)}"
            f" OR (OLD.unit_id IS NOT NULL AND {_changed(('unit_id',), differs)})"
            f" OR (OLD.state <> 'inbox' AND {_changed(EVENT_RELEASED, differs)})",
            "usage events are append-only",
        ),
        (
            "unit",
            f"{_changed(UNIT_FROZEN, differs)}"
            f" OR (OLD.state <> 'open' AND {_changed(UNIT_FOLDED, differs)})"
            f" OR (OLD.stripe_customer_id IS NOT NULL"
            f" AND {_changed(('stripe_customer_id',), differs)})",
            "the payload of a sealed unit never changes",
        ),
    ]


def _sqlite_triggers() -> list[str]:
    statements = []
    for table, refused, message in _rules("IS NOT"):
        refuse = f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        statements += [
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} WHEN {refused} {refuse}",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
        ]
    return statements


def _postgresql_triggers() -> list[str]:
    statements = [
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'integrity_constraint_violation';"
        " END $$"
    ]
    for table, refused, message in _rules("IS DISTINCT FROM"):
        refuse = f"EXECUTE FUNCTION refuse_change('{message}')"
        statements += [
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}"
            f" FOR EACH ROW WHEN ({refused}) {refuse}",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} FOR EACH ROW {refuse}",
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} {refuse}",
        ]
    return statements


def _create_tables() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "organization",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organization")),
        sa.UniqueConstraint("name", name=op.f("uq_organization_name")),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.Column("revoked_at", exact.UtcDateTime(), nullable=True),
        sa.Column("last_used_at", exact.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_api_key_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_key_key_hash")),
    )
    op.create_index(
        op.f("ix_api_key_organization_id"), "api_key", ["organization_id"], unique=False
    )
    op.create_table(
        "customer",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_customer_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customer")),
        sa.UniqueConstraint(
            "organization_id", "external_id", name=op.f("uq_customer_organization_id_external_id")
        ),
    )
    op.create_table(
        "ingest_rejection",
        sa.Column("seq", exact.BIG_ID, autoincrement=True, nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("received_at", exact.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_ingest_rejection_organization_id"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_ingest_rejection")),
        sa.UniqueConstraint(
            "organization_id", "digest", name=op.f("uq_ingest_rejection_organization_id_digest")
        ),
    )
    op.create_table(
        "metric",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("aggregation", sa.Text(), nullable=False),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.CheckConstraint("aggregation = 'SUM'", name=op.f("ck_metric_aggregation_known")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_metric_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "key", name=op.f("pk_metric")),
    )
    op.create_table(
        "policy",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_policy_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "name", "version", name=op.f("pk_policy")),
    )
    op.create_table(
        "stripe_account",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'paused')", name=op.f("ck_stripe_account_state_known")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_stripe_account_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stripe_account")),
        sa.UniqueConstraint(
            "organization_id", "account", name=op.f("uq_stripe_account_organization_id_account")
        ),
    )
    op.create_table(
        "customer_identity",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_customer_identity_customer_id")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_customer_identity_organization_id"),
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "field", "value", name=op.f("pk_customer_identity")
        ),
    )
    op.create_index(
        op.f("ix_customer_identity_customer_id"), "customer_identity", ["customer_id"], unique=False
    )
    op.create_table(
        "lane",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("event_name", sa.Text(), nullable=False),
        sa.Column("identity_field", sa.Text(), nullable=False),
        sa.Column("identity_value", sa.Text(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("leased_until", exact.UtcDateTime(), nullable=False),
        sa.Column("blocked_until", exact.UtcDateTime(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("waiting", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["stripe_account.id"], name=op.f("fk_lane_account_id")
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["customer.id"], name=op.f("fk_lane_customer_id")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_lane_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lane")),
        sa.UniqueConstraint(
            "account_id",
            "customer_id",
            "event_name",
            name=op.f("uq_lane_account_id_customer_id_event_name"),
        ),
    )
    op.create_index(
        "ix_lane_waiting",
        "lane",
        ["account_id", "waiting", "leased_until"],
        unique=False,
    )
    op.create_table(
        "stripe_customer",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=False),
        sa.Column("seen_at", exact.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["stripe_account.id"], name=op.f("fk_stripe_customer_account_id")
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "field", "value", "stripe_customer_id", name=op.f("pk_stripe_customer")
        ),
    )
    op.create_table(
        "stripe_meter",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("event_name", sa.Text(), nullable=False),
        sa.Column("meter_id", sa.Text(), nullable=False),
        sa.Column("formula", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("event_time_window", sa.Text(), nullable=True),
        sa.Column("refreshed_at", exact.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["stripe_account.id"], name=op.f("fk_stripe_meter_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "event_name", name=op.f("pk_stripe_meter")),
    )
    op.create_table(
        "usage_window",
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("hour", exact.UtcDateTime(), nullable=False),
        sa.Column("total", exact.ExactDecimal(), nullable=False),
        sa.Column("events", exact.BIG_ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_usage_window_customer_id")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_usage_window_organization_id")
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "customer_id", "metric", "hour", name=op.f("pk_usage_window")
        ),
    )
    op.create_table(
        "unit",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("lane_id", exact.BIG_ID, nullable=False),
        sa.Column("hour", exact.UtcDateTime(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("occurred_at", exact.UtcDateTime(), nullable=False),
        sa.Column("quantity", exact.ExactDecimal(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=True),
        sa.Column("first_attempt_at", exact.UtcDateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", exact.UtcDateTime(), nullable=False),
        sa.Column("updated_at", exact.UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "state IN ('open', 'sealed', 'sending', 'accepted', 'settled', 'ambiguous', 'parked', 'quarantined', 'held')",
            name=op.f("ck_unit_state_known"),
        ),
        sa.ForeignKeyConstraint(["lane_id"], ["lane.id"], name=op.f("fk_unit_lane_id")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_unit_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_unit")),
        sa.UniqueConstraint("identifier", name=op.f("uq_unit_identifier")),
        sa.UniqueConstraint(
            "lane_id", "hour", "sequence", name=op.f("uq_unit_lane_id_hour_sequence")
        ),
    )
    op.create_index(
        "ix_unit_open",
        "unit",
        ["lane_id", "hour"],
        unique=True,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "ix_unit_pending",
        "unit",
        ["lane_id", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('open', 'sealed', 'sending', 'ambiguous', 'parked')"),
        postgresql_where=sa.text("state IN ('open', 'sealed', 'sending', 'ambiguous', 'parked')"),
    )
    op.create_index("ix_unit_state", "unit", ["organization_id", "state"], unique=False)
    op.create_index(
        "ix_unit_undecided",
        "unit",
        ["lane_id"],
        unique=True,
        sqlite_where=sa.text("state IN ('sending', 'ambiguous')"),
        postgresql_where=sa.text("state IN ('sending', 'ambiguous')"),
    )
    op.create_table(
        "usage_event",
        sa.Column("seq", exact.BIG_ID, autoincrement=True, nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("quantity", exact.ExactDecimal(), nullable=True),
        sa.Column("occurred_at", exact.UtcDateTime(), nullable=False),
        sa.Column("received_at", exact.UtcDateTime(), nullable=False),
        sa.Column("identity_field", sa.Text(), nullable=False),
        sa.Column("identity_value", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.Text(), nullable=False),
        sa.Column("event_name", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request_method", sa.Text(), nullable=False),
        sa.Column("request_route", sa.Text(), nullable=False),
        sa.Column("request_status", sa.Integer(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("unit_id", exact.BIG_ID, nullable=True),
        sa.CheckConstraint(
            "state <> 'counted' OR (quantity IS NOT NULL AND customer_id IS NOT NULL)",
            name=op.f("ck_usage_event_counted_complete"),
        ),
        sa.CheckConstraint(
            "state IN ('counted', 'inbox', 'shadow', 'skipped', 'gap')",
            name=op.f("ck_usage_event_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customer.id"], name=op.f("fk_usage_event_customer_id")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_usage_event_organization_id")
        ),
        sa.ForeignKeyConstraint(["unit_id"], ["unit.id"], name=op.f("fk_usage_event_unit_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_usage_event")),
        sa.UniqueConstraint(
            "organization_id", "id", name=op.f("uq_usage_event_organization_id_id")
        ),
    )
    op.create_index(
        "ix_usage_event_customer_metric_time",
        "usage_event",
        ["organization_id", "customer_id", "metric", "occurred_at"],
        unique=False,
    )
    op.create_index(
        "ix_usage_event_inbox",
        "usage_event",
        ["organization_id", "seq"],
        unique=False,
        sqlite_where=sa.text("state IN ('inbox', 'gap')"),
        postgresql_where=sa.text("state IN ('inbox', 'gap')"),
    )
    op.create_index(
        "ix_usage_event_unassigned",
        "usage_event",
        ["organization_id", "seq"],
        unique=False,
        sqlite_where=sa.text("event_name IS NOT NULL AND unit_id IS NULL AND state = 'counted'"),
        postgresql_where=sa.text(
            "event_name IS NOT NULL AND unit_id IS NULL AND state = 'counted'"
        ),
    )
    op.create_index(
        "ix_usage_event_unit_id",
        "usage_event",
        ["unit_id"],
        unique=False,
        sqlite_where=sa.text("unit_id IS NOT NULL"),
        postgresql_where=sa.text("unit_id IS NOT NULL"),
    )
