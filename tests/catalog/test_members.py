"""Members: the owner's sign-up by one link, roles, and that an owner always remains."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from usageflow.catalog import audit, keys, members, people, sessions
from usageflow.catalog.audit import Actor
from usageflow.catalog.keys import Caller, NewKey
from usageflow.catalog.members import (
    KNOWN_ADDRESS,
    LAST_OWNER,
    NO_LINK,
    NO_MEMBER,
    OWNERS_ALONE,
    SIGNUP_LIFE,
    is_open,
    open_signup,
    sign_up,
)
from usageflow.catalog.organizations import DEFAULT, create, default_organization, organization
from usageflow.catalog.permissions import of_role
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Database, Tx

START = datetime(2026, 11, 21, 18, tzinfo=UTC)


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
    """A database without members."""
    opened = Database.open(database_url, clock=clock)
    yield opened
    opened.close()


def opened(db: Database) -> str | None:
    """What a start of the server makes."""
    with db.transaction() as tx:
        return open_signup(tx, default_organization(tx))


def signed_up(tx: Tx, token: str, email: str = "Ada@Example.com") -> NewKey | Refused:
    """Use a token."""
    return sign_up(tx, token, organization_name="Acme & Sons", email=email, password_hash="$x$")


def test_a_link_makes_the_owner(db: Database, clock: Clock) -> None:
    """A member, the organization's name for people, and a key for an edge that works."""
    token = opened(db)
    assert token is not None
    with db.transaction() as tx:
        made = signed_up(tx, token)
        assert isinstance(made, NewKey)
    with db.reading() as tx:
        organization_id = organization(tx, DEFAULT)
        assert keys.authenticate(tx, made.secret, "usage.write") == Caller(
            str(organization_id), made.api_key.id, "edge"
        )
        member = tx.session.execute(
            text(
                "SELECT organization_id, email, password_hash, role FROM member "
                "JOIN person ON person.id = person_id"
            )
        ).one()
        assert tuple(member) == (organization_id, "ada@example.com", "$x$", "OWNER")
        names = tx.session.execute(text("SELECT name, display_name FROM organization")).one()
        assert tuple(names) == (DEFAULT, "Acme & Sons"), "commands still find it"


def test_a_link_works_once(db: Database) -> None:
    """And none is made any more."""
    token = opened(db)
    assert token is not None
    with db.transaction() as tx:
        assert is_open(tx, token)
        assert isinstance(signed_up(tx, token), NewKey)
        assert not is_open(tx, token)
        assert signed_up(tx, token, "eve@example.com") == NO_LINK
    assert opened(db) is None


def test_a_new_link_replaces_the_one_before(db: Database) -> None:
    """Whoever starts the server decides which is good."""
    first, second = opened(db), opened(db)
    assert first is not None
    assert second is not None
    with db.transaction() as tx:
        assert not is_open(tx, first)
        assert signed_up(tx, first) == NO_LINK
        assert is_open(tx, second)
        assert isinstance(signed_up(tx, second), NewKey)


def test_a_link_gets_too_old(db: Database, clock: Clock) -> None:
    """It is good for 48 hours, exclusive."""
    token = opened(db)
    assert token is not None
    clock.now = START + SIGNUP_LIFE - timedelta(microseconds=1)
    with db.reading() as tx:
        assert is_open(tx, token)
    clock.now = START + SIGNUP_LIFE
    with db.transaction() as tx:
        assert not is_open(tx, token)
        assert signed_up(tx, token) == NO_LINK


def test_a_link_that_a_member_overtook_is_void(db: Database) -> None:
    """Another server may have made it in the very moment of the sign-up."""
    token = opened(db)
    assert token is not None
    with db.transaction() as tx:
        row = tx.session.execute(text("SELECT * FROM signup_token")).one()
        assert isinstance(signed_up(tx, token), NewKey)
        columns = ", ".join(f":{name}" for name in row._fields)
        statement = text(f"INSERT INTO signup_token VALUES ({columns})")
        tx.session.execute(statement, dict(row._mapping))
    with db.transaction() as tx:
        assert signed_up(tx, token, "eve@example.com") == NO_LINK


