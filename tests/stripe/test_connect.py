"""Connecting an account: tickets and states that work once, codes that are exchanged once."""

import threading
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlmodel import select

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import AuditRow, OauthStateRow, OrganizationRow, StripeAccountRow
from usageflow.errors import ConfigurationError, DeliveryError
from usageflow.stripe import accounts, connect
from usageflow.stripe.access import accounts_to_serve
from usageflow.stripe.accounts import Refused
from usageflow.stripe.connect import Begun
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.inbound import Connected

if TYPE_CHECKING:
    from tests.stripe.conftest import Clock

PUBLIC = "https://usage.example"


@pytest.fixture
def settings(emulator: RemoteEmulator) -> Settings:
    """Those of a platform in test mode."""
    return Settings(
        stripe_api_key=emulator.api_key,
        stripe_api_base=emulator.url,
        stripe_client_id="ca_1",
        public_url=PUBLIC,
    )


@pytest.fixture
def organization(database: Database) -> str:
    """The id of the default organization."""
    with database.transaction() as tx:
        return default_organization(tx)


def new_ticket(database: Database, settings: Settings, organization: str) -> str:
    """The ticket of a new link."""
    with database.transaction() as tx:
        link = connect.link(tx, settings, organization)
    assert link.startswith(f"{PUBLIC}/stripe/connect?ticket=")
    return parse_qs(urlsplit(link).query)["ticket"][0]


def begun(database: Database, settings: Settings, organization: str) -> Begun:
    """A connection that was begun."""
    made = connect.begin(database, new_ticket(database, settings, organization))
    assert made is not None
    return made


