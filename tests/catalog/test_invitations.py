"""Invitations: one link for one address, once, for 48 hours."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from usageflow.catalog import audit, invitations, members, people
from usageflow.catalog.audit import Actor
from usageflow.catalog.invitations import (
    LIFE,
    NO_INVITATION,
    NO_LINK,
    OTHER_ADDRESS,
    WRONG_PASSWORD,
    Invited,
)
from usageflow.catalog.organizations import create, default_organization
from usageflow.catalog.permissions import of_role
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Database

START = datetime(2026, 11, 21, 18, tzinfo=UTC)
ADA = Actor("ada@example.com", "req_1")


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """The moment of a transaction."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """When the transactions of a test happen."""
    return Clock()


@pytest.fixture
def db(database_url: str, clock: Clock) -> Iterator[Database]:
    """A database whose clock stands."""
    opened = Database.open(database_url, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def acme(db: Database) -> str:
    """An organization with Ada, its owner."""
    with db.transaction() as tx:
        organization_id = default_organization(tx)
        person_id = people.create(tx, ADA.name, "$x$")
        assert person_id is not None
        name = "Acme & Sons"
        members.own(tx, organization_id, person_id, organization_name=name, actor=ADA)
    return organization_id


def invited(
    db: Database,
    organization_id: str,
    email: str = " Eve@Example.com",
    role: str = "DEVELOPER",
    by: str = "ADMIN",
) -> Invited | Refused:
    """Somebody is invited."""
    with db.transaction() as tx:
        made = invitations.invite(
            tx,
            organization_id,
            email=email,
            role=role,
            may=of_role(by),
            base_url="https://usage.example.com/",
            actor=ADA,
        )
        if isinstance(made, Invited):
            tx.session.flush()
            tx.session.expunge(made.invitation)  # it is read after the transaction
    return made


def token_of(made: Invited | Refused) -> str:
    """What stands in the link."""
    assert isinstance(made, Invited)
    found = re.fullmatch(r"https://usage\.example\.com/invite\?token=([\w-]{43})", made.link)
    assert found is not None
    return found[1]


def accepted(db: Database, token: str, email: str = "eve@example.com") -> str | Refused:
    """Somebody with this address uses the link; the organization's id."""
    with db.transaction() as tx:
        person = people.find(tx, email)
        person_id = people.create(tx, email, "$x$") if person is None else person.id
        assert person_id is not None
        joined = invitations.accept(tx, token, person_id, actor=Actor(email))
    return joined if isinstance(joined, Refused) else joined.organization_id


def test_who_is_invited_comes_in(db: Database, acme: str) -> None:
    """In the role of the invitation, by the link that was mailed; once."""
    token = token_of(invited(db, acme))
    with db.reading() as tx:
        assert invitations.offer(tx, token) == (
            "eve@example.com",
            "DEVELOPER",
            "Acme & Sons",
            False,
        )
        (mail,) = tx.session.execute(text("SELECT * FROM mail")).all()
        assert (mail.recipient, mail.subject) == (
            "eve@example.com",
            "Join Acme & Sons on UsageFlow",
        )
        assert f"/invite?token={token}\n" in mail.text
        assert "ada@example.com invites you" in mail.text
    assert accepted(db, token) == acme
    assert accepted(db, token) == NO_LINK
    with db.reading() as tx:
        assert invitations.offer(tx, token) is None
        rows, _ = members.listing(tx, acme, offset=0, limit=9)
        assert {(row.email, row.role) for row in rows} == {
            ("ada@example.com", "OWNER"),
            ("eve@example.com", "DEVELOPER"),
        }
        entries, _ = audit.listing(tx, acme, action="invitation.", offset=0, limit=9)
        assert [(entry.action, entry.actor) for entry in entries] == [
            ("invitation.accept", "eve@example.com"),
            ("invitation.create", "ada@example.com"),
        ]


def test_the_token_is_in_its_mail_alone(db: Database, acme: str) -> None:
    """Who reads the other tables comes in nowhere."""
    token = token_of(invited(db, acme))
    with db.reading() as tx:
        for table in ("invitation", "audit"):
            rows = tx.session.execute(text(f"SELECT * FROM {table}")).all()
            assert rows
            assert token not in repr([tuple(row) for row in rows])


def test_a_link_is_for_its_address(db: Database, acme: str) -> None:
    """Whoever else has it; it stays good."""
    token = token_of(invited(db, acme))
    assert accepted(db, token, "mallory@example.com") == OTHER_ADDRESS
    assert accepted(db, token) == acme


