"""The migrations make exactly the schema the models describe, and its triggers hold."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import col, select

from usageflow.db import migrations
from usageflow.db.columns import Row
from usageflow.db.session import SCHEMA_REVISION, Database
from usageflow.db.tables import (
    LaneRow,
    MemberRow,
    MetricRow,
    PersonRow,
    StripeAccountRow,
    StripeCustomerRow,
    UnitRow,
    UsageWindowRow,
)
from usageflow.errors import DatabaseError
from usageflow.ledger.derived import verify

SQLITE_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type <> 'trigger'"
POSTGRESQL_SCHEMA = """
    SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
      WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT table_name || '.' || column_name,
      concat_ws(' ', data_type, is_nullable, column_default)
      FROM information_schema.columns WHERE table_schema = 'public'
"""


def schema(connection: Connection) -> set[tuple[str, str]]:
    """Every table, column, key, check and index, as the database tells it."""
    sqlite = connection.dialect.name == "sqlite"
    rows = connection.execute(text(SQLITE_SCHEMA if sqlite else POSTGRESQL_SCHEMA))
    return {(name, normal(definition)) for name, definition in rows if "alembic" not in name}


def normal(definition: str) -> str:
    """A definition without its layout and quotes and, for a table, with its parts in one order."""
    flat = re.sub(r"\s+", " ", definition.replace('"', "")).strip()
    head, bracket, parts = flat.partition("(")
    if not head.startswith("CREATE TABLE"):
        return flat
    parts, _, options = parts.rpartition(")")
    return head + bracket + ",".join(sorted(part.strip() for part in parts.split(","))) + options


def test_models_and_migrations_agree(empty_database_url: str) -> None:
    """A migrated database and one made from the models have the same schema, CHECKs included."""
    database = Database.open(empty_database_url)
    with database._writing(), database._writers.begin() as connection:
        Row.metadata.create_all(connection)
        described = schema(connection)
        Row.metadata.drop_all(connection)
    database.migrate()
    with database._writing(), database._writers.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []
        assert schema(connection) == described
    database.close()


def test_the_newest_revision_is_the_one_the_code_expects() -> None:
    """Revisions are numbered in order, and `SCHEMA_REVISION` is the last."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    assert revisions[0] == SCHEMA_REVISION


def test_a_failing_migration_leaves_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle undoes the tables made before it, on SQLite too."""
    database = Database.open(empty_database_url)

    def fail(connection: Connection) -> None:
        migrate(connection)
        raise OperationalError("CREATE TABLE", None, Exception("disk full"))

    migrate = migrations.upgrade
    monkeypatch.setattr(migrations, "upgrade", fail)
    with pytest.raises(DatabaseError, match="disk full"):
        database.migrate()
    with database._readers.connect() as connection:
        assert schema(connection) == set()
    database.close()


def test_each_installation_has_its_own_id(tmp_path: object) -> None:
    """Two databases never make the same identifiers at Stripe."""
    ids = set()
    for name in ("a", "b"):
        database = Database.open(f"sqlite:///{tmp_path}/{name}.db")
        database.migrate()
        with database.reading() as tx:
            ids.add(tx.session.execute(text("SELECT id FROM installation")).one().id)
        database.close()
    assert len(ids) == 2


def test_rows_survive_the_settlement_migration(empty_database_url: str) -> None:
    """Accounts, customers, lanes and units of the schema before are there, with what is new."""
    database = Database.open(empty_database_url)
    with database._writing(), database._writers.begin() as connection:
        _upgrade(connection, "0003")
        at = "'2026-11-21 12:00:00+00'" if database.dialect == "postgresql" else "1795262400000000"
        for statement in OLD_ROWS.split(";"):
            connection.execute(text(statement.replace("@", at)))
    database.migrate()
    with database.reading() as tx:
        account = tx.session.exec(select(StripeAccountRow)).one()
        assert (account.kind, account.folding, account.state) == ("own", "meters", "active")
        customer = tx.session.exec(select(StripeCustomerRow)).one()
        assert (customer.valid_from.year, customer.valid_until, customer.source) == (
            *(1970, None),
            "stripe",
        )
        lane = tx.session.exec(select(LaneRow)).one()
        assert (lane.metered, lane.settled) == (Decimal("3.5"), Decimal(0))
        assert lane.last_sequence == 2
        accepted, ambiguous = tx.session.exec(select(UnitRow).order_by(col(UnitRow.id)))
        assert (accepted.kind, accepted.accepted_at) == ("usage", accepted.updated_at)
        assert ambiguous.resend_until == ambiguous.first_attempt_at
        assert ambiguous.accepted_at is None
    with pytest.raises(IntegrityError, match="never changes"), database.transaction() as tx:
        tx.session.exec(select(UnitRow)).first().quantity = Decimal(9)  # type: ignore[union-attr]
    database.close()


def test_rows_survive_the_billing_migration(empty_database_url: str) -> None:
    """Members become people, metrics get their ids, windows hold what the events say."""
    database = Database.open(empty_database_url)
    with database._writing(), database._writers.begin() as connection:
        _upgrade(connection, "0004")
        hour = 1_795_262_400
        for statement in BEFORE_BILLING.split(";"):
            for minutes in (0, 10, 20):
                seconds = hour + minutes * 60
                at = (
                    f"{seconds}000000"
                    if database.dialect == "sqlite"
                    else f"to_timestamp({seconds})"
                )
                statement = statement.replace(f"@{minutes}", at)  # noqa: PLW2901 - filled in bit by bit
            connection.execute(text(statement))
    database.migrate()
    with database.reading() as tx:
        person = tx.session.exec(select(PersonRow)).one()
        assert (person.email, person.password_hash) == ("ada@example.com", "older")
        members = tx.session.exec(select(MemberRow)).all()
        assert {(row.id, row.organization_id, row.person_id) for row in members} == {
            ("m1", "o", person.id),
            ("m2", "p", person.id),
        }
        metric = tx.session.exec(select(MetricRow)).one()
        assert (metric.key, metric.aggregation, metric.filters) == ("CALL", "SUM", "[]")
        assert len({metric.id, metric.token}) == 2
        window = tx.session.exec(select(UsageWindowRow)).one()
        assert (window.total, window.events, window.maximum) == (Decimal("7.5"), 3, Decimal(4))
        assert (window.last, window.last_seq, window.forwarded) == (Decimal(1), 1, Decimal("2.5"))
        assert verify(tx, "o") == []
    with pytest.raises(IntegrityError, match="append-only"), database.transaction() as tx:
        tx.session.execute(text("UPDATE usage_event SET metadata = 'x'"))
    database.close()


def _upgrade(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


OLD_ROWS = """
INSERT INTO organization (id, name, created_at) VALUES ('o', 'default', @);
INSERT INTO customer (id, organization_id, external_id, created_at) VALUES ('c', 'o', 'x', @);
INSERT INTO stripe_account (id, organization_id, account, livemode, state, created_at)
  VALUES ('a', 'o', 'own', false, 'active', @);
