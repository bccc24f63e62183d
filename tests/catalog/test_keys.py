"""API keys: shown once, kept as a hash, refused with a reason."""

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlmodel import select

from usageflow.catalog import keys
from usageflow.catalog.audit import Actor
from usageflow.catalog.keys import Caller, KeyKind, NewKey, Refusal
from usageflow.catalog.organizations import create, default_organization
from usageflow.catalog.permissions import SCOPES, of_scopes
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Database, Tx
from usageflow.db.tables import AuditRow
from usageflow.errors import ConfigurationError

ADA = Actor("ada@example.com", "req_1")
ALL = of_scopes(SCOPES)


@pytest.fixture
def tx(database: Database) -> Iterator[Tx]:
    """An open transaction."""
    with database.transaction() as opened:
        yield opened


@pytest.fixture
def organization_id(tx: Tx) -> str:
    """The default organization."""
    return default_organization(tx)


def test_a_key_is_good_for_its_scopes(tx: Tx, organization_id: str) -> None:
    """The holder of the secret is recognised, for each scope of the key."""
    new = keys.create_key(tx, organization_id, "edge", ["usage.write", "usage.read"])
    assert re.fullmatch("uf_live_[0-9a-f]{48}", new.secret)
    expected = Caller(organization_id, new.api_key.id, "edge")
    assert keys.authenticate(tx, new.secret, "usage.write") == expected
    assert keys.authenticate(tx, new.secret, "usage.read") == expected


def test_the_secret_is_nowhere_in_the_database(tx: Tx, organization_id: str) -> None:
    """Only its hash and the first 12 characters are kept; its representation hides it too."""
    new = keys.create_key(tx, organization_id, "edge", ["usage.write"])
    row = tx.session.execute(text("SELECT * FROM api_key")).one()
    assert new.secret not in repr(tuple(row))
    assert new.secret not in repr(new)
    assert row.prefix == new.secret[:12]
    assert row.key_hash == hashlib.sha256(new.secret.encode()).hexdigest()


def test_each_refusal_says_why(tx: Tx, organization_id: str) -> None:
    """Malformed, unknown, revoked and too narrow are told apart."""
    good = keys.create_key(tx, organization_id, "edge", ["usage.write"])
    gone = keys.create_key(tx, organization_id, "old", ["usage.write"])
    assert keys.revoke(tx, organization_id, gone.api_key.id)
    unknown = "uf_live_" + "0" * 48
    assert [
        keys.authenticate(tx, secret, scope)
        for secret, scope in [
            ("sk_live_1", "usage.write"),
            (unknown, "usage.write"),
            (gone.secret, "usage.write"),
            (good.secret, "usage.read"),
        ]
    ] == [
        Refusal(
            "invalid_api_key",
            "not a UsageFlow API key: uf_live_ or org_live_ and 48 hex digits",
        ),
        Refusal("invalid_api_key", "this API key is not known here"),
        Refusal("invalid_api_key", "API key 'old' was revoked"),
        Refusal("insufficient_scope", "API key 'edge' lacks the scope usage.read"),
    ]


