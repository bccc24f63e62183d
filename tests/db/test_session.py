"""Opening a database, transactions, and what is said when it cannot be used."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from usageflow.db import session as session_module
from usageflow.db.session import Database, Tx
from usageflow.db.tables import OrganizationRow
from usageflow.errors import DatabaseError

THEN = datetime(2026, 11, 21, tzinfo=UTC)


def names(database: Database) -> list[str]:
    """The names of all organizations."""
    with database.reading() as tx:
        return list(tx.session.scalars(text("SELECT name FROM organization ORDER BY name")))


def add(tx: Tx, name: str) -> None:
    """Add an organization."""
    tx.session.add(OrganizationRow(id=name, name=name, created_at=tx.now))
    tx.session.flush()


def test_a_transaction_commits_at_its_end(database: Database) -> None:
    """What was written is there for the next reader."""
    with database.transaction() as tx:
        add(tx, "a")
        assert names(database) == []
    assert names(database) == ["a"]


def test_an_exception_undoes_everything(database: Database) -> None:
    """A transaction killed between two statements leaves neither."""
    with pytest.raises(RuntimeError), database.transaction() as tx:
        add(tx, "a")
        raise RuntimeError
    assert names(database) == []


def test_now_is_fixed_when_the_transaction_begins(database_url: str) -> None:
    """Every row of one transaction has the same moment, whatever the clock does."""
    ticks = iter([THEN, datetime(2030, 1, 1, tzinfo=UTC)])
    database = Database.open(database_url, clock=lambda: next(ticks))
    with database.transaction() as tx:
        assert (tx.now, tx.now) == (THEN, THEN)
    database.close()


def test_reading_cannot_write(database: Database) -> None:
    """A reader that tries to write is refused by the database."""
    refused = pytest.raises((DBAPIError, DatabaseError), match=r"read.?only")
    with refused, database.reading() as tx:
        add(tx, "a")
    assert names(database) == []


def test_reading_sees_one_state(database: Database) -> None:
    """What is committed meanwhile does not show up in the middle of a read."""
    with database.reading() as tx:
        count = text("SELECT count(*) FROM organization")
        assert tx.session.scalar(count) == 0
        with database.transaction() as writer:
            add(writer, "a")
        assert tx.session.scalar(count) == 0


def test_writers_of_many_threads_all_succeed(database: Database) -> None:
    """Threads that write at once wait for one another instead of failing."""

    def write(number: int) -> None:
        with database.transaction() as tx:
            add(tx, f"{number:02}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(database) == [f"{number:02}" for number in range(20)]


def test_our_own_mistakes_stay_what_they_are(database: Database) -> None:
    """A broken rule of the schema is not reported as a broken database."""
    with database.transaction() as tx:
        add(tx, "a")
    with pytest.raises(IntegrityError), database.transaction() as tx:
        add(tx, "a")


def test_a_database_without_schema_says_what_to_do(empty_database_url: str) -> None:
    """Neither reading nor writing starts on an empty database; migrating twice is harmless."""
    database = Database.open(empty_database_url)
    with pytest.raises(DatabaseError, match=r"does not exist yet; run `usageflow migrate`"):
        database.reading().__enter__()
    database.migrate()
    database.migrate()
    assert names(database) == []
    database.close()


def test_an_older_schema_says_what_to_do(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schema this version has a migration for is not used before it has run."""
    monkeypatch.setattr(session_module, "SCHEMA_REVISION", "9999")
    with pytest.raises(DatabaseError, match="older than this version"):
        database.transaction().__enter__()


def test_a_newer_schema_is_refused(database_url: str) -> None:
    """A database that a newer UsageFlow has migrated is neither read, nor written, nor migrated."""
    database = Database.open(database_url)
    with database.transaction() as tx:
        tx.session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    database = Database.open(database_url)
    with pytest.raises(DatabaseError, match="9999, newer than this version"):
        database.reading().__enter__()
    with pytest.raises(DatabaseError, match="9999, newer than this version"):
        database.migrate()
    database.close()


@pytest.mark.parametrize(
    "url", ["", "usageflow.db", "mysql://root:secret@host/db", "sqlite://", "sqlite:///:memory:"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """The message says what is accepted, and never shows a password."""
    with pytest.raises(DatabaseError, match="use sqlite:///FILE or postgresql://") as error:
        Database.open(url)
    assert "secret" not in str(error.value)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    """Nothing listens on port 1."""
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1") as error:
        Database.open("postgresql://user:secret@127.0.0.1:1/db")
    assert "secret" not in str(error.value)


def test_a_missing_directory_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    """SQLite problems are told with the file's name."""
    with pytest.raises(DatabaseError, match="no-such-dir"):
        Database.open(f"sqlite:///{tmp_path}/no-such-dir/usageflow.db")
    (tmp_path / "letter.db").write_text("Dear database, " * 100)
    with pytest.raises(DatabaseError, match=r"letter\.db: file is not a database"):
        Database.open(f"sqlite:///{tmp_path}/letter.db")


def test_a_relative_file_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slashes name a relative file."""
    monkeypatch.chdir(tmp_path)
    Database.open("sqlite:///here.db").close()
    assert (tmp_path / "here.db").exists()


@pytest.mark.postgres
def test_a_broken_deadlock_is_a_database_error(postgres: object) -> None:
    """PostgreSQL ends one of two transactions that wait for each other; the caller may retry."""
    database = Database.open(postgres.create())  # type: ignore[attr-defined]
    with database.transaction() as tx:
        add(tx, "a")
        add(tx, "b")
    touch = text("UPDATE organization SET name = name WHERE id = :id")
    both_hold_one = threading.Barrier(2)
    failures: list[DatabaseError] = []

    def cross(first: str, second: str) -> None:
        try:
            with database.transaction() as tx:
                tx.session.execute(touch, {"id": first})
                both_hold_one.wait()
                tx.session.execute(touch, {"id": second})
        except DatabaseError as error:
            failures.append(error)

    threads = [threading.Thread(target=cross, args=pair) for pair in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()
    assert [str(error).partition(": ")[2] for error in failures] == ["deadlock detected"]
