"""A key of one's own: looked at before it is stored, and removed."""

import base64

import pytest
from sqlmodel import col, select

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import create, default_organization
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, StripeAccountRow
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe import accounts
from usageflow.stripe.access import accounts_to_serve
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.meters import Meters
from usageflow.stripe.own_key import remove, store


@pytest.fixture
def settings(emulator: RemoteEmulator) -> Settings:
    """Those of a server that gets no key from its environment."""
    return Settings(
        stripe_api_base=emulator.url, encryption_keys=base64.b64encode(b"k" * 32).decode()
    )


@pytest.fixture
def organization(database: Database) -> str:
    """The id of the default organization."""
    with database.transaction() as tx:
        return default_organization(tx)


def stored(database: Database) -> list[str]:
    """The states of all accounts."""
    with database.reading() as tx:
        return list(tx.session.exec(select(StripeAccountRow.state)))


def test_a_good_key_is_used_at_once(
    database: Database, settings: Settings, organization: str, emulator: RemoteEmulator
) -> None:
    """It is told whose it is."""
    owner = store(database, settings, organization, emulator.api_key, actor=CLI)
    assert owner is not None
    assert owner.account_id.startswith("acct_")
    (served,) = accounts_to_serve(database, settings)
    assert (served.api_key, served.kind) == (emulator.api_key, "own")


def test_a_restricted_key_need_not_tell_whose_it_is(
    database: Database, settings: Settings, organization: str, emulator: RemoteEmulator
) -> None:
    """What sending needs is enough."""
    emulator.fault("status", route="/v1/account", status=403)
    assert store(database, settings, organization, emulator.api_key, actor=CLI) is None
    assert stored(database) == ["active"]


@pytest.mark.parametrize(("route", "status"), [("/v1/account", 500), ("/v1/billing/meters", 401)])
def test_a_key_that_could_not_be_tried_is_not_stored(
    database: Database,
    settings: Settings,
    organization: str,
    emulator: RemoteEmulator,
    *,
    route: str,
    status: int,
) -> None:
    """Whether Stripe is away or refuses it."""
    emulator.fault("status", route=route, status=status)
    with pytest.raises(DeliveryError):
        store(database, settings, organization, emulator.api_key, actor=CLI)
    assert stored(database) == []


def test_a_key_of_another_account_is_refused(
    database: Database, settings: Settings, organization: str, emulator: RemoteEmulator
) -> None:
    """Its customers are others; the account's new key is taken, even when the old one is gone."""
    emulator.seed(meters=["calls"])
    store(database, settings, organization, emulator.api_key, actor=CLI)
    (served,) = accounts_to_serve(database, settings)
    gateway = served.gateway(settings)
    Meters(database, served.account_id, gateway).refresh()
    gateway.close()
    for other in ("sk_test_other", "rk_test_another"):
        with pytest.raises(ConfigurationError, match="of another Stripe account"):
            store(database, settings, organization, other, actor=CLI)
    with database.transaction() as tx:
        accounts.remove_key(tx, organization, actor=CLI)
    assert accounts_to_serve(database, settings) == []
    renewed = emulator.api_key.replace("sk_", "rk_")
    store(database, settings, organization, renewed, actor=CLI)
    (served,) = accounts_to_serve(database, settings)
    assert served.api_key == renewed


def test_a_key_is_removed_once(
    database: Database, settings: Settings, organization: str, emulator: RemoteEmulator
) -> None:
    """And that it was is noted, by whom."""
    store(database, settings, organization, emulator.api_key, actor=CLI)
    with database.transaction() as tx:
        assert remove(tx, organization, actor="ada")
        assert not remove(tx, organization, actor="ada")
        noted = tx.session.exec(select(AuditRow).order_by(col(AuditRow.seq).desc())).first()
        assert noted is not None
        assert (noted.actor, noted.action, noted.subject) == ("ada", "stripe.key.remove", "own")
    assert accounts_to_serve(database, settings) == []


def test_a_key_that_cannot_be_kept_is_not_tried(
    database: Database, settings: Settings, organization: str, emulator: RemoteEmulator
) -> None:
    """Neither what is no key, nor without a key to seal it with."""
    with pytest.raises(ConfigurationError, match="the key must be"):
        store(database, settings, organization, "pk_test_1", actor=CLI)
    bare = settings.with_changes(encryption_keys=None)
    with pytest.raises(ConfigurationError, match="openssl"):
        store(database, bare, organization, emulator.api_key, actor=CLI)
    assert emulator.state()["accounts"] == []


def test_a_key_of_the_environment_goes_before(
    database: Database, settings: Settings, organization: str, emulator: RemoteEmulator
) -> None:
    """It is the default organization's; another one has a key of its own beside it."""
    settings = settings.with_changes(stripe_api_key=emulator.api_key)
    with pytest.raises(ConfigurationError, match="goes before"):
        store(database, settings, organization, emulator.api_key, actor=CLI)
    with database.transaction() as tx:
        other = create(tx, "other", actor=CLI)
    assert store(database, settings, other, emulator.api_key, actor=CLI) is not None