def test_keys_are_checked_without_writing(database: Database) -> None:
    """A reading transaction is enough."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        new = keys.create_key(tx, organization_id, "edge", ["usage.write"])
    with database.reading() as tx:
        assert isinstance(keys.authenticate(tx, new.secret, "usage.write"), Caller)
    assert new.api_key.name == "edge"


def test_use_is_noted(tx: Tx, organization_id: str) -> None:
    """`mark_used` leaves the moment of the transaction."""
    new = keys.create_key(tx, organization_id, "edge", ["usage.write"])
    keys.mark_used(tx, new.api_key.id)
    assert keys.listing(tx, organization_id)[0].last_used_at == tx.now


def test_keys_are_revoked_by_id_or_prefix_once(tx: Tx, organization_id: str) -> None:
    """What is revoked already, or never was, is told by False."""
    first = keys.create_key(tx, organization_id, "a", ["usage.write"])
    second = keys.create_key(tx, organization_id, "b", ["usage.write"])
    assert keys.revoke(tx, organization_id, first.api_key.prefix)
    assert not keys.revoke(tx, organization_id, first.api_key.prefix)
    assert not keys.revoke(tx, organization_id, "nobody")
    assert not keys.revoke(tx, "another organization", second.api_key.id)
    revoked = {row.name: row.revoked_at for row in keys.listing(tx, organization_id)}
    assert revoked == {"a": tx.now, "b": None}


def test_a_shared_prefix_revokes_nothing(tx: Tx, organization_id: str) -> None:
    """Two keys that look alike are told apart by their ids."""
    for name in ("a", "b"):
        keys.create_key(tx, organization_id, name, ["usage.write"])
    tx.session.execute(text("UPDATE api_key SET prefix = 'uf_live_0000'"))
    tx.session.expire_all()
    with pytest.raises(ConfigurationError, match="2 keys begin with uf_live_0000"):
        keys.revoke(tx, organization_id, "uf_live_0000")


@pytest.mark.parametrize(
    ("scopes", "message"), [([], "a key needs a scope"), (["usage.wite"], "unknown scope")]
)
def test_scopes_are_checked(tx: Tx, organization_id: str, scopes: list[str], message: str) -> None:
    """The message names the scopes there are."""
    with pytest.raises(ConfigurationError, match=f"{message}.*there are usage.write"):
        keys.create_key(tx, organization_id, "edge", scopes)


@pytest.mark.parametrize("kind", ["uf_live", "org_live"])
def test_a_key_begins_with_its_kind(tx: Tx, organization_id: str, kind: KeyKind) -> None:
    """Both are good for the same; what is shown is its beginning and four characters."""
    new = keys.create_key(tx, organization_id, "edge", ["usage.write"], kind=kind)
    assert re.fullmatch(f"{kind}_[0-9a-f]{{48}}", new.secret)
    assert new.api_key.prefix == new.secret[: len(kind) + 5]
    assert isinstance(keys.authenticate(tx, new.secret, "usage.write"), Caller)


def test_a_key_may_expire(tx: Tx, organization_id: str) -> None:
    """From that very moment it is refused, with the reason."""
    soon = keys.create_key(
        tx, organization_id, "soon", ["usage.read"], expires_at=tx.now + timedelta(microseconds=1)
    )
    now = keys.create_key(tx, organization_id, "now", ["usage.read"], expires_at=tx.now)
    assert isinstance(keys.authenticate(tx, soon.secret, "usage.read"), Caller)
    expired = Refusal("invalid_api_key", "API key 'now' has expired")
    assert keys.authenticate(tx, now.secret, "usage.read") == expired
    assert keys.lookup(tx, now.secret) == expired
    assert [keys.status(one.api_key, tx.now) for one in (soon, now)] == ["ACTIVE", "EXPIRED"]


def test_a_key_that_was_looked_up_is_read_later(database: Database) -> None:
    """With its scopes, whatever it is good for; after the transaction too."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        new = keys.create_key(tx, organization_id, "edge", ["usage.write", "usage.read"])
    with database.reading() as tx:
        found = keys.lookup(tx, new.secret)
    assert not isinstance(found, Refusal)
    assert (found.id, found.organization_id) == (new.api_key.id, organization_id)
    assert found.scopes == "usage.read usage.write"


def test_a_rotated_key_works_on_for_a_while(tx: Tx, organization_id: str) -> None:
    """The new one has its name, scopes and kind; the old one ends after the overlap."""
    old = keys.create_key(tx, organization_id, "edge", ["usage.write"], kind="org_live")
    new = keys.rotate(tx, organization_id, old.api_key.id, timedelta(hours=2), may=ALL, actor=ADA)
    assert isinstance(new, NewKey)
    assert new.secret != old.secret
    assert (new.api_key.name, new.api_key.scopes) == ("edge", "usage.write")
    assert new.secret.startswith("org_live_")
    assert new.api_key.expires_at is None
    for one in (old, new):
        assert isinstance(keys.authenticate(tx, one.secret, "usage.write"), Caller)
    ends = tx.now + timedelta(hours=2)
    assert expiry(tx, organization_id, old) == ends
    keys.rotate(tx, organization_id, old.api_key.id, may=ALL, actor=ADA)
    assert expiry(tx, organization_id, old) == ends, "it never lives longer for it"
    last = keys.rotate(
        tx, organization_id, old.api_key.id, timedelta(0), expires_at=ends, may=ALL, actor=ADA
    )
    assert isinstance(last, NewKey)
    assert expiry(tx, organization_id, last) == ends
    assert isinstance(keys.authenticate(tx, old.secret, "usage.write"), Refusal)


