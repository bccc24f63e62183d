"""The ways to accounts come and go with the accounts; paused ones are tried again."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow
from usageflow.server.ways import PAUSE_S_MAX, PAUSE_S_MIN, Ways, stripe_sink
from usageflow.stripe import accounts
from usageflow.stripe.access import accounts_to_serve
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.meters import Meters

KEY = "sk_test_ways"


@pytest.fixture
def emulator() -> Iterator[RemoteEmulator]:
    """An emulator with one meter."""
    with running(create_emulator(search_lag_s=0)) as url:
        remote = RemoteEmulator(url, KEY)
        remote.seed([{"account_id": "acct_1"}], ["calls"])
        yield remote


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """An open database."""
    opened = Database.open(f"sqlite:///{tmp_path}/usageflow.db")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def settings(emulator: RemoteEmulator) -> Settings:
    """With the emulator's key."""
    return Settings(stripe_api_key=KEY, stripe_api_base=emulator.url)


@pytest.fixture
def account_id(db: Database) -> str:
    """The own account of the default organization."""
    with db.transaction() as tx:
        return accounts.ensure_own(tx, default_organization(tx), livemode=False)


@pytest.fixture
def ways(db: Database, settings: Settings) -> Iterator[Ways]:
    """The ways over the database; closed at the end."""
    made = Ways(db, settings)
    yield made
    made.close()


def state(db: Database, account_id: str) -> str:
    """That of an account."""
    with db.reading() as tx:
        return tx.session.get_one(StripeAccountRow, account_id).state


def test_a_way_is_opened_once_and_closed_with_its_account(
    db: Database, ways: Ways, account_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing has to be started anew for an account that comes, goes, or comes back."""
    with caplog.at_level(logging.INFO):
        assert (ways.follow(), ways.follow()) == (1, 0)
        ways.wake()
        with db.transaction() as tx:
            accounts.deauthorize(tx, account_id, "by its owner")
        assert (ways.follow(), ways.follow()) == (1, 0)
    told = [record.getMessage() for record in caplog.records if record.name == "usageflow.server"]
    assert told[0] == "Stripe account own: forwarding in test mode"
    assert told[-1].startswith("Stripe account own is deauthorized (by its owner); its usage waits")


def test_news_of_meters_reach_the_account(
    ways: Ways, account_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are wanted soon; those of an account we do not serve are nobody's."""
    wanted: list[str] = []
    monkeypatch.setattr(Meters, "want", lambda self: wanted.append(self._account_id))
    ways.follow()
    for one in (account_id, "another"):
        ways.want_meters(one)
    assert wanted == [account_id]


def test_a_paused_account_is_tried_again_ever_more_rarely(
    db: Database, settings: Settings, account_id: str
) -> None:
    """After a minute, two, four ... up to an hour; a withdrawn one never."""
    now_s = [1_000.0]
    ways = Ways(db, settings, clock=lambda: now_s[0])
    pauses = []
    for _ in range(8):
        with db.transaction() as tx:
            accounts.pause(tx, account_id, "401")
        begun_s = now_s[0]
        while state(db, account_id) == "paused":
            ways.try_again()
            now_s[0] += 10
        pauses.append(round((now_s[0] - begun_s) / 60))
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == PAUSE_S_MAX / 60
    assert PAUSE_S_MIN == 60
    with db.transaction() as tx:
        accounts.deauthorize(tx, account_id, "by its owner")
    now_s[0] += 10 * PAUSE_S_MAX
    ways.try_again()
    assert state(db, account_id) == "deauthorized"


@pytest.mark.parametrize(("api", "batch_max"), [("v1", 1), ("v2-stream", 100)])
def test_the_sink_is_as_the_settings_have_it(
    db: Database, settings: Settings, account_id: str, api: str, batch_max: int
) -> None:
    """Neither calls faster than the account permits, here a sandbox."""
    chosen = settings.with_changes(stripe_api=api)
    (access,) = accounts_to_serve(db, chosen)
    gateway = access.gateway(chosen)
    sink = stripe_sink(chosen, access, gateway, Meters(db, account_id, gateway))
    properties = sink.properties
    assert (properties.batch_max, properties.calls_per_s) == (batch_max, 20)
    gateway.close()


def test_waiting_for_the_threads_is_bounded(ways: Ways, account_id: str) -> None:
    """A way that does nothing closes at once."""
    assert account_id
    ways.follow()
    began_s = time.monotonic()
    ways.close()
    assert time.monotonic() - began_s < 30
