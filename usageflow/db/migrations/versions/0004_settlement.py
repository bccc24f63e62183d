"""Several Stripe accounts, what Stripe tells, and the settlement of units.

SQLite cannot change a CHECK or a key, so four tables are built anew there; the triggers of `unit`
are made again.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from usageflow.db import exact

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UNIT_STATES = (
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
UNIT_FROZEN = (
    *("id", "organization_id", "lane_id", "hour", "sequence", "kind", "parent_id"),
    *("occurred_at", "identifier"),
)
UNIT_FOLDED = ("quantity", "events")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_on_sqlite()
    else:
        _alter_on_postgresql()
    _indexes()
    _new_tables()
    _triggers()


def _text(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.Text(), nullable=null)


def _instant(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, exact.UtcDateTime(), nullable=null)


def _decimal(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, exact.ExactDecimal(), nullable=null)


def _whole(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.Integer(), nullable=null)


def _id(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, exact.BIG_ID, nullable=null)


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [to], name=op.f(f"fk_{table}_{column}"))


def _one_of(table: str, column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN {values!r}", name=op.f(f"ck_{table}_{column}_known"))


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _account_checks() -> list[sa.CheckConstraint]:
    return [
        _one_of("stripe_account", "kind", ("own", "connect", "cloudevents")),
        _one_of("stripe_account", "state", ("active", "paused", "deauthorized")),
        _one_of("stripe_account", "folding", ("meters", "all")),
    ]


def _unit_checks() -> list[sa.CheckConstraint]:
    return [
        _one_of("unit", "state", UNIT_STATES),
        _one_of("unit", "kind", ("usage", "part", "reissue", "correction")),
    ]


def _rebuild_on_sqlite() -> None:
    for trigger in ("unit_no_update", "unit_no_delete"):
        op.execute(f"DROP TRIGGER {trigger}")
    _rebuild(
        "stripe_account",
        _text("id"),
        _text("organization_id"),
        _text("kind"),
        _text("account"),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        _text("state"),
        _text("reason", null=True),
        _text("folding"),
        _text("secret", null=True),
        _instant("created_at"),
        _instant("clock_at", null=True),
        _instant("polled_at", null=True),
        *_account_checks(),
        _refers("stripe_account", "organization_id", "organization.id"),
        _key("stripe_account", "id"),
        sa.UniqueConstraint(
            *("organization_id", "account", "livemode"),
            name=op.f("uq_stripe_account_organization_id_account_livemode"),
        ),
        new={
            "kind": "'own'",
            "folding": "'meters'",
            **dict.fromkeys(("secret", "clock_at", "polled_at"), "NULL"),
        },
    )
    _rebuild(
        "stripe_customer",
        _text("account_id"),
        _text("field"),
        _text("value"),
        _text("stripe_customer_id"),
        _instant("valid_from"),
        _instant("valid_until", null=True),
        _text("source"),
        _instant("seen_at"),
        _one_of("stripe_customer", "source", ("stripe", "attached")),
        _refers("stripe_customer", "account_id", "stripe_account.id"),
        _key("stripe_customer", "account_id", "field", "value", "stripe_customer_id", "valid_from"),
        new={"valid_from": "0", "valid_until": "NULL", "source": "'stripe'"},
    )
    _rebuild(
        "lane",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _text("account_id"),
        _text("customer_id"),
        _text("event_name"),
        _text("identity_field"),
        _text("identity_value"),
        _text("lease_owner", null=True),
        _instant("leased_until"),
        _instant("blocked_until"),
        _whole("failures"),
        sa.Column("waiting", sa.Boolean(), nullable=False),
        _instant("oldest_at"),
        _decimal("metered"),
        _decimal("settled"),
        _whole("last_sequence"),
        _refers("lane", "organization_id", "organization.id"),
        _refers("lane", "account_id", "stripe_account.id"),
        _refers("lane", "customer_id", "customer.id"),
        _key("lane", "id"),
        sa.UniqueConstraint(
            *("account_id", "customer_id", "event_name"),
            name=op.f("uq_lane_account_id_customer_id_event_name"),
        ),
        new={
            "oldest_at": "leased_until",
            "metered": "COALESCE((SELECT decimal_sum(unit.quantity) FROM unit"
            " WHERE unit.lane_id = lane.id), '0')",
            "settled": "'0'",
            "last_sequence": "COALESCE((SELECT max(unit.sequence) FROM unit"
            " WHERE unit.lane_id = lane.id), 0)",
        },
    )
    _rebuild(
        "unit",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _id("lane_id"),
        _instant("hour"),
        _whole("sequence"),
        _text("kind"),
        _id("parent_id", null=True),
        _instant("occurred_at"),
        _decimal("quantity"),
        _whole("events"),
        _text("state"),
        _text("identifier"),
        _text("stripe_customer_id", null=True),
        _instant("first_attempt_at", null=True),
        _instant("resend_until", null=True),
        _instant("accepted_at", null=True),
        _whole("attempts"),
        _text("reason", null=True),
        _instant("created_at"),
        _instant("updated_at"),
        *_unit_checks(),
        _refers("unit", "organization_id", "organization.id"),
        _refers("unit", "lane_id", "lane.id"),
        _refers("unit", "parent_id", "unit.id"),
        _key("unit", "id"),
        sa.UniqueConstraint(
            "lane_id", "hour", "sequence", name=op.f("uq_unit_lane_id_hour_sequence")
        ),
        sa.UniqueConstraint("identifier", name=op.f("uq_unit_identifier")),
        new={
            "kind": "'usage'",
            "parent_id": "NULL",
            "resend_until": "first_attempt_at",
            "accepted_at": "CASE WHEN state = 'accepted' THEN updated_at END",
        },
    )


def _rebuild(table: str, *parts: Any, new: Mapping[str, str]) -> None:
    """Build a table anew with its rows; `new` tells what its new columns hold."""
    op.create_table(f"new_{table}", *parts)
    names = [part.name for part in parts if isinstance(part, sa.Column)]
    values = ", ".join(new.get(name, name) for name in names)
    op.execute(f"INSERT INTO new_{table} ({', '.join(names)}) SELECT {values} FROM {table}")  # noqa: S608 - names of our own
    op.drop_table(table)
    op.rename_table(f"new_{table}", table)


def _alter_on_postgresql() -> None:
    op.execute("DROP TRIGGER unit_no_update ON unit")
    for table, name in (
        ("stripe_account", "ck_stripe_account_state_known"),
        ("stripe_account", "uq_stripe_account_organization_id_account"),
        ("stripe_customer", "pk_stripe_customer"),
        ("unit", "ck_unit_state_known"),
    ):
        op.drop_constraint(op.f(name), table)
    for table, column, value in (
        ("stripe_account", _text("kind"), "'own'"),
        ("stripe_account", _text("folding"), "'meters'"),
        ("stripe_account", _text("secret", null=True), None),
        ("stripe_account", _instant("clock_at", null=True), None),
        ("stripe_account", _instant("polled_at", null=True), None),
        ("stripe_customer", _instant("valid_from"), "'1970-01-01 00:00:00+00'"),
        ("stripe_customer", _instant("valid_until", null=True), None),
        ("stripe_customer", _text("source"), "'stripe'"),
        ("lane", _instant("oldest_at"), "leased_until"),
        (
            "lane",
            _decimal("metered"),
            "COALESCE((SELECT sum(quantity) FROM unit WHERE lane_id = lane.id), 0)",
        ),
        ("lane", _decimal("settled"), "0"),
        (
            "lane",
            _whole("last_sequence"),
            "COALESCE((SELECT max(sequence) FROM unit WHERE lane_id = lane.id), 0)",
        ),
        ("unit", _text("kind"), "'usage'"),
        ("unit", _id("parent_id", null=True), None),
        ("unit", _instant("resend_until", null=True), "first_attempt_at"),
        (
            "unit",
            _instant("accepted_at", null=True),
            "CASE WHEN state = 'accepted' THEN updated_at END",
        ),
    ):
        _add(table, column, value)
    for table, checks in (
        ("stripe_account", _account_checks()),
        ("stripe_customer", [_one_of("stripe_customer", "source", ("stripe", "attached"))]),
        ("unit", _unit_checks()),
    ):
        for check in checks:
            op.create_check_constraint(op.f(str(check.name)), table, check.sqltext)
    op.create_unique_constraint(
        op.f("uq_stripe_account_organization_id_account_livemode"),
        "stripe_account",
        ["organization_id", "account", "livemode"],
    )
    op.create_primary_key(
        op.f("pk_stripe_customer"),
        "stripe_customer",
        ["account_id", "field", "value", "stripe_customer_id", "valid_from"],
    )
    op.create_foreign_key(op.f("fk_unit_parent_id"), "unit", "unit", ["parent_id"], ["id"])
    for index, table in (
        *(("ix_lane_waiting", "lane"), ("ix_unit_state", "unit")),
        *((f"ix_unit_{name}", "unit") for name in ("open", "undecided", "pending")),
    ):
        op.drop_index(index, table_name=table)


def _add(table: str, column: "sa.Column[Any]", value: str | None) -> None:
    """Add a column, and fill it: before it must not be NULL."""
    required, column.nullable = not column.nullable, True
    op.add_column(table, column)
    if value is not None:
        op.execute(f"UPDATE {table} SET {column.name} = {value}")  # noqa: S608 - names of our own
    if required:
        op.alter_column(table, str(column.name), nullable=False)


def _indexes() -> None:
    undecided = "state IN ('sending', 'ambiguous')"
    unsettled = "state <> 'settled'"
    pending = "state IN ('open', 'sealed', 'sending', 'ambiguous', 'parked')"
    for name, table, columns, where, unique in (
        ("ix_stripe_customer_id", "stripe_customer", ("account_id", "stripe_customer_id"), "", 0),
        ("ix_lane_waiting", "lane", ("account_id", "oldest_at"), "waiting", 0),
        ("ix_lane_identity", "lane", ("account_id", "identity_field", "identity_value"), "", 0),
        ("ix_unit_open", "unit", ("lane_id", "hour"), "state = 'open'", 1),
        ("ix_unit_undecided", "unit", ("lane_id",), undecided, 1),
        ("ix_unit_pending", "unit", ("lane_id", "id"), pending, 0),
        ("ix_unit_accepted", "unit", ("lane_id", "hour"), "state = 'accepted'", 0),
        ("ix_unit_unsettled", "unit", ("organization_id", "state"), unsettled, 0),
        # In this order: of two that serve, SQLite takes the newer, which here is the smaller.
        ("ix_unit_customer_hour", "unit", ("stripe_customer_id", "hour"), "", 0),
        ("ix_unit_customer_unsettled", "unit", ("stripe_customer_id", "hour"), unsettled, 0),
    ):
        options: dict[str, Any] = {}
        if where:
            options = {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)}
        op.create_index(name, table, columns, unique=bool(unique), **options)


def _new_tables() -> None:
    op.create_table(
        "billing_period",
        _text("account_id"),
        _text("stripe_customer_id"),
        _instant("ends_at"),
        _refers("billing_period", "account_id", "stripe_account.id"),
        _key("billing_period", "account_id", "stripe_customer_id", "ends_at"),
    )
    op.create_table(
        "lane_boundary",
        _id("lane_id"),
        _instant("at"),
        _text("reason"),
        _refers("lane_boundary", "lane_id", "lane.id"),
        _key("lane_boundary", "lane_id", "at"),
    )
    op.create_table(
        "stripe_event",
        _text("account_id"),
        _text("event_id"),
        _text("type"),
        _instant("received_at"),
        _refers("stripe_event", "account_id", "stripe_account.id"),
        _key("stripe_event", "account_id", "event_id"),
    )
    op.create_index("ix_stripe_event_received_at", "stripe_event", ["received_at"])
    op.create_table(
        "error_report",
        _text("account_id"),
        _text("event_id"),
        _text("event_name", null=True),
        _text("codes"),
        _text("message"),
        _whole("error_count"),
        _whole("explained"),
        _instant("window_start"),
        _instant("window_end"),
        _text("state"),
        _instant("received_at"),
        _one_of("error_report", "state", ("open", "closed")),
        _refers("error_report", "account_id", "stripe_account.id"),
        _key("error_report", "account_id", "event_id"),
    )
    op.create_index("ix_error_report_window", "error_report", ["account_id", "window_end"])
    op.create_table(
        "reconciliation",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _text("account_id"),
        _text("stripe_customer_id"),
        _text("event_name"),
        _instant("hour"),
        _decimal("expected"),
        _decimal("observed"),
        _text("classification"),
        _text("reason"),
        _text("proposal", null=True),
        _decimal("quantity", null=True),
        _text("identifier", null=True),
        _text("state"),
        _instant("first_seen_at"),
        _instant("observed_at"),
        _instant("checked_at"),
        _one_of("reconciliation", "classification", ("unsettled", "late", "foreign", "rejected")),
        _one_of("reconciliation", "state", ("open", "applied", "dismissed", "resolved")),
        _refers("reconciliation", "organization_id", "organization.id"),
        _refers("reconciliation", "account_id", "stripe_account.id"),
        _key("reconciliation", "id"),
    )
    op.create_index(
        op.f("ix_reconciliation_organization_id"), "reconciliation", ["organization_id"]
    )
    op.create_index(
        "ix_reconciliation_slot",
        "reconciliation",
        ["account_id", "stripe_customer_id", "event_name", "hour"],
    )
    unresolved = sa.text("state IN ('open', 'applied', 'dismissed')")
    op.create_index(
        "ix_reconciliation_open",
        "reconciliation",
        ["account_id", "stripe_customer_id", "event_name", "hour"],
        unique=True,
        sqlite_where=unresolved,
        postgresql_where=unresolved,
    )
    op.create_table(
        "stripe_reads",
        _text("account_id"),
        _instant("day"),
        _whole("reads"),
        _refers("stripe_reads", "account_id", "stripe_account.id"),
        _key("stripe_reads", "account_id", "day"),
    )
    op.create_table(
        "stripe_webhook",
        _text("id"),
        _text("organization_id"),
        _text("account_id"),
        _text("endpoint_id"),
        _text("kind"),
        _text("url"),
        _text("secret"),
        _instant("created_at"),
        _refers("stripe_webhook", "organization_id", "organization.id"),
        _refers("stripe_webhook", "account_id", "stripe_account.id"),
        _key("stripe_webhook", "id"),
    )
    op.create_index(
        op.f("ix_stripe_webhook_organization_id"), "stripe_webhook", ["organization_id"]
    )
    op.create_table(
        "oauth_state",
        _text("state_hash"),
        _text("session_hash"),
        _text("organization_id"),
        _instant("created_at"),
        _instant("expires_at"),
        _instant("used_at", null=True),
        _refers("oauth_state", "organization_id", "organization.id"),
        _key("oauth_state", "state_hash"),
    )
    op.create_table(
        "statement",
        _text("organization_id"),
        _instant("at"),
        _text("event_name"),
        *(
            _decimal(part)
            for part in (
                *("metered", "settled", "in_flight", "parked"),
                *("quarantined", "held", "written_off"),
            )
        ),
        _refers("statement", "organization_id", "organization.id"),
        _key("statement", "organization_id", "at", "event_name"),
    )
    op.create_table(
        "audit",
        sa.Column("seq", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _instant("at"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _text("before", null=True),
        _text("after", null=True),
        _refers("audit", "organization_id", "organization.id"),
        _key("audit", "seq"),
    )
    op.create_index(op.f("ix_audit_organization_id"), "audit", ["organization_id"])


def _triggers() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    differs = "IS NOT" if sqlite else "IS DISTINCT FROM"

    def changed(*columns: str) -> str:
        return " OR ".join(f"OLD.{column} {differs} NEW.{column}" for column in columns)

    refused = (
        f"{changed(*UNIT_FROZEN)} OR (OLD.state <> 'open' AND ({changed(*UNIT_FOLDED)}))"
        f" OR (OLD.stripe_customer_id IS NOT NULL AND {changed('stripe_customer_id')})"
    )
    message = "the payload of a sealed unit never changes"
    if sqlite:
        refuse = f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        forever = "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        statements = [
            f"CREATE TRIGGER unit_no_update BEFORE UPDATE ON unit WHEN {refused} {refuse}",
            f"CREATE TRIGGER unit_no_delete BEFORE DELETE ON unit {refuse}",
            f"CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit {forever}",
            f"CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit {forever}",
        ]
    else:
        refuse = f"EXECUTE FUNCTION refuse_change('{message}')"
        forever = "EXECUTE FUNCTION refuse_change('the audit log is append-only')"
        statements = [
            "CREATE TRIGGER unit_no_update BEFORE UPDATE ON unit"
            f" FOR EACH ROW WHEN ({refused}) {refuse}",
            f"CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit FOR EACH ROW {forever}",
            f"CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit FOR EACH ROW {forever}",
            f"CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit {forever}",
        ]
    for statement in statements:
        op.execute(statement)
