"""The audit log: a chain that shows what was done to it behind our back."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from usageflow.catalog import audit
from usageflow.catalog.audit import CLI, Actor
from usageflow.catalog.organizations import create, default_organization
from usageflow.db.session import Database, Tx

START = datetime(2026, 11, 21, 18, tzinfo=UTC)
ADA = Actor("ada@example.com", "req_1")


class Clock:
    """A clock that goes on a minute with each transaction."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """The moment of a transaction."""
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """A database whose clock goes on."""
    opened = Database.open(database_url, clock=Clock())
    yield opened
    opened.close()


@pytest.fixture
def organization_id(db: Database) -> str:
    """The default organization, with three entries."""
    with db.transaction() as tx:
        made = default_organization(tx)
    for number in range(3):
        with db.transaction() as tx:
            note(tx, made, f"plan_{number}")
    return made


def note(tx: Tx, organization_id: str, subject: str = "plan_9") -> None:
    """One entry."""
    audit.record(
        tx,
        organization_id,
        actor=ADA,
        action="plan.change",
        subject=subject,
        before={"price": Decimal("0.10")},
        after={"price": Decimal("0.001")},
    )


def verified(db: Database, organization_id: str, *behind_our_back: str) -> str | None:
    """What is wrong with the chain after these statements, which are not kept.

    Somebody with the database's password runs them, triggers or not.
    """
    tables = {"sqlite": "", "postgresql": " ON audit"}[db.dialect]
    with db.transaction() as tx, tx.session.begin_nested() as kept:
        for act in ("update", "delete"):
            tx.session.execute(text(f"DROP TRIGGER audit_no_{act}{tables}"))
        for statement in behind_our_back:
            assert tx.session.connection().execute(text(statement)).rowcount > 0
        found = audit.verify(tx, organization_id)
        kept.rollback()
    return found


def test_an_entry_says_who_did_what(db: Database, organization_id: str) -> None:
    """Who, in which request, when; and what it was before, every digit."""
    with db.reading() as tx:
        (entry, *_), total = audit.listing(tx, organization_id, offset=0, limit=10)
        assert total == 3
        assert (entry.actor, entry.request_id) == ADA
        assert (entry.action, entry.subject) == ("plan.change", "plan_2")
        assert (entry.before, entry.after) == ('{"price":0.10}', '{"price":0.001}')
        assert entry.at == START + timedelta(minutes=4)


def test_a_chain_of_ours_is_whole(db: Database, organization_id: str) -> None:
    """Each organization has its own, which may be empty; several entries at once are no matter."""
    assert verified(db, organization_id) is None
    with db.transaction() as tx:
        other = create(tx, "other", actor=CLI)
        note(tx, organization_id)
        note(tx, other)
        note(tx, organization_id)
        assert audit.verify(tx, organization_id) is None
        assert audit.verify(tx, other) is None
        assert audit.verify(tx, "nobody") is None
        assert audit.head(tx, organization_id)[1] == 5
        assert audit.head(tx, other)[1] == 2
        assert audit.head(tx, "nobody") == ("", 0)


def test_a_changed_entry_is_found(db: Database, organization_id: str) -> None:
    """The first that does not follow is named."""
    for done, subject in [
        ("UPDATE audit SET after = '{}' WHERE subject = 'plan_1'", "plan_1"),
        ("UPDATE audit SET actor = 'eve' WHERE subject = 'plan_0'", "plan_0"),
        ("UPDATE audit SET request_id = NULL WHERE subject = 'plan_2'", "plan_2"),
        ("UPDATE audit SET at = (SELECT min(at) FROM audit) WHERE subject = 'plan_2'", "plan_2"),
        ("UPDATE audit SET hash = NULL WHERE subject = 'plan_1'", "plan_1"),
        ("UPDATE audit SET hash = NULL WHERE subject = 'plan_0'", "plan_1"),
        ("DELETE FROM audit WHERE subject = 'plan_0'", "plan_1"),
        ("DELETE FROM audit WHERE subject = 'plan_1'", "plan_2"),
    ]:
        found = verified(db, organization_id, done)
        assert found is not None, done
        assert f"(plan.change {subject}, 2026-11-21 18:0" in found
        assert "does not follow" in found


def test_a_missing_end_is_found(db: Database, organization_id: str) -> None:
    """The head says how many there were."""
    for done, left in [
        ("DELETE FROM audit WHERE subject = 'plan_2'", 2),
        ("DELETE FROM audit", 0),
        ("UPDATE audit SET hash = NULL", 0),
    ]:
        found = verified(db, organization_id, done)
        assert found == f"the last entries are missing: {left} are left of 3"


def test_a_long_chain_is_read_in_parts(
    db: Database, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not fit into memory."""
    monkeypatch.setattr(audit, "VERIFIED_AT_ONCE", 2)
    assert verified(db, organization_id) is None
    assert verified(db, organization_id, "DELETE FROM audit WHERE subject = 'plan_0'") is not None


def test_entries_from_before_the_chain_are_its_beginning(db: Database) -> None:
    """An older version wrote them without a hash."""
    with db.transaction() as tx:
        made = default_organization(tx)
        tx.session.execute(
            text(
                "INSERT INTO audit (organization_id, at, actor, action, subject) "
                "SELECT id, created_at, 'a', 'b', 'c' FROM organization"
            )
        )
    assert verified(db, made) is None
    with db.transaction() as tx:
        note(tx, made)
    assert verified(db, made) is None


def test_the_log_is_append_only(db: Database, organization_id: str) -> None:
    """The database itself refuses."""
    for done in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit"):
        with pytest.raises(IntegrityError, match="append-only"), db.transaction() as tx:
            tx.session.execute(text(done))


def test_writers_at_the_same_moment_make_one_chain(db: Database, organization_id: str) -> None:
    """Each waits for the one before; the numbers are in the order of the chain."""

    def write() -> None:
        for _ in range(10):
            with db.transaction() as tx:
                note(tx, organization_id)

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verified(db, organization_id) is None
    with db.reading() as tx:
        assert audit.head(tx, organization_id)[1] == 43


def test_what_is_looked_for(db: Database, organization_id: str) -> None:
    """By the beginning of the action, the subject, who it was, and since when; newest first."""
    with db.transaction() as tx:
        audit.record(tx, organization_id, actor="eve", action="api_key.create", subject="key_1")
        note(tx, create(tx, "other", actor=CLI))
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["key_1", "plan_2", "plan_1", "plan_0"]),
        ({"action": "plan."}, ["plan_2", "plan_1", "plan_0"]),
        ({"action": "api_key.create"}, ["key_1"]),
        ({"action": "plan%"}, []),
        ({"subject": "plan_1"}, ["plan_1"]),
        ({"actor": "eve"}, ["key_1"]),
        ({"since": START + timedelta(minutes=4)}, ["key_1", "plan_2"]),
        ({"actor": "eve", "subject": "plan_1"}, []),
    ]
    with db.reading() as tx:
        for wanted, subjects in cases:
            rows, total = audit.listing(tx, organization_id, **wanted, offset=0, limit=10)
            assert [row.subject for row in rows] == subjects
            assert total == len(subjects)
            page, total = audit.listing(tx, organization_id, **wanted, offset=1, limit=1)
            assert [row.subject for row in page] == subjects[1:2]
            assert total == len(subjects)