@pytest.mark.parametrize("token", ["", "x", "\u20ac", "' OR 1=1 --"])
def test_other_tokens_open_nothing(db: Database, token: str) -> None:
    """Whatever stands in the link."""
    opened(db)
    with db.transaction() as tx:
        assert not is_open(tx, token)
        assert signed_up(tx, token) == NO_LINK
        assert tx.session.execute(text("SELECT count(*) FROM member")).scalar() == 0


def test_the_token_is_not_in_the_database(db: Database) -> None:
    """Who reads a backup cannot sign up."""
    token = opened(db)
    assert token is not None
    assert len(token) == 43
    with db.reading() as tx:
        row = tx.session.execute(text("SELECT * FROM signup_token")).one()
        assert token not in repr(tuple(row))


def test_there_is_no_other_role_yet(db: Database) -> None:
    """The database refuses what no code knows."""
    token = opened(db)
    assert token is not None
    with pytest.raises(IntegrityError, match="ck_member_role_known"), db.transaction() as tx:
        signed_up(tx, token)
        tx.session.flush()
        tx.session.execute(text("UPDATE member SET role = 'GUEST'"))


def test_who_has_an_account_signs_in_with_it(db: Database) -> None:
    """The link does not overwrite a password, and stays good."""
    token = opened(db)
    assert token is not None
    with db.transaction() as tx:
        people.create(tx, "ada@example.com", "$hers$")
        assert signed_up(tx, token) == KNOWN_ADDRESS
        assert is_open(tx, token)


ADA, BOB, EVE = (Actor(f"{name}@example.com") for name in ("ada", "bob", "eve"))
AS_OWNER, AS_ADMIN = of_role("OWNER"), of_role("ADMIN")


@pytest.fixture
def acme(db: Database) -> str:
    """An organization with Ada, its owner, and Bob, an admin."""
    with db.transaction() as tx:
        organization_id = default_organization(tx)
        joined(tx, organization_id, ADA, "OWNER")
        joined(tx, organization_id, BOB, "ADMIN")
    return organization_id


def joined(tx: Tx, organization_id: str, who: Actor, role: str) -> str:
    """The id of a new member."""
    person = people.find(tx, who.name)
    person_id = people.create(tx, who.name, "$x$") if person is None else person.id
    assert person_id is not None
    assert members.join(tx, organization_id, person_id, role, actor=who)
    return member(tx, organization_id, who)


def member(tx: Tx, organization_id: str, who: Actor) -> str:
    """A member's id."""
    rows, _ = members.listing(tx, organization_id, offset=0, limit=99)
    return next(row.id for row in rows if row.email == who.name)


def roles(db: Database, organization_id: str) -> dict[str, str]:
    """The members and their roles."""
    with db.reading() as tx:
        rows, total = members.listing(tx, organization_id, offset=0, limit=99)
        assert len(rows) == total
    return {row.email: row.role for row in rows}


def test_members_are_listed_page_by_page(db: Database, acme: str) -> None:
    """The first to come first; those of others are not among them."""
    with db.transaction() as tx:
        joined(tx, create(tx, "other", actor=EVE), EVE, "OWNER")
    assert roles(db, acme) == {ADA.name: "OWNER", BOB.name: "ADMIN"}
    with db.reading() as tx:
        (second,), total = members.listing(tx, acme, offset=1, limit=1)
        assert total == 2
        assert members.listing(tx, acme, offset=0, limit=2)[0][1] == second


def test_nobody_is_a_member_twice(db: Database, acme: str) -> None:
    """But may be one of several organizations, in the order they joined."""
    with db.transaction() as tx:
        bob = people.find(tx, BOB.name)
        assert bob is not None
        assert not members.join(tx, acme, bob.id, "OWNER", actor=BOB)
        other = create(tx, "other", display_name="Other & Co", actor=EVE)
        joined(tx, other, BOB, "VIEWER")
        found = members.memberships(tx, bob.id)
        assert {(one.organization_id, one.name, one.display_name, one.role) for one in found} == {
            (acme, "default", None, "ADMIN"),
            (other, "other", "Other & Co", "VIEWER"),
        }
    assert roles(db, acme)[BOB.name] == "ADMIN"