def decide(settings: Settings, state: str, decision: str) -> dict[str, str]:
    """What comes back when the owner decides at Stripe."""
    url = connect.authorize_url(settings, state)
    answer = httpx.get(f"{url}&_emulator_decision={decision}")
    location = urlsplit(answer.headers["location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == f"{PUBLIC}/stripe/callback"
    return {name: values[0] for name, values in parse_qs(location.query).items()}


def test_an_account_is_connected_and_served(
    database: Database, settings: Settings, organization: str
) -> None:
    """By way of Stripe; the account is reached by the platform's key, and no token is kept."""
    begins = begun(database, settings, organization)
    told = decide(settings, begins.state, "connect:acct_1")
    assert told["state"] == begins.state
    assert connect.claim(database, told["state"], begins.session) == organization
    assert connect.complete(database, settings, organization, told["code"]) == "acct_1"
    (served,) = accounts_to_serve(database, settings)
    assert (served.stripe_account, served.kind, served.livemode) == ("acct_1", "connect", False)
    gateway = served.gateway(settings)
    assert gateway.account_info().account_id == "acct_1"
    gateway.close()
    with database.reading() as tx:
        assert tx.session.exec(select(StripeAccountRow.secret)).one() is None


def test_a_ticket_and_a_state_work_once(
    database: Database, settings: Settings, organization: str
) -> None:
    """Whoever comes second gets nothing."""
    ticket = new_ticket(database, settings, organization)
    begins = connect.begin(database, ticket)
    assert begins is not None
    assert connect.begin(database, ticket) is None
    assert connect.claim(database, begins.state, begins.session) == organization
    assert connect.claim(database, begins.state, begins.session) is None


def test_they_do_not_work_for_each_other(
    database: Database, settings: Settings, organization: str
) -> None:
    """A ticket ends nothing, a state begins nothing, and another browser has another session."""
    ticket = new_ticket(database, settings, organization)
    first, second = (begun(database, settings, organization) for _ in range(2))
    for session in ("", first.session, ticket):
        assert connect.claim(database, ticket, session) is None
        assert connect.claim(database, second.state, session) is None
    for token in (first.state, first.session, ""):
        assert connect.begin(database, token) is None
    assert connect.claim(database, second.state, second.session) == organization


@pytest.mark.parametrize(("passed_s", "works"), [(-1, True), (0, False)])
def test_they_end(
    database: Database,
    clock: "Clock",
    settings: Settings,
    organization: str,
    passed_s: int,
    *,
    works: bool,
) -> None:
    """A ticket after 15 minutes, a state after 10."""
    ticket = new_ticket(database, settings, organization)
    begins = begun(database, settings, organization)
    start = clock.now
    clock.now = start + timedelta(minutes=10, seconds=passed_s)
    claimed = connect.claim(database, begins.state, begins.session)
    assert (claimed is not None) is works
    clock.now = start + timedelta(minutes=15, seconds=passed_s)
    assert (connect.begin(database, ticket) is not None) is works


def test_of_two_at_the_same_moment_one_wins(
    database: Database, settings: Settings, organization: str
) -> None:
    """Both had seen that the ticket is open."""
    ticket = new_ticket(database, settings, organization)
    together = threading.Barrier(4)
    results: list[Begun | None] = []

    def run() -> None:
        together.wait()
        results.append(connect.begin(database, ticket))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one is not None for one in results) == 1


def test_a_ticket_that_was_used_between_look_and_use(
    database: Database, settings: Settings, organization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look is the one that counts."""
    ticket = new_ticket(database, settings, organization)
    assert connect.begin(database, ticket)
    monkeypatch.setattr(connect, "_is_open", lambda *_: True)
    assert connect.begin(database, ticket) is None


def test_only_hashes_are_kept_and_not_for_ever(
    database: Database, clock: "Clock", settings: Settings, organization: str
) -> None:
    """Neither can be made of what is in the database; a day later it is gone."""
    ticket = new_ticket(database, settings, organization)
    begins = connect.begin(database, ticket)
    assert begins is not None
    with database.reading() as tx:
        rows = [row.model_dump_json() for row in tx.session.exec(select(OauthStateRow))]
    assert len(rows) == 2
    for secret in (ticket, begins.state, begins.session):
        assert len(secret) >= 43
        assert secret not in "".join(rows)
        assert secret not in repr(begins)
    clock.now += timedelta(days=2)
    new_ticket(database, settings, organization)
    with database.reading() as tx:
        assert len(tx.session.exec(select(OauthStateRow)).all()) == 1


@pytest.mark.parametrize("after_commit", [False, True])
def test_a_code_is_not_exchanged_twice(
    database: Database,
    settings: Settings,
    organization: str,
    emulator: RemoteEmulator,
    *,
    after_commit: bool,
) -> None:
    """An answer that is lost is not asked for again; to begin anew connects the account."""
    told = decide(settings, begun(database, settings, organization).state, "connect:acct_1")
    emulator.fault("reset", route="/oauth/token", after_commit=after_commit, count=1)
    with pytest.raises(DeliveryError):
        connect.complete(database, settings, organization, told["code"])
    assert accounts_to_serve(database, settings) == []
    anew = decide(settings, begun(database, settings, organization).state, "connect:acct_1")
    assert connect.complete(database, settings, organization, anew["code"]) == "acct_1"
    (served,) = accounts_to_serve(database, settings)
    gateway = served.gateway(settings)
    assert gateway.account_info().account_id == "acct_1"
    gateway.close()


def test_an_account_of_another_organization_is_refused(
    database: Database, settings: Settings, organization: str
) -> None:
    """As a value, with the reason; the other one's stays as it is."""
    with database.transaction() as tx:
        tx.session.add(OrganizationRow(id="other", name="other", created_at=tx.now))
        tx.session.flush()
        accounts.connect(tx, "other", "acct_1", livemode=False)
    told = decide(settings, begun(database, settings, organization).state, "connect:acct_1")
    refused = connect.complete(database, settings, organization, told["code"])
    assert refused == Refused("acct_1 is connected to another organization")
    (served,) = accounts_to_serve(database, settings)
    assert served.organization_id == "other"


def test_an_account_that_may_only_be_read_is_refused(
    database: Database, settings: Settings, organization: str
) -> None:
    """Sending usage is writing: it would be refused each time."""
    state = begun(database, settings, organization).state
    told = decide(settings, state, "connect:acct_1&scope=read_only")
    refused = connect.complete(database, settings, organization, told["code"])
    assert refused == Refused("acct_1 was connected for reading alone")
    assert accounts_to_serve(database, settings) == []


def test_an_account_of_the_other_mode_is_refused() -> None:
    """Its usage would be sent where nobody looks for it."""
    told = Connected("acct_1", livemode=True, scope="read_write")
    assert connect.problem(told, livemode=True) is None
    assert connect.problem(told, livemode=False) == (
        "acct_1 was connected in live mode, and this server forwards in test mode"
    )


def test_a_withdrawn_account_connects_again(
    database: Database, settings: Settings, organization: str, emulator: RemoteEmulator
) -> None:
    """It is the same one as before."""
    ids = []
    for _ in range(2):
        told = decide(settings, begun(database, settings, organization).state, "connect:acct_1")
        assert connect.complete(database, settings, organization, told["code"]) == "acct_1"
        (served,) = accounts_to_serve(database, settings)
        ids.append(served.account_id)
        emulator.deauthorize("acct_1")
        with database.transaction() as tx:
            accounts.deauthorize(tx, served.account_id, "withdrawn")
        assert accounts_to_serve(database, settings) == []
    assert ids[0] == ids[1]


def test_a_connection_is_ended_here_and_at_stripe(
    database: Database, settings: Settings, organization: str
) -> None:
    """Here in any case; what Stripe says against it is told."""
    told = decide(settings, begun(database, settings, organization).state, "connect:acct_1")
    connect.complete(database, settings, organization, told["code"])
    (served,) = accounts_to_serve(database, settings)
    assert connect.disconnect(database, settings, served.account_id, actor=CLI) is None
    assert accounts_to_serve(database, settings) == []
    with pytest.raises(DeliveryError, match="acct_1"):
        served.gateway(settings).account_info()
    again = connect.disconnect(database, settings, served.account_id, actor=CLI)
    assert again is not None
    assert "not connected" in again


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stripe_client_id": None}, "set USAGEFLOW_STRIPE_CLIENT_ID, and"),
        ({"stripe_api_key": None}, "set USAGEFLOW_STRIPE_CLIENT_ID, and"),
        ({"stripe_api_key": "sk_live_1", "public_url": "http://h"}, "set USAGEFLOW_PUBLIC_URL"),
    ],
)
def test_no_link_is_made_that_could_not_work(
    database: Database,
    settings: Settings,
    organization: str,
    changes: dict[str, str | None],
    reason: str,
) -> None:
    """Without a platform; where Stripe would not send the owner back."""
    with pytest.raises(ConfigurationError, match=reason), database.transaction() as tx:
        connect.link(tx, settings.with_changes(**changes), organization)


