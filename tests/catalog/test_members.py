"""Members: the owner's sign-up by one link, roles, and that an owner always remains."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from usageflow.catalog import keys
from usageflow.catalog.keys import Caller, NewKey
from usageflow.catalog.members import NO_LINK, SIGNUP_LIFE, is_open, open_signup, sign_up
from usageflow.catalog.organizations import DEFAULT, default_organization, organization
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
