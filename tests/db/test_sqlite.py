"""One SQLite file among several processes."""

import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from usageflow.db import sqlite
from usageflow.db.session import Database
from usageflow.db.sqlite import SqliteFile
from usageflow.errors import DatabaseError

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def url(tmp_path: Path, sqlite_template: bytes) -> str:
    """The URL of a migrated file."""
    (tmp_path / "usageflow.db").write_bytes(sqlite_template)
    return f"sqlite:///{tmp_path}/usageflow.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An open SQLite database."""
    opened = Database.open(url)
    yield opened
    opened.close()


def write_many(url: str, name: str, count: int) -> None:
    """Insert `count` organizations, one transaction each."""
    database = Database.open(url)
    insert = text("INSERT INTO organization (id, name, created_at) VALUES (:id, :id, 0)")
    for number in range(count):
        with database.transaction() as tx:
            tx.session.execute(insert, {"id": f"{name}-{number}"})
    database.close()


def test_two_processes_write_in_turn(url: str, database: Database) -> None:
    """Another process's transactions fit between ours; nothing is lost and nobody fails."""
    other = SPAWN.Process(target=write_many, args=(url, "other", 50))
    other.start()
    write_many(url, "ours", 50)
    other.join()
    with database.reading() as tx:
        assert tx.session.scalar(text("SELECT count(*) FROM organization")) == 100
        assert tx.session.scalar(text("PRAGMA integrity_check")) == "ok"


def test_the_write_lock_is_held_until_after_the_commit(tmp_path: Path) -> None:
    """While one file object writes, another waits, and gets its turn afterwards."""
    first, second = SqliteFile(tmp_path / "a.db"), SqliteFile(tmp_path / "a.db")
    order = []

    def wait() -> None:
        with second.writing():
            order.append("second")

    with first.writing():
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    first.close()
    second.close()
    assert order == ["first", "second"]


def test_a_second_server_is_refused(url: str) -> None:
    """The message names the process that serves the file and the way out; it is free afterwards."""
    first, second = Database.open(url), Database.open(url)
    first.claim_server()
    with pytest.raises(
        DatabaseError,
        match=rf"^usageflow\.db is already served by process {os.getpid()}; one SQLite file serves "
        r"one server\. For several servers use PostgreSQL: USAGEFLOW_DATABASE=postgresql://",
    ):
        second.claim_server()
    write_many(url, "keys", 1)
    first.close()
    second.claim_server()
    second.close()


def test_the_writing_connection_is_durable_and_readers_cannot_write(database: Database) -> None:
    """WAL, full synchronisation and foreign keys for the writer; query_only for readers."""
    with database.transaction() as tx:
        pragmas = [
            tx.session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 30_000]
    with database.reading() as tx:
        assert tx.session.scalar(text("PRAGMA query_only")) == 1


def test_closing_leaves_one_complete_file(url: str, tmp_path: Path) -> None:
    """The last to close writes everything back: the file alone is the database."""
    write_many(url, "a", 3)
    assert not (tmp_path / "usageflow.db-wal").exists()
    count = sqlite3.connect(tmp_path / "usageflow.db").execute("SELECT count(*) FROM organization")
    assert count.fetchone() == (3,)
    count.connection.close()


def test_the_lock_files_are_private(database: Database, tmp_path: Path) -> None:
    """Only the owner may open them."""
    database.claim_server()
    for suffix in ("write", "lock"):
        assert (tmp_path / f"usageflow.db.{suffix}").stat().st_mode & 0o777 == 0o600


def test_what_it_makes_is_private(tmp_path: Path) -> None:
    """Accounts, digests of keys and usage: only the owner may read them, in all of its files."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    before = os.umask(0o022)
    try:
        with closing(Database.open(url)) as database:
            database.migrate()
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes.keys() >= {"new.db", "new.db-wal", "new.db-shm"}
    assert set(modes.values()) == {0o600}


def test_the_mode_of_a_file_that_is_there_stays(url: str, tmp_path: Path) -> None:
    """Who lets a group read it, for backups for example, has decided so."""
    (tmp_path / "usageflow.db").chmod(0o640)
    write_many(url, "a", 1)
    assert (tmp_path / "usageflow.db").stat().st_mode & 0o777 == 0o640


def test_readers_beyond_the_pool_are_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no connection becomes free in time, the error is one the caller can handle."""
    monkeypatch.setattr(sqlite, "READERS_MAX", 1)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.01)
    database = Database.open(url)
    count = text("SELECT count(*) FROM organization")
    with database.reading() as first:
        first.session.scalar(count)
        refused = pytest.raises(DatabaseError, match="no connection became free in time")
        with refused, database.reading() as second:
            second.session.scalar(count)
    database.close()
