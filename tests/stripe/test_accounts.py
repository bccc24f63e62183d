"""Stripe accounts of organizations: one each, of one mode, and what happens to them."""

import base64
import itertools
import threading
from collections.abc import Iterator

import msgspec
import pytest
from sqlmodel import col, select

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.secrets import Keyring, Place
from usageflow.db.session import Database, Tx
from usageflow.db.tables import (
    ACCOUNT_STATES,
    AuditRow,
    OrganizationRow,
    StripeAccountRow,
)
from usageflow.errors import ConfigurationError
from usageflow.stripe.accounts import (
    TRANSITIONS,
    Refused,
    account_of,
    accounts,
    connect,
    deauthorize,
    ensure_own,
    is_live,
    own_account,
    pause,
    remove_key,
    resume,
    store_key,
)

KEYRING = Keyring.read(base64.b64encode(b"k" * 32).decode())
TEST_KEY, LIVE_KEY = "sk_test_1", "rk_live_1"


@pytest.fixture
def tx(database: Database) -> Iterator[Tx]:
    """One transaction on a fresh database."""
    with database.transaction() as opened:
        yield opened


@pytest.fixture
def ours(tx: Tx) -> str:
    """The id of the default organization."""
    return default_organization(tx)


@pytest.fixture
def theirs(tx: Tx) -> str:
    """The id of another organization."""
    tx.session.add(OrganizationRow(id="theirs", name="theirs", created_at=tx.now))
    tx.session.flush()
    return "theirs"


def connected(tx: Tx, organization_id: str, account: str = "acct_1") -> str:
    """The id of an account that was connected, in test mode."""
    made = connect(tx, organization_id, account, livemode=False)
    assert isinstance(made, str)
    return made


def state(tx: Tx, account_id: str) -> tuple[str, str | None]:
    """State and reason of an account."""
    row = tx.session.get_one(StripeAccountRow, account_id)
    return row.state, row.reason


def audited(tx: Tx) -> list[str]:
    """What was done, in order."""
    return list(tx.session.exec(select(AuditRow.action).order_by(col(AuditRow.seq))))


def test_the_own_account_is_made_once_and_activated_at_each_start(tx: Tx, ours: str) -> None:
    """A pause ends with a new start: perhaps the key is another one."""
    account_id = ensure_own(tx, ours, livemode=False)
    assert pause(tx, account_id, "Invalid API Key")
    assert ensure_own(tx, ours, livemode=False) == account_id
    assert state(tx, account_id) == ("active", None)
    assert [row.account for row in accounts(tx)] == ["own"]


@pytest.mark.parametrize("first", ["own", "stored", "connect"])
@pytest.mark.parametrize("second", ["own", "stored", "connect"])
def test_modes_are_not_mixed(tx: Tx, ours: str, theirs: str, first: str, second: str) -> None:
    """Whichever account was first, of whichever organization, and also after it has ended."""

    def join(way: str, organization_id: str, *, livemode: bool) -> str | Refused:
        if way == "connect":
            return connect(tx, organization_id, f"acct_{livemode}", livemode=livemode)
        if way == "stored":
            key = LIVE_KEY if livemode else TEST_KEY
            return store_key(tx, organization_id, key, KEYRING, actor=CLI)
        return ensure_own(tx, organization_id, livemode=livemode)

    account_id = join(first, theirs, livemode=False)
    assert isinstance(account_id, str)
    deauthorize(tx, account_id, "gone")
    with pytest.raises(ConfigurationError, match=r"to Stripe's test mode, but .* is a live key"):
        refused = join(second, ours, livemode=True)
        if isinstance(refused, Refused):  # a value where the owner of an account is told
            raise ConfigurationError(refused.reason)