def test_a_link_gets_too_old(db: Database, clock: Clock, acme: str) -> None:
    """After 48 hours, exclusive; then the address can be invited again."""
    token = token_of(invited(db, acme))
    clock.now = START + LIFE - timedelta(microseconds=1)
    again = invited(db, acme)
    assert again == Refused(
        "conflict", "eve@example.com has an open invitation; revoke it first", "email"
    )
    clock.now = START + timedelta(hours=48)
    with db.reading() as tx:
        assert invitations.offer(tx, token) is None
        assert invitations.listing(tx, acme, offset=0, limit=9) == ([], 0)
    assert accepted(db, token) == NO_LINK
    assert accepted(db, token_of(invited(db, acme))) == acme


def test_an_invitation_is_taken_back(db: Database, acme: str) -> None:
    """Once; those of others, and what is not there, are told alike."""
    made = invited(db, acme)
    token = token_of(made)
    assert isinstance(made, Invited)
    with db.transaction() as tx:
        other = create(tx, "other", actor=ADA)
        for owner, invitation_id in [(other, made.invitation.id), (acme, "invite_nothing")]:
            assert invitations.revoke(tx, owner, invitation_id, actor=ADA) == NO_INVITATION
        assert invitations.revoke(tx, acme, made.invitation.id, actor=ADA) is None
        assert invitations.revoke(tx, acme, made.invitation.id, actor=ADA) == NO_INVITATION
    assert accepted(db, token) == NO_LINK
    assert isinstance(invited(db, acme), Invited)


def test_who_cannot_be_invited(db: Database, acme: str) -> None:
    """A member, no address at all, and an owner by an admin; nothing is mailed."""
    for email, role, by, code, field in [
        ("ADA@example.com", "VIEWER", "ADMIN", "conflict", "email"),
        ("nobody", "VIEWER", "ADMIN", "invalid", "email"),
        ("eve@example.com", "OWNER", "ADMIN", "forbidden", "role"),
    ]:
        refused = invited(db, acme, email, role, by)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.field) == (code, field)
    with db.reading() as tx:
        assert tx.session.execute(text("SELECT * FROM mail")).all() == []
    assert isinstance(invited(db, acme, "eve@example.com", "OWNER", "OWNER"), Invited)


def test_who_came_in_another_way_keeps_their_role(db: Database, acme: str) -> None:
    """The link is used up all the same."""
    token = token_of(invited(db, acme, role="ADMIN"))
    with db.transaction() as tx:
        eve = people.create(tx, "eve@example.com", "$x$")
        assert eve is not None
        members.join(tx, acme, eve, "VIEWER", actor=ADA)
    assert accepted(db, token) == acme
    with db.reading() as tx:
        (membership,) = members.memberships(tx, eve)
        assert membership.role == "VIEWER"


def test_open_invitations_are_listed(db: Database, clock: Clock, acme: str) -> None:
    """The latest first, page by page; each organization has its own."""
    with db.transaction() as tx:
        other = create(tx, "other", actor=ADA)
    for name in ("a", "b", "c"):
        clock.now += timedelta(minutes=1)
        invited(db, acme, f"{name}@example.com")
    invited(db, other, "a@example.com")
    with db.reading() as tx:
        rows, total = invitations.listing(tx, acme, offset=0, limit=2)
        assert ([row.email for row in rows], total) == (["c@example.com", "b@example.com"], 3)
        rows, total = invitations.listing(tx, acme, offset=2, limit=2)
        assert ([row.email for row in rows], total) == (["a@example.com"], 3)


def test_a_password_comes_with_the_link(db: Database, acme: str) -> None:
    """Of a new account, or of the one that the address has."""
    token = token_of(invited(db, acme))
    accept = invitations.accept_with_password
    short = accept(db, token, "short")
    assert isinstance(short, Refused)
    assert (short.code, short.field) == ("invalid", "password")
    new = accept(db, token, "correct horse battery", request_id="req_2")
    assert isinstance(new, invitations.Joined)
    assert new.organization_id == acme
    assert accept(db, token, "correct horse battery") == NO_LINK
    with db.transaction() as tx:
        (entry, *_), _ = audit.listing(tx, acme, action="invitation.", offset=0, limit=9)
        assert (entry.actor, entry.request_id) == ("eve@example.com", "req_2")
        other = create(tx, "other", actor=ADA)
    token = token_of(invited(db, other))
    assert accept(db, token, "correct horse batterx") == WRONG_PASSWORD
    again = accept(db, token, "correct horse battery")
    assert again == (new.person_id, other)


def test_a_link_that_is_taken_back_while_the_password_is_hashed(
    db: Database, acme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaves no account behind."""
    made = invited(db, acme)
    assert isinstance(made, Invited)

    def slow(_: str) -> str:
        with db.transaction() as tx:
            invitations.revoke(tx, acme, made.invitation.id, actor=ADA)
        return "$x$"

    monkeypatch.setattr(invitations, "hashed", slow)
    assert invitations.accept_with_password(db, token_of(made), "x" * 12) == NO_LINK
    with db.reading() as tx:
        assert people.find(tx, "eve@example.com") is None
