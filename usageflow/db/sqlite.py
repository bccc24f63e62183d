"""One SQLite file: its connections, who may write to it, and who may serve it.

SQLite before 3.51.3 can corrupt a file when two connections write or checkpoint at one moment
(sqlite.org/wal.html#walresetbug). So a process writes through one connection only, and processes
take turns: a lock on `FILE.write` is held around everything that may write or checkpoint. One
server per file: it holds a lock on `FILE.lock` for its life. This module knows no table.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Engine, QueuePool, create_engine, event

from usageflow.db.exact import register
from usageflow.errors import DatabaseError

BUSY_TIMEOUT_S: Final = 30.0
"""Longest wait for a connection, or for a foreign program (such as a backup) to unlock the file."""
CHECKPOINT_PAGES: Final = 8_000
"""Pages of 4 KiB in the log before they go to the file: a batch of events touches thousands, and by
SQLite's default of 1,000 each batch would wait for its own."""
READERS_MAX: Final = 16
"""Reading connections of one process; readers beyond it wait."""


class SqliteFile:
    """One SQLite file and its two kinds of connections.

    Raises DatabaseError if the file cannot be opened or is not a database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._turn = threading.Lock()
        self._server: int | None = None
        try:
            self._write = os.open(f"{self.path}.write", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DatabaseError(f"cannot open {path}: {error.strerror}") from None
        self.writers = _engine(self._connect_writer, "BEGIN IMMEDIATE", connections=1)
        self.readers = _engine(self._connect_reader, "BEGIN", connections=READERS_MAX)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the right to write, among the threads here and the other processes."""
        with self._turn:
            fcntl.flock(self._write, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._write, fcntl.LOCK_UN)

    def claim(self) -> None:
        """Be the one server of this file until closed. Raises DatabaseError if there is another."""
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode("ascii", "replace") or "?"
            os.close(lock)
            raise DatabaseError(
                f"{self.path.name} is already served by process {owner}; one SQLite file serves "
                "one server. For several servers use PostgreSQL: USAGEFLOW_DATABASE=postgresql://..."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._server = lock

    def close(self) -> None:
        """Close every connection (the last one checkpoints) and give up both locks."""
        self.readers.dispose()
        with self.writing():
            self.writers.dispose()
        os.close(self._write)
        if self._server is not None:
            os.close(self._server)

    def _connect_writer(self) -> sqlite3.Connection:
        self._make_private()
        return self._connect(
            "rwc",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        )

    def _connect_reader(self) -> sqlite3.Connection:
        return self._connect("ro", "query_only = ON")

    def _make_private(self) -> None:
        """Make the file, for its owner alone, unless it is there; SQLite gives its mode to others.

        Only a new file is opened: closing one that is in use would drop SQLite's locks on it.
        """
        with suppress(OSError):  # it is there, or SQLite says below why it cannot be
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def _connect(self, mode: str, *pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,  # transactions begin where we say, DDL included
            check_same_thread=False,  # the pool hands a connection to one thread at a time
        )
        try:
            for pragma in pragmas:  # the first to read the file: it may be no database
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            connection.close()
            raise
        register(connection)
        return connection


def _engine(connect: Callable[[], sqlite3.Connection], begin: str, *, connections: int) -> Engine:
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_S,
        hide_parameters=True,  # what is in them is in no log
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