def test_no_link_is_made_beside_an_own_account(
    database: Database, settings: Settings, organization: str
) -> None:
    """The owner would consent at Stripe in vain."""
    with pytest.raises(ConfigurationError, match="key remove"), database.transaction() as tx:
        accounts.ensure_own(tx, organization, livemode=False)
        connect.link(tx, settings, organization)


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "http://127.0.0.1:8787"),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80"),
        ({"host": "::1"}, "http://[::1]:8787"),
        ({"host": "::"}, "http://[::1]:8787"),
        ({"public_url": "https://usage.example/"}, "https://usage.example"),
    ],
)
def test_where_the_server_is_reached(changes: dict[str, object], url: str) -> None:
    """By its public URL, else from its own machine."""
    assert connect.public_url(Settings().with_changes(**changes)) == url


def test_who_is_known_begins_without_a_ticket(
    database: Database, settings: Settings, organization: str
) -> None:
    """With a state like any other, and an entry in the audit log."""
    with database.transaction() as tx:
        begins = connect.start(tx, settings, organization, actor="ada@example.com")
    assert connect.claim(database, begins.state, "another") is None
    assert connect.claim(database, begins.state, begins.session) == organization
    assert connect.claim(database, begins.state, begins.session) is None
    with database.reading() as tx:
        (entry,) = tx.session.exec(select(AuditRow)).all()
        assert (entry.actor, entry.action) == ("ada@example.com", "stripe.connect.begin")


def test_who_is_known_begins_only_what_can_end(
    database: Database, settings: Settings, organization: str
) -> None:
    """Not without a platform, and not beside an account of one's own."""
    without = settings.with_changes(stripe_client_id=None)
    with pytest.raises(ConfigurationError, match="CLIENT_ID"), database.transaction() as tx:
        connect.start(tx, without, organization, actor="ada")
    with database.transaction() as tx:
        accounts.ensure_own(tx, organization, livemode=False)
    with pytest.raises(ConfigurationError, match="its own account"), database.transaction() as tx:
        connect.start(tx, settings, organization, actor="ada")
    with database.reading() as tx:
        assert tx.session.exec(select(OauthStateRow)).all() == []
