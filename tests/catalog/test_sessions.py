"""Sessions: who is signed in, for how long, and what ends it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest
from sqlalchemy import text

from usageflow.catalog import members, people, sessions
from usageflow.catalog.audit import Actor
from usageflow.catalog.organizations import create, default_organization
from usageflow.catalog.sessions import ACCESS_LIFE, REFRESH_LIFE, SESSION_LIFE, SignedIn, Tokens
from usageflow.db.session import Database, Tx

START = datetime(2026, 11, 21, 18, tzinfo=UTC)
ADA = Actor("ada@example.com")


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
def organization_id(db: Database) -> str:
    """The default organization."""
    with db.transaction() as tx:
        return default_organization(tx)


@pytest.fixture
def ada(db: Database, organization_id: str) -> str:
    """A person, admin of the default organization."""
    with db.transaction() as tx:
        person_id = people.create(tx, ADA.name, "$none$")
        assert person_id is not None
        members.join(tx, organization_id, person_id, "ADMIN", actor=ADA)
    return person_id


def begun(db: Database, person_id: str, organization_id: str) -> Tokens:
    """A session."""
    with db.transaction() as tx:
        return sessions.begin(tx, person_id, organization_id, address="::1", user_agent="x" * 999)


def refreshed(db: Database, token: str) -> Tokens | None:
    """What is got for a refresh token."""
    with db.transaction() as tx:
        return sessions.refresh(tx, token)


def who(db: Database, tokens: Tokens) -> SignedIn | None:
    """Who has these tokens."""
    with db.reading() as tx:
        return sessions.authenticate(tx, tokens.access_token)


def test_a_session_tells_who_it_is(db: Database, ada: str, organization_id: str) -> None:
    """The person, the organization, and their role there."""
    tokens = begun(db, ada, organization_id)
    expected = SignedIn(tokens.session_id, ada, "ada@example.com", organization_id, "ADMIN")
    assert who(db, tokens) == expected
    with db.reading() as tx:
        assert sessions.authenticate(tx, tokens.refresh_token) is None
        assert sessions.authenticate(tx, "") is None


def test_no_token_is_in_the_database(db: Database, ada: str, organization_id: str) -> None:
    """Who reads a backup is not signed in; 256 bits each; none in a log."""
    tokens = begun(db, ada, organization_id)
    again = refreshed(db, tokens.refresh_token)
    assert again is not None
    with db.reading() as tx:
        row = repr(tuple(tx.session.execute(text("SELECT * FROM session")).one()))
    for one in (tokens, again):
        for token in (one.access_token, one.refresh_token):
            assert len(token) == 43
            assert token not in row
            assert token not in repr(one)


def test_an_access_token_has_a_short_life(
    db: Database, clock: Clock, ada: str, organization_id: str
) -> None:
    """Fifteen minutes, exclusive; a refresh gives another."""
    tokens = begun(db, ada, organization_id)
    clock.now = START + ACCESS_LIFE - timedelta(microseconds=1)
    assert who(db, tokens) is not None
    clock.now = START + timedelta(minutes=15)
    assert who(db, tokens) is None
    again = refreshed(db, tokens.refresh_token)
    assert again is not None
    assert who(db, again) is not None


def test_a_refresh_replaces_both_tokens(db: Database, ada: str, organization_id: str) -> None:
    """The ones before open nothing."""
    first = begun(db, ada, organization_id)
    second = refreshed(db, first.refresh_token)
    assert second is not None
    assert second.session_id == first.session_id
    assert who(db, first) is None
    assert who(db, second) is not None


def test_a_refresh_token_shown_again_ends_the_session(
    db: Database, ada: str, organization_id: str
) -> None:
    """One of the two who have it has stolen it."""
    first = begun(db, ada, organization_id)
    other = begun(db, ada, organization_id)
    second = refreshed(db, first.refresh_token)
    assert second is not None
    assert refreshed(db, first.refresh_token) is None
    assert who(db, second) is None
    assert refreshed(db, second.refresh_token) is None
    assert who(db, other) is not None, "only this one"


def test_two_refreshes_at_the_same_moment(db: Database, ada: str, organization_id: str) -> None:
    """One gets tokens, and the other ends the session: nobody gets two."""
    tokens = begun(db, ada, organization_id)
    got: list[Tokens | None] = []
    barrier = Barrier(2)

    def refresh() -> None:
        barrier.wait()
        got.append(refreshed(db, tokens.refresh_token))

    threads = [Thread(target=refresh) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (one,) = [found for found in got if found is not None]
    assert who(db, one) is None


def test_who_is_away_too_long_is_signed_out(
    db: Database, clock: Clock, ada: str, organization_id: str
) -> None:
    """After seven days."""
    tokens = begun(db, ada, organization_id)
    clock.now = START + REFRESH_LIFE
    assert refreshed(db, tokens.refresh_token) is None
    clock.now -= timedelta(microseconds=1)
    assert refreshed(db, tokens.refresh_token) is not None


def test_no_session_lasts_for_ever(
    db: Database, clock: Clock, ada: str, organization_id: str
) -> None:
    """However often it is refreshed; no token outlives it."""
    tokens: Tokens | None = begun(db, ada, organization_id)
    for day in range(6, 30, 6):
        clock.now = START + timedelta(days=day)
        assert tokens is not None
        tokens = refreshed(db, tokens.refresh_token)
    assert tokens is not None
    assert tokens.refresh_life == timedelta(days=6)
    clock.now = START + SESSION_LIFE - timedelta(minutes=1)
    tokens = refreshed(db, tokens.refresh_token)
    assert tokens is not None
    assert tokens.access_life == tokens.refresh_life == timedelta(minutes=1)
    clock.now = START + SESSION_LIFE
    assert who(db, tokens) is None
    assert refreshed(db, tokens.refresh_token) is None


def test_who_is_removed_is_out_at_once(db: Database, ada: str, organization_id: str) -> None:
    """And a changed role counts from the next request on."""
    tokens = begun(db, ada, organization_id)
    with db.transaction() as tx:
        tx.session.execute(text("UPDATE member SET role = 'VIEWER'"))
    found = who(db, tokens)
    assert found is not None
    assert found.role == "VIEWER"
    with db.transaction() as tx:
        tx.session.execute(text("DELETE FROM member"))
    assert who(db, tokens) is None


def test_acting_for_another_organization(db: Database, ada: str, organization_id: str) -> None:
    """Of one's own; with the role one has there."""
    tokens = begun(db, ada, organization_id)
    with db.transaction() as tx:
        second, foreign = create(tx, "second", actor=ADA), create(tx, "foreign", actor=ADA)
        members.join(tx, second, ada, "VIEWER", actor=ADA)
        assert sessions.switch(tx, tokens.session_id, second)
        assert not sessions.switch(tx, tokens.session_id, foreign)
        assert not sessions.switch(tx, "ses_nothing", second)
    found = who(db, tokens)
    assert found is not None
    assert (found.organization_id, found.role) == (second, "VIEWER")


