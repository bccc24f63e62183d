"""Secrets at rest: what is sealed opens where it belongs, with its key, and nowhere else."""

import base64
import os
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import col, select

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.secrets import NO_KEY, Keyring, Place, by_key, rotate
from usageflow.db.session import Database, Tx
from usageflow.db.tables import AuditRow, StripeAccountRow, StripeWebhookRow
from usageflow.errors import ConfigurationError

OLD, NEW, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
PLACE = Place("stripe_account.secret", "org", "row")
SECRET = "sk_live_keepthistoyourself"

texts = st.text(st.characters(codec="utf-8"))


def ring(*keys: str) -> Keyring:
    """The keys as the environment has them."""
    return Keyring.read(",".join(keys))


@given(secret=texts, place=st.builds(Place, texts, texts, texts))
def test_what_is_sealed_opens_where_it_belongs(secret: str, place: Place) -> None:
    """Any text, any place; and never looks the same twice."""
    sealed = ring(OLD).seal(secret, place)
    assert ring(NEW, OLD).open(sealed, place) == secret
    assert sealed.isascii()
    assert sealed.startswith(f"v1.{ring(OLD).sealing}.")
    assert ring(OLD).seal(secret, place) != sealed


@given(first=st.tuples(texts, texts, texts), second=st.tuples(texts, texts, texts))
def test_it_opens_nowhere_else(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    """Neither for another purpose, nor another organization, nor another row."""
    sealed = ring(OLD).seal(SECRET, Place(*first))
    if first != second:
        with pytest.raises(ConfigurationError, match="belongs to another row"):
            ring(OLD).open(sealed, Place(*second))


@given(data=st.data())
def test_a_changed_bit_is_seen(data: st.DataObject) -> None:
    """In whichever character: version, key, nonce, text or tag."""
    sealed = ring(OLD).seal(SECRET, PLACE)
    place = data.draw(st.integers(0, len(sealed) - 1))
    changed = chr(ord(sealed[place]) ^ 1 << data.draw(st.integers(0, 6)))
    with pytest.raises(ConfigurationError):
        ring(OLD).open(sealed[:place] + changed + sealed[place + 1 :], PLACE)


@given(junk=texts)
def test_what_is_not_sealed_does_not_open(junk: str) -> None:
    """Such as a key that somebody wrote into the database as it is."""
    for sealed in (junk, f"v1.{ring(OLD).sealing}.{junk}"):
        with pytest.raises(ConfigurationError):
            ring(OLD).open(sealed, PLACE)


@pytest.mark.parametrize("text", [None, "", " , "])
def test_without_a_key_nothing_is_sealed(text: str | None) -> None:
    """The message says how to make one; who stores no secret needs none."""
    with pytest.raises(ConfigurationError, match="openssl rand -base64 32"):
        Keyring.read(text).seal(SECRET, PLACE)
    with pytest.raises(ConfigurationError) as refused:
        Keyring.read(text).open(ring(OLD).seal(SECRET, PLACE), PLACE)
    assert ring(OLD).sealing in str(refused.value)
    assert "encryption" in NO_KEY.lower()


def test_a_key_that_is_missing_is_named() -> None:
    """By its id, which tells nothing about it."""
    sealed = ring(OLD).seal(SECRET, PLACE)
    with pytest.raises(ConfigurationError, match=f"the key {ring(OLD).sealing}, which is not in"):
        ring(NEW).open(sealed, PLACE)


@pytest.mark.parametrize(
    "wrong", ["no key", "AAAA", OLD[:-4], OLD + "AAAA", "ä" * 44, OLD[:-2] + "!="]
)
def test_a_key_that_is_none_is_told_by_its_position(wrong: str) -> None:
    """And is not in the message."""
    with pytest.raises(ConfigurationError, match="key 2 of USAGEFLOW_ENCRYPTION_KEYS") as refused:
        ring(OLD, wrong)
    assert wrong not in str(refused.value)


def test_both_alphabets_of_base64_are_keys() -> None:
    """Whichever tool made it."""
    key = b"\xff" * 32
    standard, url = base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()
    assert standard != url
    assert ring(standard).open(ring(url).seal(SECRET, PLACE), PLACE) == SECRET


def test_neither_keys_nor_secrets_are_shown() -> None:
    """Not by `repr`, not in a traceback."""
    keyring = ring(OLD, NEW)
    assert repr(keyring) == f"Keyring({keyring.sealing}, {ring(NEW).sealing})"
    sealed = keyring.seal(SECRET, PLACE)
    try:
        keyring.open(sealed, Place("another", "org", "row"))
    except ConfigurationError:
        told = traceback.format_exc()
    for hidden in (OLD, NEW, SECRET, sealed):
        assert hidden not in told


def stored(tx: Tx, keyring: Keyring) -> tuple[StripeAccountRow, StripeWebhookRow]:
    """An account and a webhook with sealed secrets, and an account without."""
    organization_id = default_organization(tx)
    accounts = [
        StripeAccountRow(
            id=name,
            organization_id=organization_id,
            kind="own",
            account=name,
            livemode=False,
            state="active",
            created_at=tx.now,
        )
        for name in ("with", "without")
    ]
    webhook = StripeWebhookRow(
        id=os.urandom(4).hex(),
        organization_id=organization_id,
        account_id="with",
        endpoint_id="we_1",
        kind="snapshot",
        url="http://127.0.0.1",
        secret="",
        created_at=tx.now,
    )
    accounts[0].secret = keyring.seal(SECRET, Place.of(accounts[0]))
    webhook.secret = keyring.seal("whsec_1", Place.of(webhook))
    tx.session.add_all(accounts)
    tx.session.flush()
    tx.session.add(webhook)
    tx.session.flush()
    return accounts[0], webhook


def test_rotation_seals_everything_with_the_first_key(database: Database) -> None:
    """Once; afterwards the old key is of no use. The audit log has it, without any value."""
    with database.transaction() as tx:
        stored(tx, ring(OLD))
    with database.transaction() as tx:
        assert by_key(tx) == {ring(OLD).sealing: 2}
        assert rotate(tx, ring(NEW, OLD), actor=CLI) == 2
    with database.transaction() as tx:
        assert by_key(tx) == {ring(NEW).sealing: 2}
        assert rotate(tx, ring(NEW, OLD), actor=CLI) == 0
        account = tx.session.get_one(StripeAccountRow, "with")
        webhook = tx.session.exec(select(StripeWebhookRow)).one()
        assert ring(NEW).open(account.secret or "", Place.of(account)) == SECRET
        assert ring(NEW).open(webhook.secret, Place.of(webhook)) == "whsec_1"
        (row,) = tx.session.exec(select(AuditRow).where(col(AuditRow.action) == "secrets.rotate"))
        assert (row.actor, row.subject, row.after) == (CLI, ring(NEW).sealing, '{"sealed":2}')


def test_rotation_changes_all_or_nothing(database: Database) -> None:
    """One secret that no key opens is told, and every other stays as it was."""
    with database.transaction() as tx:
        account, webhook = stored(tx, ring(OLD))
        webhook.secret = ring(OTHER).seal("whsec_1", Place.of(webhook))
        before = account.secret
    with pytest.raises(ConfigurationError, match=ring(OTHER).sealing), database.transaction() as tx:
        rotate(tx, ring(NEW, OLD), actor=CLI)
    with database.reading() as tx:
        assert tx.session.get_one(StripeAccountRow, "with").secret == before
        assert by_key(tx) == {ring(OLD).sealing: 1, ring(OTHER).sealing: 1}


def test_rotation_tells_of_a_damaged_secret_under_the_first_key(database: Database) -> None:
    """It opens what it need not seal anew."""
    with database.transaction() as tx:
        account, webhook = stored(tx, ring(NEW))
        account.secret, webhook.secret = webhook.secret, str(account.secret)
    with pytest.raises(ConfigurationError, match="another row"), database.transaction() as tx:
        rotate(tx, ring(NEW), actor=CLI)
