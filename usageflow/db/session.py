"""Transactions on the one database of an installation, SQLite or PostgreSQL.

`Database.transaction()` yields a `Tx`: the session, and the one moment everything in it happens.
This module knows neither tables nor what is done in a transaction.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Self

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import (
    TimeoutError as PoolTimeout,
)
from sqlmodel import Session

from usageflow.db import billing_tables, outbox_tables, tables
from usageflow.db.sqlite import SqliteFile
from usageflow.errors import DatabaseError

TABLES: Final = (tables, billing_tables, outbox_tables)
"""Who has a session has all tables, so that whatever one refers to is known."""
SCHEMA_REVISION: Final = "0005"
"""The newest migration. Revisions are numbers of four digits: a newer one compares greater."""
CONNECT_TIMEOUT_S: Final = 5
"""Longest wait for a PostgreSQL connection."""
CONNECTIONS_MAX: Final = 20
"""PostgreSQL connections of one process; its server's default limit is 100 in all."""

Dialect = Literal["sqlite", "postgresql"]


def utc_now() -> datetime:
    """The clock of the shell."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Tx:
    """One open transaction. `now` was fixed when it began: all that happens in it happens then."""

    session: Session
    now: datetime
    dialect: Dialect


class Database:
    """The database of an installation. Safe to use from any thread, not across a fork."""

    def __init__(
        self, url: URL, file: SqliteFile | None, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.name = url.render_as_string(hide_password=True)
        self._file = file
        self._clock = clock
        self._current = False
        if file is not None:
            self.dialect: Dialect = "sqlite"
            self._writers, self._readers = file.writers, file.readers
        else:
            self.dialect = "postgresql"
            self._writers = _postgresql(url)
            self._readers = self._writers.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

    @classmethod
    def open(
        cls, url: str, *, clock: Callable[[], datetime] = utc_now, create: bool = True
    ) -> Self:
        """Connect to `sqlite:///FILE` (made if absent, unless not `create`) or `postgresql://...`.

        Raises DatabaseError, without the password, for anything that cannot be reached or used.
        """
        parsed = _parse(url)
        path = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
        if path is not None and not create and not path.exists():
            raise DatabaseError(f"there is no database file {path.resolve()}")
        database = cls(parsed, None if path is None else SqliteFile(path), clock)
        try:
            with database._writing(), database._writers.connect():
                return database
        except DatabaseError:
            database.close()
            raise

    def migrate(self) -> None:
        """Bring the schema to this version, in one transaction; harmless if it is already.

        Raises DatabaseError if the schema is newer than this version of UsageFlow.
        """
        from usageflow.db.migrations import upgrade  # noqa: PLC0415 - alembic costs 100 ms

        with (
            self._writing(),
            self._writers.connect() as connection,
            connection.begin() if self._file is None else self._rebuilding(connection),
        ):
            self._refuse_newer(_revision(connection))
            upgrade(connection)

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """A transaction that may write: committed at the end, rolled back by an exception.

        On SQLite writers take turns; do not open one inside another. Raises DatabaseError when the
        database fails, is gone, or (PostgreSQL) breaks a deadlock; trying again is the caller's.
        """
        self._require_schema()
        with self._writing(), Session(self._writers) as session, session.begin():
            yield Tx(session, self._clock(), self.dialect)

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """A transaction that sees one consistent state and cannot write."""
        self._require_schema()
        with _explained(self.name), Session(self._readers) as session, session.begin():
            yield Tx(session, self._clock(), self.dialect)

    def claim_server(self) -> None:
        """Be the one server of an SQLite file until closed; PostgreSQL serves any number.

        Raises DatabaseError naming the process that serves it already.
        """
        if self._file is not None:
            self._file.claim()

    def close(self) -> None:
        """Close every connection."""
        if self._file is not None:
            self._file.close()
        else:
            self._writers.dispose()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        turn: AbstractContextManager[None] = self._file.writing() if self._file else nullcontext()
        with turn, _explained(self.name):
            yield

    @contextmanager
    def _rebuilding(self, connection: Connection) -> Iterator[None]:
        """A transaction of SQLite in which a table that others refer to may be made anew.

        Only outside of one can it be told so; that every reference still holds is seen at the end.
        """
        raw: Any = connection.connection.driver_connection
        raw.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                yield
                if lost := connection.execute(text("PRAGMA foreign_key_check")).all():
                    raise DatabaseError(f"{self.name}: rows that refer to nothing: {lost[:3]}")
        finally:
            raw.execute("PRAGMA foreign_keys = ON")

    def _require_schema(self) -> None:
        if self._current:
            return
        with _explained(self.name), self._readers.connect() as connection:
            revision = _revision(connection)
        self._refuse_newer(revision)
        if revision < SCHEMA_REVISION:
            state = "is older than this version of UsageFlow" if revision else "does not exist yet"
            raise DatabaseError(f"the schema of {self.name} {state}; run `usageflow migrate`")
        self._current = True

    def _refuse_newer(self, revision: str) -> None:
        if revision > SCHEMA_REVISION:
            raise DatabaseError(
                f"the schema of {self.name} is {revision}, newer than this version of UsageFlow "
                f"({SCHEMA_REVISION}); run a newer UsageFlow"
            )


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseError("not a database URL; use sqlite:///FILE or postgresql://...") from None
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed.drivername in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise DatabaseError(
        f"{parsed.render_as_string(hide_password=True)} is not a database UsageFlow can use; "
        "use sqlite:///FILE or postgresql://..."
    )


def _postgresql(url: URL) -> Engine:
    try:
        return create_engine(
            url,
            pool_size=CONNECTIONS_MAX,
            max_overflow=0,
            hide_parameters=True,  # what is in them is in no log
            pool_pre_ping=True,  # a restarted server costs one ping, not one failed request
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                # instants of the years 1 and 9999 exist in UTC only
                "options": "-c timezone=UTC",
            },
        )
    except ModuleNotFoundError:
        raise DatabaseError(
            "PostgreSQL needs a driver: pip install 'usageflow[postgres]'"
        ) from None


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the failures of the database itself into DatabaseError; ours stay what they are."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise DatabaseError(f"{name}: {_first_line(error)}") from error
    except PoolTimeout as error:
        raise DatabaseError(f"{name}: no connection became free in time") from error
    except DBAPIError as error:
        if not error.connection_invalidated and "file is not a database" not in str(error.orig):
            raise
        raise DatabaseError(f"{name}: {_first_line(error)}") from error


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]


def _revision(connection: Connection) -> str:
    """The newest migration this database has seen; "" for none."""
    with connection.begin_nested() if connection.in_transaction() else connection.begin():
        if not connection.dialect.has_table(connection, "alembic_version"):
            return ""
        return connection.scalar(text("SELECT version_num FROM alembic_version")) or ""
