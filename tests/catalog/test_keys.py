"""API keys: shown once, kept as a hash, refused with a reason."""

import hashlib
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from usageflow.catalog import keys
from usageflow.catalog.keys import Caller, Refusal
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database, Tx
from usageflow.errors import ConfigurationError


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
