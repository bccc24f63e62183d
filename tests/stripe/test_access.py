"""By which key an account is reached, and how fast."""

import base64
import logging

import pytest

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.secrets import Keyring
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import OrganizationRow, StripeAccountRow
from usageflow.errors import ConfigurationError
from usageflow.stripe.access import AccountAccess, access, accounts_to_serve, reaching, start
from usageflow.stripe.accounts import (
    Refused,
    connect,
    deauthorize,
    ensure_own,
    pause,
    store_key,
)
from usageflow.stripe.emulator.remote import RemoteEmulator

KEY_TEXT = base64.b64encode(b"k" * 32).decode()
KEYRING = Keyring.read(KEY_TEXT)


def row(kind: str, *, livemode: bool = False, secret: str | None = None) -> StripeAccountRow:
    """An account that is in no database."""
    return StripeAccountRow(
        id="id", organization_id="o", kind=kind, account="acct_1", livemode=livemode, secret=secret
    )


@pytest.mark.parametrize(
    ("kind", "livemode", "calls_per_s"),
    [("own", True, 900), ("own", False, 20), ("connect", True, 80), ("connect", False, 20)],
)
def test_each_class_has_its_rate(kind: str, calls_per_s: float, *, livemode: bool) -> None:
    """Below what Stripe permits it; a setting goes before."""
    key = "sk_live_1" if livemode else "sk_test_1"
    settings = Settings(stripe_api_key=key, stripe_client_id="ca_1" if kind == "connect" else None)
    reached = access(row(kind, livemode=livemode), settings, KEYRING)
    assert isinstance(reached, AccountAccess)
    assert (reached.calls_per_s, reached.api_key) == (calls_per_s, key)
    assert reached.stripe_account == ("acct_1" if kind == "connect" else None)
    other = access(
        row(kind, livemode=livemode), settings.with_changes(stripe_calls_per_s=7.0), KEYRING
    )
    assert isinstance(other, AccountAccess)
    assert other.calls_per_s == 7


def test_the_key_is_not_shown() -> None:
    """Not by `repr`, which logs and tracebacks use."""
    settings = Settings(stripe_api_key="sk_test_hidden")
    assert "hidden" not in repr(access(row("own"), settings, KEYRING))


@pytest.mark.parametrize(
    ("account", "settings", "reason"),
    [
        (row("own"), Settings(), "needs USAGEFLOW_STRIPE_API_KEY"),
        (row("own"), Settings(stripe_api_key="sk_test_1", stripe_client_id="ca_1"), "no key for"),
        (row("connect"), Settings(stripe_api_key="sk_test_1"), "USAGEFLOW_STRIPE_CLIENT_ID and"),
        (row("own", livemode=True), Settings(stripe_api_key="sk_test_1"), "it is in live mode"),
        (row("own", secret="sk_test_1"), Settings(), "not as it was sealed"),
        (row("cloudevents"), Settings(stripe_api_key="sk_test_1"), "it is not Stripe's"),
    ],
)
def test_what_cannot_be_reached_says_why(
    account: StripeAccountRow, settings: Settings, reason: str
) -> None:
    """No key is tried that is another's, or of the other mode."""
    refused = access(account, settings, KEYRING)
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_every_account_that_can_be_reached_is_served(database: Database) -> None:
    """From the moment it is connected until the moment it is not; each with its own key."""
    platform = Settings(
        stripe_api_key="sk_test_1", stripe_client_id="ca_1", encryption_keys=KEY_TEXT
    )
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        for name in ("a", "b"):
            tx.session.add(OrganizationRow(id=name, name=name, created_at=tx.now))
        tx.session.flush()
    assert accounts_to_serve(database, platform) == []
    with database.transaction() as tx:
        first = connect(tx, "a", "acct_1", livemode=False)
        assert isinstance(first, str)
        store_key(tx, "b", "sk_test_b", KEYRING, actor=CLI)
        ensure_own(tx, organization_id, livemode=False)
    served = sorted(accounts_to_serve(database, platform), key=lambda one: one.organization_id)
    assert [(one.organization_id, one.api_key, one.stripe_account) for one in served] == [
        ("a", "sk_test_1", "acct_1"),
        ("b", "sk_test_b", None),
    ]
    with database.transaction() as tx:
        deauthorize(tx, first, "gone")
    assert [one.organization_id for one in accounts_to_serve(database, platform)] == ["b"]
    alone = platform.with_changes(stripe_client_id=None, encryption_keys=None)
    assert [one.api_key for one in accounts_to_serve(database, alone)] == ["sk_test_1"]


def test_a_start_makes_the_own_account_and_tries_paused_ones_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A platform's key is nobody's own; whose usage waits is told."""
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        start(tx, Settings(), organization_id)
        assert caplog.text == ""
        start(tx, Settings(stripe_api_key="sk_test_1", stripe_client_id="ca_1"), organization_id)
    assert accounts_to_serve(database, Settings(stripe_api_key="sk_test_1")) == []
    with database.transaction() as tx:
        start(tx, Settings(stripe_api_key="sk_test_1"), organization_id)
    (own,) = accounts_to_serve(database, Settings(stripe_api_key="sk_test_1"))
    with database.transaction() as tx:
        pause(tx, own.account_id, "key refused")
    assert accounts_to_serve(database, Settings(stripe_api_key="sk_test_1")) == []
    with caplog.at_level(logging.WARNING), database.transaction() as tx:
        start(tx, Settings(), organization_id)
        assert tx.session.get_one(StripeAccountRow, own.account_id).state == "active"
    (message,) = caplog.messages
    assert message.startswith("usage of Stripe account own waits: there is no key for it here")


def test_a_start_with_encryption_keys_that_are_none_fails(database: Database) -> None:
    """Not a second later, when the first secret is needed."""
    with pytest.raises(ConfigurationError, match="key 1 of"), database.transaction() as tx:
        start(tx, Settings(encryption_keys="x"), default_organization(tx))


def test_the_gateway_speaks_for_the_connected_account(emulator: RemoteEmulator) -> None:
    """The platform's key with the account's name."""
    connected = RemoteEmulator(emulator.url, "sk_test_emulated")
    connected.seed([{"account_id": "a"}])
    settings = Settings(stripe_api_key="sk_test_emulated", stripe_api_base=emulator.url)
    own = access(row("own"), settings, KEYRING)
    other = access(row("connect"), settings.with_changes(stripe_client_id="ca_1"), KEYRING)
    assert isinstance(own, AccountAccess)
    assert isinstance(other, AccountAccess)
    gateway = own.gateway(settings)
    assert len(list(gateway.list_customers())) == 1
    gateway.close()
    stranger = other.gateway(settings)
    with pytest.raises(Exception, match="acct_1"):
        list(stranger.list_customers())
    stranger.close()


def test_an_account_is_reached_by_its_name(database: Database, emulator: RemoteEmulator) -> None:
    """Without one it is that which usage is sent to; why there is none to reach is told."""
    settings = Settings(stripe_api_key=emulator.api_key, stripe_api_base=emulator.url)
    with database.transaction() as tx:
        organization = default_organization(tx)
        account_id = ensure_own(tx, organization, livemode=False)
    for name in (None, "own", account_id):
        with reaching(database, settings, organization, name) as (found, gateway):
            assert (found, bool(gateway.account_info().account_id)) == (account_id, True)
    with pytest.raises(ConfigurationError), reaching(database, settings, organization, "acct_9"):
        pass
    without = Settings(stripe_api_base=emulator.url)
    with (
        pytest.raises(ConfigurationError, match="no key"),
        reaching(database, without, organization),
    ):
        pass
