"""The organization a fresh installation has, and those that are made."""

import pytest
from sqlmodel import select

from usageflow.catalog.audit import CLI, Actor
from usageflow.catalog.organizations import (
    NAMED_MAX,
    create,
    default_organization,
    listing,
    organization,
    rename,
    required,
)
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow
from usageflow.errors import ConfigurationError


def test_default_is_made_once(database: Database) -> None:
    """However often it is asked for, also in another transaction, it is the same."""
    with database.transaction() as tx:
        assert organization(tx, "default") is None
        first = default_organization(tx)
        assert default_organization(tx) == first
    with database.transaction() as tx:
        assert default_organization(tx) == organization(tx, "default") == first


def test_others_are_made_and_listed(database: Database) -> None:
    """Each once, noted in the audit log of its own."""
    with database.transaction() as tx:
        default_organization(tx)
        made = create(tx, "acme", display_name="Acme & Söhne", actor=CLI)
        with pytest.raises(ConfigurationError, match="there is an organization 'acme' already"):
            create(tx, "acme", actor=CLI)
        assert required(tx, "acme") == made
        assert [(row.name, row.display_name) for row in listing(tx)] == [
            ("acme", "Acme & Söhne"),
            ("default", None),
        ]
        (noted,) = tx.session.exec(select(AuditRow)).all()
        assert (noted.organization_id, noted.actor) == (made, CLI)
        assert (noted.action, noted.subject) == ("organization.create", "acme")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "ä", "a" * 64, "a\n", "../x"])
def test_a_name_can_be_typed(database: Database, name: str) -> None:
    """And stands in labels and addresses as it is."""
    with (
        database.transaction() as tx,
        pytest.raises(ConfigurationError, match="at most 63 letters"),
    ):
        create(tx, name, actor=CLI)


@pytest.mark.parametrize("shown", ["", " ", "a\x1b[31m", "a" * 101])
def test_a_display_name_can_be_seen(database: Database, shown: str) -> None:
    """It is on pages and in mails."""
    with (
        database.transaction() as tx,
        pytest.raises(ConfigurationError, match="1 to 100 characters"),
    ):
        create(tx, "acme", display_name=shown, actor=CLI)


def test_an_unknown_one_is_answered_with_those_there_are(database: Database) -> None:
    """Not with all of hundreds."""
    with database.transaction() as tx:
        with pytest.raises(
            ConfigurationError, match=r"^there is no organization 'x'; there is none"
        ):
            required(tx, "x")
        for number in range(NAMED_MAX):
            create(tx, f"o{number}", actor=CLI)
        with pytest.raises(ConfigurationError, match=r"there is o0, o1, .*, o9$"):
            required(tx, "x")
        create(tx, "p", actor=CLI)
        with pytest.raises(ConfigurationError, match=r"o9 and 1 more$"):
            required(tx, "x")


def test_people_may_call_it_something_else(database: Database) -> None:
    """Commands find it as before; only a change is noted."""
    with database.transaction() as tx:
        made = create(tx, "acme", display_name="Acme", actor=CLI)
        for _ in range(2):
            rename(tx, made, "Acme & Söhne", actor=Actor("ada@example.com"))
        assert required(tx, "acme") == made
        assert [row.display_name for row in listing(tx)] == ["Acme & Söhne"]
        _, noted = tx.session.exec(select(AuditRow)).all()
        assert (noted.action, noted.actor) == ("organization.rename", "ada@example.com")
        assert (noted.before, noted.after) == (
            '{"display_name":"Acme"}',
            '{"display_name":"Acme & Söhne"}',
        )