def test_a_key_is_stored_sealed(tx: Tx, ours: str) -> None:
    """For this row, and the audit log does not have it."""
    account_id = store_key(tx, ours, TEST_KEY, KEYRING, actor=CLI)
    row = tx.session.get_one(StripeAccountRow, account_id)
    assert TEST_KEY not in str(row.secret)
    assert KEYRING.open(str(row.secret), Place.of(row)) == TEST_KEY
    assert (row.kind, row.account, row.livemode) == ("own", "own", False)
    (done,) = tx.session.exec(select(AuditRow)).all()
    assert (done.actor, done.action, done.subject) == (CLI, "stripe.key.set", "own")
    assert done.after == f'{{"sealed_with":"{KEYRING.sealing}"}}'


def test_a_stored_key_is_replaced_and_removed(tx: Tx, ours: str) -> None:
    """The account stays the same one; without its key it stops, until it has one again."""
    account_id = store_key(tx, ours, TEST_KEY, KEYRING, actor=CLI)
    assert store_key(tx, ours, "sk_test_2", KEYRING, actor=CLI) == account_id
    assert remove_key(tx, ours, actor=CLI)
    assert state(tx, account_id) == ("deauthorized", "its key was removed")
    assert tx.session.get_one(StripeAccountRow, account_id).secret is None
    assert not remove_key(tx, ours, actor=CLI)
    assert store_key(tx, ours, TEST_KEY, KEYRING, actor=CLI) == account_id
    assert state(tx, account_id) == ("active", None)


def test_a_key_can_be_removed_that_stripe_does_not_know_any_more(tx: Tx, ours: str) -> None:
    """A secret that is of no use is not kept."""
    account_id = store_key(tx, ours, TEST_KEY, KEYRING, actor=CLI)
    deauthorize(tx, account_id, "expired")
    assert remove_key(tx, ours, actor=CLI)
    assert tx.session.get_one(StripeAccountRow, account_id).secret is None
    assert not remove_key(tx, "nobody", actor=CLI)


def test_nothing_is_stored_that_cannot_be_sealed(tx: Tx, ours: str) -> None:
    """The message says how to make a key."""
    with pytest.raises(ConfigurationError, match="openssl rand"):
        store_key(tx, ours, TEST_KEY, Keyring([]), actor=CLI)


def test_of_two_keys_none_is_chosen_by_chance(tx: Tx, ours: str) -> None:
    """One is stored, another in the environment."""
    store_key(tx, ours, TEST_KEY, KEYRING, actor=CLI)
    with pytest.raises(ConfigurationError, match="usageflow stripe key remove"):
        ensure_own(tx, ours, livemode=False)


def test_an_organization_sends_to_one_account(tx: Tx, ours: str) -> None:
    """Another is refused, with the command that ends the first one."""
    connected(tx, ours)
    refused = connect(tx, ours, "acct_2", livemode=False)
    assert isinstance(refused, Refused)
    assert "goes to acct_1 already" in refused.reason
    assert "`usageflow stripe disconnect acct_1`" in refused.reason
    with pytest.raises(ConfigurationError, match="goes to acct_1 already"):
        ensure_own(tx, ours, livemode=False)
    with pytest.raises(ConfigurationError, match="goes to acct_1 already"):
        store_key(tx, ours, TEST_KEY, KEYRING, actor=CLI)


def test_an_own_account_is_ended_before_another_is_connected(tx: Tx, ours: str) -> None:
    """Then it is."""
    ensure_own(tx, ours, livemode=False)
    refused = connect(tx, ours, "acct_1", livemode=False)
    assert isinstance(refused, Refused)
    assert "goes to its own account already" in refused.reason
    assert "`usageflow stripe key remove`" in refused.reason
    assert remove_key(tx, ours, actor=CLI)
    assert connected(tx, ours)


def test_an_account_belongs_to_one_organization(tx: Tx, ours: str, theirs: str) -> None:
    """Even after it was disconnected: what waits for it must not meet another's usage."""
    account_id = connected(tx, theirs)
    for _ in range(2):
        refused = connect(tx, ours, "acct_1", livemode=False)
        assert refused == Refused("acct_1 is connected to another organization")
        deauthorize(tx, account_id, "gone")
    assert ensure_own(tx, ours, livemode=False) != ensure_own(tx, theirs, livemode=False)


