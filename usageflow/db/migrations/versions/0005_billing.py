"""People, plans, subscriptions, invoices, and what is told to others; windows of every aggregation.

Three small tables are made anew from their rows, and the windows from the events, since neither
database can tell a maximum from a sum.
"""

import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

from usageflow.db import exact

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

EVENT_FROZEN = (
    *("seq", "organization_id", "id", "metric", "occurred_at", "received_at"),
    *("identity_field", "identity_value", "policy", "policy_version", "event_name"),
    *("request_method", "request_route", "request_status", "fingerprint"),
    *("idempotency_key", "metadata", "unique_value"),
)
EVENT_RELEASED = ("customer_id", "quantity", "state", "reason")
INVOICE_ISSUED = (
    *("id", "organization_id", "customer_id", "subscription_id", "kind", "collect", "number"),
    *("currency", "period_start", "period_end", "plan_id", "plan_version", "watermark", "subtotal"),
    *("tax_percent", "tax", "total", "memo", "bill_to", "bill_from", "issued_at", "due_at"),
    "created_at",
)
"""What never changes in an invoice once it is issued."""


def upgrade() -> None:
    members, metrics = _rows("member"), _rows("metric")
    for table in ("member", "metric", "usage_window"):
        op.drop_table(table)
    _new_columns()
    _new_tables()
    _people(members)
    _metrics(metrics)
    _windows()
    for statement in _triggers():
        op.execute(statement)


def _text(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.Text(), nullable=null)


def _instant(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, exact.UtcDateTime(), nullable=null)


def _decimal(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, exact.ExactDecimal(), nullable=null)


def _whole(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.Integer(), nullable=null)


def _big(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _id(name: str, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, exact.BIG_ID, nullable=null)


def _switch(name: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.Boolean(), nullable=False)


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [to], name=op.f(f"fk_{table}_{column}"))


