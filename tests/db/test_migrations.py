"""The migrations make exactly the schema the models describe, and its triggers hold."""

import re
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from usageflow.db import migrations
from usageflow.db.session import SCHEMA_REVISION, Database
from usageflow.db.tables import Row
from usageflow.errors import DatabaseError

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
    return head + bracket + ",".join(sorted(part.strip() for part in parts[:-1].split(",")))


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