def test_sessions_are_listed_and_ended(
    db: Database, clock: Clock, ada: str, organization_id: str
) -> None:
    """One's own alone: one, all others, or those for an organization."""
    first, second, third = (begun(db, ada, organization_id) for _ in range(3))
    clock.now += timedelta(minutes=1)
    assert refreshed(db, second.refresh_token) is not None

    def live(tx: Tx) -> list[str]:
        return [row.id for row in sessions.listing(tx, ada)]

    with db.transaction() as tx:
        shown = sessions.listing(tx, ada)
        assert live(tx)[0] == second.session_id, "the latest used"
        assert len(shown) == 3
        assert (shown[0].address, shown[0].user_agent) == ("::1", "x" * 200)
        assert not sessions.revoke(tx, "eve", first.session_id)
        assert sessions.revoke(tx, ada, first.session_id)
        assert not sessions.revoke(tx, ada, first.session_id)
        assert set(live(tx)) == {second.session_id, third.session_id}
        assert sessions.revoke_others(tx, ada, third.session_id)
        assert live(tx) == [third.session_id]
        assert not sessions.revoke_in(tx, ada, "another")
        assert sessions.revoke_in(tx, ada, organization_id)
        assert live(tx) == []
    assert who(db, third) is None


def test_signing_out_takes_either_token(db: Database, ada: str, organization_id: str) -> None:
    """A browser may have only one of them left."""
    with db.transaction() as tx:
        for name in ("access_token", "refresh_token"):
            tokens = sessions.begin(tx, ada, organization_id)
            assert sessions.revoke_presented(tx, getattr(tokens, name))
            assert not sessions.revoke_presented(tx, getattr(tokens, name))
        assert not sessions.revoke_presented(tx)
        assert sessions.listing(tx, ada) == []


def test_what_is_over_is_forgotten(
    db: Database, clock: Clock, ada: str, organization_id: str
) -> None:
    """When the person signs in again; the table does not grow with the years."""
    ended = begun(db, ada, organization_id)
    with db.transaction() as tx:
        sessions.revoke(tx, ada, ended.session_id)
    begun(db, ada, organization_id)
    clock.now += REFRESH_LIFE
    latest = begun(db, ada, organization_id)
    with db.reading() as tx:
        rows = tx.session.execute(text("SELECT id FROM session")).scalars().all()
    assert rows == [latest.session_id]