def _one_of(table: str, column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN {values!r}", name=op.f(f"ck_{table}_{column}_known"))


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _reflected(table: str) -> sa.Table:
    return sa.Table(table, sa.MetaData(), autoload_with=op.get_bind())


def _rows(table: str) -> list[dict[str, Any]]:
    result = op.get_bind().execute(sa.text(f"SELECT * FROM {table}"))  # noqa: S608 - names of our own
    return [dict(row) for row in result.mappings()]


def _insert(table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        op.get_bind().execute(_reflected(table).insert(), rows)


def _new_columns() -> None:
    for table, column in (
        ("organization", _text("settings", null=True)),
        ("api_key", _instant("expires_at", null=True)),
        ("customer", _text("name", null=True)),
        ("customer", _text("email", null=True)),
        ("customer", _text("phone", null=True)),
        ("customer", _text("address", null=True)),
        ("customer", _decimal("tax_percent", null=True)),
        ("customer", _text("stripe_customer_id", null=True)),
        ("customer", _text("metadata", null=True)),
        ("customer", _instant("archived_at", null=True)),
        ("usage_event", _text("idempotency_key", null=True)),
        ("usage_event", _text("metadata", null=True)),
        ("usage_event", _text("unique_value", null=True)),
        ("audit", _text("request_id", null=True)),
        ("audit", _text("hash", null=True)),
    ):
        op.add_column(table, column)


def _people(members: list[dict[str, Any]]) -> None:
    """An address may be a member of several organizations: the oldest password stays."""
    people: dict[str, dict[str, Any]] = {}
    for row in sorted(members, key=lambda row: row["created_at"]):
        people.setdefault(
            row["email"],
            {
                "id": str(uuid.uuid4()),
                **{name: row[name] for name in ("email", "password_hash", "created_at")},
            },
        )
    _insert("person", list(people.values()))
    kept = ("id", "organization_id", "role", "created_at")
    _insert(
        "member",
        [
            {**{name: row[name] for name in kept}, "person_id": people[row["email"]]["id"]}
            for row in members
        ],
    )


def _metrics(metrics: list[dict[str, Any]]) -> None:
    new = {"property": None, "filters": "[]", "description": ""}
    _insert(
        "metric",
        [row | new | {"id": str(uuid.uuid4()), "token": str(uuid.uuid4())} for row in metrics],
    )


def _windows() -> None:
    """Fold the events once more, in the order of the ledger."""
    columns = (
        *("organization_id", "customer_id", "metric", "seq"),
        *("quantity", "occurred_at", "event_name"),
    )
    kinds: dict[str, Any] = {
        "quantity": exact.ExactDecimal(),
        "occurred_at": exact.UtcDateTime(),
    }
    events = sa.table("usage_event", *(sa.column(name, kinds.get(name)) for name in columns))
    state: sa.ColumnClause[str] = sa.column("state")
    found = op.get_bind().execute(
        sa.select(*events.c, exact.utc_hour(events.c.occurred_at).label("hour"))
        .where(state == "counted")
        .order_by(events.c.seq)
        .execution_options(yield_per=5_000)
    )
    windows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in found:
        key = (row.organization_id, row.customer_id, row.metric, row.hour)
        forwarded = row.quantity if row.event_name is not None else row.quantity * 0
        window = windows.setdefault(
            key,
            {
                **dict(zip(("organization_id", "customer_id", "metric", "hour"), key, strict=True)),
                "total": row.quantity * 0,
                "events": 0,
                "maximum": row.quantity,
                "last": row.quantity,
                "last_at": row.occurred_at,
                "last_seq": row.seq,
                "changed_at": row.occurred_at,
                "forwarded": row.quantity * 0,
            },
        )
        window["total"] = exact.add(window["total"], row.quantity)
        window["forwarded"] = exact.add(window["forwarded"], forwarded)
        window["events"] += 1
        window["maximum"] = max(window["maximum"], row.quantity)
        if row.occurred_at >= window["last_at"]:
            window |= {"last": row.quantity, "last_at": row.occurred_at, "last_seq": row.seq}
    if windows:
        kinds = {
            **dict.fromkeys(("total", "maximum", "last", "forwarded"), exact.ExactDecimal()),
            **dict.fromkeys(("hour", "last_at", "changed_at"), exact.UtcDateTime()),
        }
        names = next(iter(windows.values()))
        target = sa.table("usage_window", *(sa.column(name, kinds.get(name)) for name in names))
        op.get_bind().execute(target.insert(), list(windows.values()))


def _triggers() -> list[str]:
    """What may not be changed: see `tables` and `billing_tables`."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    differs = "IS NOT" if sqlite else "IS DISTINCT FROM"

    def changed(*columns: str) -> str:
        return "(" + " OR ".join(f"OLD.{name} {differs} NEW.{name}" for name in columns) + ")"

    event = (
        f"{changed(*EVENT_FROZEN)} OR (OLD.unit_id IS NOT NULL AND {changed('unit_id')})"
        f" OR (OLD.state <> 'inbox' AND {changed(*EVENT_RELEASED)})"
    )
    invoice = f"OLD.state <> 'DRAFT' AND ({changed(*INVOICE_ISSUED)} OR NEW.state = 'DRAFT')"
    issued = "EXISTS (SELECT 1 FROM invoice WHERE id IN ({}) AND state <> 'DRAFT')"
    rules = [
        ("usage_event", "update", event, "usage events are append-only"),
        ("invoice", "update", invoice, "an issued invoice never changes"),
        ("invoice", "delete", "OLD.state <> 'DRAFT'", "an issued invoice never changes"),
        # what is subscribed to, foreign keys keep; a plan nobody ever took may go
        ("plan_version", "update", "TRUE", "plan versions never change"),
        ("credit_note", "update", "TRUE", "credit notes never change"),
        ("credit_note", "delete", "TRUE", "credit notes never change"),
    ]
    lines = [
        ("insert", "NEW.invoice_id"),
        ("update", "OLD.invoice_id, NEW.invoice_id"),
        ("delete", "OLD.invoice_id"),
    ]
    message = "an issued invoice never changes"
    if sqlite:
        return [
            "DROP TRIGGER usage_event_no_update",
            *(
                f"CREATE TRIGGER {table}_no_{act} BEFORE {act.upper()} ON {table} WHEN {refused}"
                f" BEGIN SELECT RAISE(ABORT, '{words}'); END"
                for table, act, refused, words in rules
            ),
            *(
                f"CREATE TRIGGER invoice_line_no_{act} BEFORE {act.upper()} ON invoice_line"
                f" WHEN {issued.format(ids)} BEGIN SELECT RAISE(ABORT, '{message}'); END"
                for act, ids in lines
            ),
        ]
    return [
        "DROP TRIGGER usage_event_no_update ON usage_event",
        *(
            f"CREATE TRIGGER {table}_no_{act} BEFORE {act.upper()} ON {table} FOR EACH ROW"
            f" WHEN ({refused}) EXECUTE FUNCTION refuse_change('{words}')"
            for table, act, refused, words in rules
        ),
        *(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}"
            f" EXECUTE FUNCTION refuse_change('{message}')"
            for table in ("invoice", "invoice_line", "plan_version", "credit_note")
        ),
        # PostgreSQL allows no query in the condition of a trigger
        "CREATE FUNCTION refuse_issued() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {issued.format('OLD.invoice_id, NEW.invoice_id')} THEN"
        f" RAISE EXCEPTION USING MESSAGE = '{message}',"
        " ERRCODE = 'integrity_constraint_violation';"
        " END IF; RETURN COALESCE(NEW, OLD); END $$",
        *(
            f"CREATE TRIGGER invoice_line_no_{act} BEFORE {act.upper()} ON invoice_line"
            " FOR EACH ROW EXECUTE FUNCTION refuse_issued()"
            for act, _ in lines
        ),
    ]


def _new_tables() -> None:
    op.create_table(
        "metric",
        _text("organization_id"),
        _text("key"),
        _text("id"),
        _text("token"),
        _text("name"),
        _text("unit"),
        _text("aggregation"),
        _text("property", null=True),
        _text("filters"),
        _text("description"),
        _instant("created_at"),
        _one_of("metric", "aggregation", ("SUM", "COUNT", "MAX", "UNIQUE_COUNT", "LAST")),
        _refers("metric", "organization_id", "organization.id"),
        _key("metric", "organization_id", "key"),
        sa.UniqueConstraint("id", name=op.f("uq_metric_id")),
        sa.UniqueConstraint("token", name=op.f("uq_metric_token")),
    )
    op.create_table(
        "usage_window",
        _text("organization_id"),
        _text("customer_id"),
        _text("metric"),
        _instant("hour"),
        _decimal("total"),
        _id("events"),
        _decimal("maximum"),
        _decimal("last"),
        _instant("last_at"),
        _id("last_seq"),
        _instant("changed_at"),
        _decimal("forwarded"),
        _refers("usage_window", "customer_id", "customer.id"),
        _refers("usage_window", "organization_id", "organization.id"),
        _key("usage_window", "organization_id", "customer_id", "metric", "hour"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "person",
        _text("id"),
        _text("email"),
        _text("password_hash"),
        _instant("created_at"),
        _key("person", "id"),
        sa.UniqueConstraint("email", name=op.f("uq_person_email")),
    )
    op.create_table(
        "member",
        _text("id"),
        _text("organization_id"),
        _text("person_id"),
        _text("role"),
        _instant("created_at"),
        _one_of("member", "role", ("OWNER", "ADMIN", "DEVELOPER", "VIEWER")),
        _refers("member", "organization_id", "organization.id"),
        _refers("member", "person_id", "person.id"),
        _key("member", "id"),
        sa.UniqueConstraint(
            "organization_id", "person_id", name=op.f("uq_member_organization_id_person_id")
        ),
    )
    op.create_index("ix_member_person_id", "member", ["person_id"])
    op.create_table(
        "audit_head",
        _text("organization_id"),
        _text("hash"),
        _id("entries"),
        _refers("audit_head", "organization_id", "organization.id"),
        _key("audit_head", "organization_id"),
    )
    op.create_table(
        "feature",
        _text("id"),
        _text("organization_id"),
        _text("lookup_key"),
        _text("name"),
        _text("type"),
        _text("description"),
        _text("metric", null=True),
        _instant("created_at"),
        _instant("archived_at", null=True),
        _one_of("feature", "type", ("meter", "switch", "custom")),
        _refers("feature", "organization_id", "organization.id"),
        _key("feature", "id"),
        sa.UniqueConstraint(
            "organization_id", "lookup_key", name=op.f("uq_feature_organization_id_lookup_key")
        ),
    )
    op.create_table(
        "invitation",
        _text("id"),
        _text("organization_id"),
        _text("email"),
        _text("role"),
        _text("token_hash"),
        _text("invited_by"),
        _instant("created_at"),
        _instant("expires_at"),
        _instant("accepted_at", null=True),
        _instant("revoked_at", null=True),
        _one_of("invitation", "role", ("OWNER", "ADMIN", "DEVELOPER", "VIEWER")),
        _refers("invitation", "organization_id", "organization.id"),
        _key("invitation", "id"),
        sa.UniqueConstraint("token_hash", name=op.f("uq_invitation_token_hash")),
    )
    op.create_index(
        "ix_invitation_open",
        "invitation",
        ["organization_id", "email"],
        unique=True,
        **_where("accepted_at IS NULL AND revoked_at IS NULL"),
    )
    op.create_table(
        "mail",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _text("recipient"),
        _text("subject"),
        _text("text"),
        _text("invoice_id", null=True),
        _text("state"),
        _whole("attempts"),
        _instant("next_at"),
        _text("lease_owner", null=True),
        _instant("leased_until", null=True),
        _text("error", null=True),
        _instant("created_at"),
        _instant("sent_at", null=True),
        _one_of("mail", "state", ("waiting", "sent", "failed")),
        _refers("mail", "organization_id", "organization.id"),
        _key("mail", "id"),
    )
    op.create_index("ix_mail_organization", "mail", ["organization_id", "id"])
    op.create_index("ix_mail_waiting", "mail", ["next_at"], **_where("state = 'waiting'"))
    op.create_table(
        "number_series",
        _text("organization_id"),
        _text("series"),
        _whole("year"),
        _whole("last"),
        _refers("number_series", "organization_id", "organization.id"),
        _key("number_series", "organization_id", "series", "year"),
    )
    op.create_table(
        "plan",
        _text("id"),
        _text("organization_id"),
        _text("lookup_id"),
        _text("name"),
        _text("description"),
        _switch("is_active"),
        _whole("version"),
        _instant("created_at"),
        _instant("updated_at"),
        _refers("plan", "organization_id", "organization.id"),
        _key("plan", "id"),
        sa.UniqueConstraint(
            "organization_id", "lookup_id", name=op.f("uq_plan_organization_id_lookup_id")
        ),
    )
    op.create_table(
        "session",
        _text("id"),
        _text("person_id"),
        _text("organization_id"),
        _text("access_hash"),
        _instant("access_expires_at"),
        _text("refresh_hash"),
        _text("refresh_used_hash", null=True),
        _instant("refresh_expires_at"),
        _instant("created_at"),
        _instant("last_used_at"),
        _text("address"),
        _text("user_agent"),
        _instant("revoked_at", null=True),
        _refers("session", "organization_id", "organization.id"),
        _refers("session", "person_id", "person.id"),
        _key("session", "id"),
        sa.UniqueConstraint("access_hash", name=op.f("uq_session_access_hash")),
        sa.UniqueConstraint("refresh_hash", name=op.f("uq_session_refresh_hash")),
    )
    op.create_index("ix_session_person_id", "session", ["person_id"])
    op.create_index("ix_session_refresh_used_hash", "session", ["refresh_used_hash"])
    op.create_table(
        "smtp",
        _text("id"),
        _text("organization_id"),
        _text("host"),
        _whole("port"),
        _text("security"),
        _text("username", null=True),
        _text("secret", null=True),
        _text("sender"),
        _instant("updated_at"),
        _refers("smtp", "organization_id", "organization.id"),
        _key("smtp", "id"),
        sa.UniqueConstraint("organization_id", name=op.f("uq_smtp_organization_id")),
    )
    op.create_table(
        "webhook_endpoint",
        _text("id"),
        _text("organization_id"),
        _text("url"),
        _text("types"),
        _text("description"),
        _switch("enabled"),
        _text("secret"),
        _text("previous_secret", null=True),
        _instant("previous_until", null=True),
        _text("disabled_reason", null=True),
        _text("lease_owner", null=True),
        _instant("leased_until"),
        _instant("blocked_until"),
        _instant("created_at"),
        _instant("updated_at"),
        _instant("deleted_at", null=True),
        _instant("failing_since", null=True),
        _refers("webhook_endpoint", "organization_id", "organization.id"),
        _key("webhook_endpoint", "id"),
    )
    op.create_index("ix_webhook_endpoint_organization_id", "webhook_endpoint", ["organization_id"])
    op.create_table(
        "webhook_event",
        sa.Column("seq", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("id"),
        _text("organization_id"),
        _text("type"),
        _text("body"),
        _instant("created_at"),
        _text("endpoint_id", null=True),
        _instant("fanned_out_at", null=True),
        _refers("webhook_event", "organization_id", "organization.id"),
        _key("webhook_event", "seq"),
        sa.UniqueConstraint("id", name=op.f("uq_webhook_event_id")),
    )
    op.create_index("ix_webhook_event_organization", "webhook_event", ["organization_id", "seq"])
    op.create_index(
        "ix_webhook_event_unsent", "webhook_event", ["seq"], **_where("fanned_out_at IS NULL")
    )
    op.create_table(
        "plan_version",
        _text("plan_id"),
        _whole("version"),
        _text("organization_id"),
        _text("document"),
        _instant("created_at"),
        _refers("plan_version", "organization_id", "organization.id"),
        _refers("plan_version", "plan_id", "plan.id"),
        _key("plan_version", "plan_id", "version"),
    )
    op.create_table(
        "portal_link",
        _text("token_hash"),
        _text("organization_id"),
        _text("customer_id"),
        _instant("created_at"),
        _instant("expires_at"),
        _instant("revoked_at", null=True),
        _refers("portal_link", "customer_id", "customer.id"),
        _refers("portal_link", "organization_id", "organization.id"),
        _key("portal_link", "token_hash"),
    )
    op.create_index("ix_portal_link_customer_id", "portal_link", ["customer_id"])
    op.create_table(
        "usage_value",
        _text("organization_id"),
        _text("customer_id"),
        _text("metric"),
        _instant("hour"),
        _text("value"),
        _id("events"),
        _refers("usage_value", "customer_id", "customer.id"),
        _refers("usage_value", "organization_id", "organization.id"),
        _key("usage_value", "organization_id", "customer_id", "metric", "hour", "value"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("seq", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _text("endpoint_id"),
        _id("event_seq"),
        _whole("replay"),
        _text("state"),
        _whole("attempts"),
        _instant("first_attempt_at", null=True),
        _instant("next_at"),
        _whole("last_status", null=True),
        _text("last_error", null=True),
        _instant("created_at"),
        _instant("ended_at", null=True),
        _one_of("webhook_delivery", "state", ("pending", "delivered", "failed", "cancelled")),
        _refers("webhook_delivery", "endpoint_id", "webhook_endpoint.id"),
        _refers("webhook_delivery", "event_seq", "webhook_event.seq"),
        _refers("webhook_delivery", "organization_id", "organization.id"),
        _key("webhook_delivery", "seq"),
        sa.UniqueConstraint(
            "endpoint_id",
            "event_seq",
            "replay",
            name=op.f("uq_webhook_delivery_endpoint_id_event_seq_replay"),
        ),
    )
    op.create_index(
        "ix_webhook_delivery_organization", "webhook_delivery", ["organization_id", "seq"]
    )
    op.create_index(
        "ix_webhook_delivery_pending",
        "webhook_delivery",
        ["endpoint_id", "seq"],
        **_where("state = 'pending'"),
    )
    op.create_table(
        "subscription",
        _text("id"),
        _text("organization_id"),
        _text("customer_id"),
        _text("plan_id"),
        _whole("plan_version"),
        _text("state"),
        _text("time_zone"),
        _instant("anchor_at"),
        _whole("period_index"),
        _instant("period_start"),
        _instant("period_end"),
        _instant("trial_end", null=True),
        _instant("due_at", null=True),
        _switch("cancel_at_period_end"),
        _instant("canceled_at", null=True),
        _text("cancel_reason", null=True),
        _instant("ended_at", null=True),
        _instant("paused_at", null=True),
        _instant("past_due_at", null=True),
        _text("next_plan_id", null=True),
        _whole("next_plan_version", null=True),
        _instant("billed_at", null=True),
        _instant("created_at"),
        _instant("updated_at"),
        _one_of(
            "subscription",
            "state",
            ("TRIAL", "ACTIVE", "PAST_DUE", "PAUSED", "SUSPENDED", "CANCELLED"),
        ),
        _refers("subscription", "customer_id", "customer.id"),
        _refers("subscription", "organization_id", "organization.id"),
        sa.ForeignKeyConstraint(
            ["plan_id", "plan_version"],
            ["plan_version.plan_id", "plan_version.version"],
            name=op.f("fk_subscription_plan_id_plan_version"),
        ),
        _key("subscription", "id"),
    )
    op.create_index(
        "ix_subscription_current",
        "subscription",
        ["customer_id", "plan_id"],
        unique=True,
        **_where("state <> 'CANCELLED'"),
    )
    op.create_index("ix_subscription_customer", "subscription", ["organization_id", "customer_id"])
    op.create_index(
        "ix_subscription_due", "subscription", ["due_at"], **_where("due_at IS NOT NULL")
    )
    op.create_table(
        "webhook_attempt",
        _id("delivery_seq"),
        _whole("number"),
        _text("organization_id"),
        _instant("at"),
        _whole("status", null=True),
        _text("error", null=True),
        _whole("duration_ms"),
        _text("answer"),
        _refers("webhook_attempt", "delivery_seq", "webhook_delivery.seq"),
        _refers("webhook_attempt", "organization_id", "organization.id"),
        _key("webhook_attempt", "delivery_seq", "number"),
    )
    op.create_table(
        "invoice",
        _text("id"),
        _text("organization_id"),
        _text("customer_id"),
        _text("subscription_id", null=True),
        _text("kind"),
        _text("state"),
        _text("collect"),
        _text("payment_method"),
        _text("number", null=True),
        _text("currency"),
        _instant("period_start", null=True),
        _instant("period_end", null=True),
        _text("plan_id", null=True),
        _whole("plan_version", null=True),
        _id("watermark", null=True),
        _big("subtotal"),
        _decimal("tax_percent", null=True),
        _big("tax"),
        _big("total"),
        _big("amount_paid"),
        _big("amount_credited"),
        _text("memo"),
        _text("bill_to"),
        _text("bill_from"),
        _text("hold_reason", null=True),
        _instant("finalize_at", null=True),
        _instant("issued_at", null=True),
        _instant("due_at", null=True),
        _instant("paid_at", null=True),
        _instant("ended_at", null=True),
        _whole("payment_failures"),
        _instant("payment_failed_at", null=True),
        _text("stripe_invoice_id", null=True),
        _text("payment_url", null=True),
        _instant("created_at"),
        _instant("updated_at"),
        _one_of("invoice", "collect", ("local", "stripe_meters")),
        _one_of("invoice", "kind", ("period", "interim", "manual")),
        _one_of("invoice", "payment_method", ("manual", "stripe_invoice")),
        _one_of("invoice", "state", ("DRAFT", "OPEN", "PAID", "UNCOLLECTIBLE", "VOID")),
        _refers("invoice", "customer_id", "customer.id"),
        _refers("invoice", "organization_id", "organization.id"),
        _refers("invoice", "plan_id", "plan.id"),
        _refers("invoice", "subscription_id", "subscription.id"),
        _key("invoice", "id"),
        sa.UniqueConstraint(
            "organization_id", "number", name=op.f("uq_invoice_organization_id_number")
        ),
    )
    op.create_index(
        "ix_invoice_customer", "invoice", ["organization_id", "customer_id", "created_at"]
    )
    op.create_index("ix_invoice_due", "invoice", ["due_at"], **_where("state = 'OPEN'"))
    op.create_index("ix_invoice_finalize", "invoice", ["finalize_at"], **_where("state = 'DRAFT'"))
    op.create_index("ix_invoice_organization", "invoice", ["organization_id", "created_at", "id"])
    op.create_index(
        "ix_invoice_period",
        "invoice",
        ["subscription_id", "period_start"],
        unique=True,
        **_where("kind = 'period'"),
    )
    op.create_table(
        "credit_note",
        _text("id"),
        _text("organization_id"),
        _text("invoice_id"),
        _text("number"),
        _text("currency"),
        _big("amount"),
        _text("reason"),
        _text("lines"),
        _text("created_by"),
        _instant("created_at"),
        _refers("credit_note", "invoice_id", "invoice.id"),
        _refers("credit_note", "organization_id", "organization.id"),
        _key("credit_note", "id"),
        sa.UniqueConstraint(
            "organization_id", "number", name=op.f("uq_credit_note_organization_id_number")
        ),
    )
    op.create_index("ix_credit_note_invoice_id", "credit_note", ["invoice_id"])
    op.create_table(
        "invoice_line",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _text("invoice_id"),
        _whole("position"),
        _text("kind"),
        _text("description"),
        _text("charge_id", null=True),
        _text("metric", null=True),
        _text("subscription_id", null=True),
        _text("plan_id", null=True),
        _whole("plan_version", null=True),
        _instant("period_start", null=True),
        _instant("period_end", null=True),
        _text("share"),
        _decimal("quantity", null=True),
        _text("unit"),
        _decimal("unit_price", null=True),
        _big("billed_before"),
        _big("amount"),
        _text("steps"),
        _one_of("invoice_line", "kind", ("base", "fixed", "usage", "minimum", "late", "manual")),
        _refers("invoice_line", "invoice_id", "invoice.id"),
        _refers("invoice_line", "organization_id", "organization.id"),
        _refers("invoice_line", "plan_id", "plan.id"),
        _refers("invoice_line", "subscription_id", "subscription.id"),
        _key("invoice_line", "id"),
        sa.UniqueConstraint(
            "invoice_id", "position", name=op.f("uq_invoice_line_invoice_id_position")
        ),
    )
    op.create_index("ix_invoice_line_period", "invoice_line", ["subscription_id", "period_start"])
    op.create_table(
        "payment",
        sa.Column("id", exact.BIG_ID, autoincrement=True, nullable=False),
        _text("organization_id"),
        _text("invoice_id"),
        _text("kind"),
        _text("source"),
        _text("reference"),
        _big("amount", null=True),
        _text("note"),
        _instant("at"),
        _instant("recorded_at"),
        _instant("applied_at", null=True),
        _text("outcome", null=True),
        _one_of("payment", "kind", ("paid", "failed", "voided", "uncollectible")),
        _refers("payment", "invoice_id", "invoice.id"),
        _refers("payment", "organization_id", "organization.id"),
        _key("payment", "id"),
        sa.UniqueConstraint(
            "organization_id",
            "source",
            "reference",
            name=op.f("uq_payment_organization_id_source_reference"),
        ),
    )
    op.create_index("ix_payment_invoice", "payment", ["invoice_id"])
    op.create_index("ix_payment_waiting", "payment", ["id"], **_where("applied_at IS NULL"))