def test_a_withdrawn_account_goes_on_when_it_connects_again(tx: Tx, ours: str) -> None:
    """It is the same one, so everything that waited for it is sent."""
    account_id = connected(tx, ours)
    assert deauthorize(tx, account_id, "the owner withdrew it")
    assert state(tx, account_id) == ("deauthorized", "the owner withdrew it")
    assert not deauthorize(tx, account_id, "a second webhook")
    assert state(tx, account_id) == ("deauthorized", "the owner withdrew it")
    assert connected(tx, ours) == account_id
    assert state(tx, account_id) == ("active", None)
    assert audited(tx) == ["stripe.connect", "stripe.deauthorize", "stripe.connect"]
    (row,) = tx.session.exec(select(AuditRow).where(col(AuditRow.action) == "stripe.deauthorize"))
    assert msgspec.json.decode(row.before or "") == {"state": "active", "reason": None}


def test_a_withdrawn_account_is_not_paused_nor_resumed(tx: Tx, ours: str) -> None:
    """Only who owns it lets it go on; a paused one goes on at once."""
    account_id = connected(tx, ours)
    assert not resume(tx, account_id)
    assert pause(tx, account_id, "key refused")
    assert not pause(tx, account_id, "key refused")
    assert state(tx, account_id) == ("paused", "key refused")
    assert resume(tx, account_id)
    assert state(tx, account_id) == ("active", None)
    assert pause(tx, account_id, "key refused")
    assert deauthorize(tx, account_id, "gone")
    assert not pause(tx, account_id, "key refused")
    assert not resume(tx, account_id)


def test_the_table_of_states_is_whole() -> None:
    """It has no state that the schema has not, and a connection ends every other."""
    happenings = {what for _, what in TRANSITIONS}
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(ACCOUNT_STATES)
    assert happenings == {"pause", "resume", "deauthorize", "connect"}
    for one in ACCOUNT_STATES:
        assert TRANSITIONS[one, "connect"] == "active"
    for one, what in itertools.product(ACCOUNT_STATES, happenings):
        assert TRANSITIONS.get((one, what)) != one or (one, what) == ("active", "connect")


def test_the_account_that_usage_goes_to_is_found(tx: Tx, ours: str, theirs: str) -> None:
    """By default; by name any, but none of another organization, and no other sink."""
    with pytest.raises(ConfigurationError, match="no Stripe account yet: set USAGEFLOW_STRIPE"):
        account_of(tx, ours)
    connected(tx, theirs, "acct_theirs")
    tx.session.add(
        StripeAccountRow(
            id="file",
            organization_id=ours,
            kind="cloudevents",
            account="file",
            livemode=True,
            state="active",
            created_at=tx.now,
        )
    )
    deauthorize(tx, connected(tx, ours, "acct_1"), "gone")
    second = connected(tx, ours, "acct_2")
    assert account_of(tx, ours).account == "acct_2"
    assert account_of(tx, ours, second).account == "acct_2"
    assert account_of(tx, ours, "acct_1").account == "acct_1"
    assert own_account(tx, ours) is None
    for name in ("acct_theirs", "file"):
        with pytest.raises(ConfigurationError, match=f"no Stripe account '{name}'"):
            account_of(tx, ours, name)


def test_two_organizations_race_for_one_account(database: Database) -> None:
    """One gets it, whichever; the other is told."""
    with database.transaction() as tx:
        for name in ("a", "b"):
            tx.session.add(OrganizationRow(id=name, name=name, created_at=tx.now))
    outcomes: list[str | Refused] = []
    together = threading.Barrier(2)

    def run(organization_id: str) -> None:
        together.wait()
        with database.transaction() as tx:
            outcomes.append(connect(tx, organization_id, "acct_1", livemode=False))

    threads = [threading.Thread(target=run, args=[name]) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(one).__name__ for one in outcomes) == ["Refused", "str"]


@pytest.mark.parametrize(
    ("key", "live"),
    [("sk_live_1", True), ("rk_live_x", True), ("sk_test_live_1", False), ("rk_test_1", False)],
)
def test_a_key_tells_its_mode(key: str, *, live: bool) -> None:
    """By its beginning."""
    assert is_live(key) is live