def test_a_role_is_changed_and_noted(db: Database, acme: str) -> None:
    """By an admin, among those who are no owners."""
    with db.transaction() as tx:
        eve = joined(tx, acme, EVE, "VIEWER")
        changed = members.change_role(tx, acme, eve, "DEVELOPER", may=AS_ADMIN, actor=BOB)
        assert isinstance(changed, members.Member)
        assert (changed.id, changed.role) == (eve, "DEVELOPER")
        (noted, *_), _ = audit.listing(tx, acme, offset=0, limit=9)
        assert (noted.actor, noted.action, noted.subject) == (BOB.name, "member.change", eve)
        assert noted.before == '{"email":"eve@example.com","role":"VIEWER"}'
        assert noted.after == '{"role":"DEVELOPER"}'
    assert roles(db, acme)[EVE.name] == "DEVELOPER"


def test_owners_are_for_owners_alone(db: Database, acme: str) -> None:
    """An admin makes, changes and removes none; an owner does."""
    with db.transaction() as tx:
        ada, bob = member(tx, acme, ADA), member(tx, acme, BOB)
        for refused in (
            members.change_role(tx, acme, ada, "VIEWER", may=AS_ADMIN, actor=BOB),
            members.remove(tx, acme, ada, may=AS_ADMIN, actor=BOB),
            members.change_role(tx, acme, bob, "OWNER", may=AS_ADMIN, actor=BOB),
        ):
            assert refused == OWNERS_ALONE
        members.change_role(tx, acme, bob, "OWNER", may=AS_OWNER, actor=ADA)
        members.change_role(tx, acme, ada, "ADMIN", may=AS_OWNER, actor=BOB)
    assert roles(db, acme) == {ADA.name: "ADMIN", BOB.name: "OWNER"}


def test_the_last_owner_stays(db: Database, acme: str) -> None:
    """Neither removed nor made less, not even by themselves; staying owner changes nothing."""
    with db.transaction() as tx:
        ada = member(tx, acme, ADA)
        assert members.remove(tx, acme, ada, may=AS_OWNER, actor=ADA) == LAST_OWNER
        demoted = members.change_role(tx, acme, ada, "ADMIN", may=AS_OWNER, actor=ADA)
        assert demoted == LAST_OWNER
        same = members.change_role(tx, acme, ada, "OWNER", may=AS_OWNER, actor=ADA)
        assert isinstance(same, members.Member)
    assert roles(db, acme)[ADA.name] == "OWNER"


def test_two_owners_leave_at_the_same_moment(db: Database, acme: str) -> None:
    """One of them stays."""
    with db.transaction() as tx:
        ids = [member(tx, acme, ADA), joined(tx, acme, EVE, "OWNER")]
    barrier = Barrier(2)

    def leave(member_id: str) -> None:
        with db.transaction() as tx:
            if db.dialect == "postgresql":  # on SQLite the other waits for the transaction itself
                barrier.wait()
            members.remove(tx, acme, member_id, may=AS_OWNER, actor=ADA)

    threads = [Thread(target=leave, args=(member_id,)) for member_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(roles(db, acme).values()) == ["ADMIN", "OWNER"]


def test_who_is_removed_is_signed_out_here(db: Database, acme: str) -> None:
    """And stays signed in elsewhere."""
    with db.transaction() as tx:
        other = create(tx, "other", actor=EVE)
        joined(tx, other, BOB, "VIEWER")
        bob = people.find(tx, BOB.name)
        assert bob is not None
        here, there = (sessions.begin(tx, bob.id, each) for each in (acme, other))
        assert members.remove(tx, acme, member(tx, acme, BOB), may=AS_ADMIN, actor=BOB) is None
        assert [one.id for one in sessions.listing(tx, bob.id)] == [there.session_id]
        assert sessions.authenticate(tx, here.access_token) is None
        (noted, *_), _ = audit.listing(tx, acme, offset=0, limit=9)
        assert (noted.action, noted.after) == ("member.remove", None)
    assert roles(db, acme) == {ADA.name: "OWNER"}


def test_members_of_others_are_none_of_ours(db: Database, acme: str) -> None:
    """Their ids are told like those that are not there."""
    with db.transaction() as tx:
        eve = joined(tx, create(tx, "other", actor=EVE), EVE, "VIEWER")
        for member_id in (eve, "nothing"):
            changed = members.change_role(tx, acme, member_id, "ADMIN", may=AS_OWNER, actor=ADA)
            assert changed == NO_MEMBER
            assert members.remove(tx, acme, member_id, may=AS_OWNER, actor=ADA) == NO_MEMBER