def expiry(tx: Tx, organization_id: str, key: NewKey) -> datetime | None:
    """When a key ends, as it is kept."""
    return next(
        row.expires_at for row in keys.listing(tx, organization_id) if row.id == key.api_key.id
    )


def test_what_cannot_be_rotated(tx: Tx, organization_id: str) -> None:
    """What is not there, belongs to others, or does not work any more."""
    gone = keys.create_key(tx, organization_id, "gone", ["usage.write"]).api_key.id
    keys.revoke(tx, organization_id, gone, actor=ADA)
    old = keys.create_key(tx, organization_id, "old", ["usage.write"], expires_at=tx.now).api_key.id
    for owner, key_id, refused in [
        (organization_id, "nothing", Refused("not_found", "there is no such API key")),
        ("another", old, Refused("not_found", "there is no such API key")),
        (organization_id, gone, Refused("conflict", "API key 'gone' is revoked; make a new one")),
        (organization_id, old, Refused("conflict", "API key 'old' is expired; make a new one")),
    ]:
        assert keys.rotate(tx, owner, key_id, may=ALL, actor=ADA) == refused
    assert len(keys.listing(tx, organization_id)) == 2


def test_nobody_gets_a_key_that_may_more_than_they(tx: Tx, organization_id: str) -> None:
    """To replace a key is to be given what it may do; the key itself stays as it is."""
    old = keys.create_key(tx, organization_id, "billing", ["billing.write"])
    may = of_scopes(["billing.read", "usage.write"])
    refused = keys.rotate(tx, organization_id, old.api_key.id, may=may, actor=ADA)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("forbidden", "scopes")
    assert "plans.write" in refused.message
    assert expiry(tx, organization_id, old) is None
    assert len(keys.listing(tx, organization_id)) == 1


def test_keys_are_listed_page_by_page(tx: Tx, organization_id: str) -> None:
    """Oldest first, with how many there are; those of others are not among them."""
    other = create(tx, "other", actor=ADA)
    keys.create_key(tx, other, "theirs", ["usage.write"])
    for name in "abc":
        keys.create_key(tx, organization_id, name, ["usage.write"])
    all_, total = keys.page(tx, organization_id, offset=0, limit=10)
    assert (sorted(row.name for row in all_), total) == (["a", "b", "c"], 3)
    assert keys.page(tx, organization_id, offset=1, limit=1) == ([all_[1]], 3)


def test_what_is_done_to_keys_is_noted(tx: Tx, organization_id: str) -> None:
    """By whom, without the secret."""
    old = keys.create_key(tx, organization_id, "edge", ["usage.write"], actor=ADA)
    new = keys.rotate(tx, organization_id, old.api_key.id, may=ALL, actor=ADA)
    assert isinstance(new, NewKey)
    keys.revoke(tx, organization_id, new.api_key.id, actor=ADA)
    noted = tx.session.exec(select(AuditRow).order_by(text("seq"))).all()
    assert [(row.action, row.subject, row.actor) for row in noted] == [
        ("api_key.create", old.api_key.id, ADA.name),
        ("api_key.create", new.api_key.id, ADA.name),
        ("api_key.rotate", old.api_key.id, ADA.name),
        ("api_key.revoke", new.api_key.id, ADA.name),
    ]
    for row in noted:
        assert old.secret not in repr(row)
        assert new.secret not in repr(row)