INSERT INTO stripe_customer (account_id, field, value, stripe_customer_id, seen_at)
  VALUES ('a', 'f', 'v', 'cus_1', @);
INSERT INTO lane (id, organization_id, account_id, customer_id, event_name, identity_field,
    identity_value, leased_until, blocked_until, failures, waiting)
  VALUES (7, 'o', 'a', 'c', 'e', 'f', 'v', @, @, 0, true);
INSERT INTO unit (id, organization_id, lane_id, hour, sequence, occurred_at, quantity, events,
    state, identifier, stripe_customer_id, first_attempt_at, attempts, created_at, updated_at)
  VALUES (1, 'o', 7, @, 1, @, '1.5', 1, 'accepted', 'i1', 'cus_1', @, 1, @, @),
         (2, 'o', 7, @, 2, @, '2', 1, 'ambiguous', 'i2', 'cus_1', @, 1, @, @)
"""
"""One of each kind of row that migration 0004 touches, as the schema before had it."""

BEFORE_BILLING = """
INSERT INTO organization (id, name, created_at) VALUES ('o', 'default', @0), ('p', 'other', @0);
INSERT INTO member (id, organization_id, email, password_hash, role, created_at)
  VALUES ('m2', 'p', 'ada@example.com', 'newer', 'OWNER', @10),
    ('m1', 'o', 'ada@example.com', 'older', 'OWNER', @0);
INSERT INTO metric (organization_id, key, name, unit, aggregation, created_at)
  VALUES ('o', 'CALL', 'Calls', 'calls', 'SUM', @0);
INSERT INTO customer (id, organization_id, external_id, created_at) VALUES ('c', 'o', 'x', @0);
INSERT INTO usage_event (seq, organization_id, id, metric, quantity, occurred_at, received_at,
    identity_field, identity_value, policy, policy_version, state, request_method, request_route,
    fingerprint, customer_id, event_name)
  VALUES (1, 'o', 'a', 'CALL', '1', @20, @20, 'f', 'x', 'p', '1', 'counted', '', '', '', 'c', NULL),
    (2, 'o', 'b', 'CALL', '4', @0, @20, 'f', 'x', 'p', '1', 'counted', '', '', '', 'c', NULL),
    (3, 'o', 'd', 'CALL', '2.5', @10, @20, 'f', 'x', 'p', '1', 'counted', '', '', '', 'c', 'e'),
    (4, 'o', 'e', 'CALL', '9', @0, @20, 'f', 'x', 'p', '1', 'shadow', '', '', '', NULL, NULL)
"""
