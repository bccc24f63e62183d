"""The pages by which an account is connected, from the link to Stripe and back."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlmodel import select

from usageflow.api.stripe_connect import COOKIE
from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import OrganizationRow, StripeAccountRow
from usageflow.errors import DatabaseError
from usageflow.stripe import accounts, connect
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

KEY = "sk_test_platform"


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    """An emulator on a free port."""
    with running(create_emulator()) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str) -> RemoteEmulator:
    """The emulator, empty."""
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def public_url() -> str:
    """Where the client `api` looks for the server."""
    return "http://api"


@pytest.fixture
def client_id() -> str | None:
    """Of the platform."""
    return "ca_1"


@pytest.fixture
def settings(emulator: RemoteEmulator, public_url: str, client_id: str | None) -> Settings:
    """Those of a platform."""
    return Settings(
        stripe_api_key=KEY,
        stripe_client_id=client_id,
        stripe_api_base=emulator.url,
        public_url=public_url,
    )


@pytest.fixture
def link(database: Database, settings: Settings) -> str:
    """The link for the default organization."""
    with database.transaction() as tx:
        return connect.link(tx, settings, default_organization(tx))


def decided(to_stripe: httpx.Response, decision: str = "connect:acct_1") -> str:
    """The address that Stripe sends the owner back to."""
    assert to_stripe.status_code == 303
    url = f"{to_stripe.headers['location']}&_emulator_decision={decision}"
    location: str = httpx.get(url).headers["location"]
    return location


def stored(database: Database) -> list[tuple[str, str]]:
    """(account, state) of every account."""
    with database.reading() as tx:
        return [(row.account, row.state) for row in tx.session.exec(select(StripeAccountRow))]


def heading(response: httpx.Response) -> str:
    """What the page says above all."""
    (found,) = re.findall(r"<h1>(.*)</h1>", response.text)
    return str(found)


def test_an_owner_connects_an_account(api: httpx.Client, database: Database, link: str) -> None:
    """From the link to Stripe, and back; the page names the account."""
    to_stripe = api.post(link)
    asked = httpx.URL(to_stripe.headers["location"])
    assert asked.path == "/oauth/authorize"
    assert asked.params["scope"] == "read_write"
    assert asked.params["redirect_uri"] == "http://api/stripe/callback"
    back = api.get(decided(to_stripe))
    assert (back.status_code, heading(back)) == (200, "Your account is connected")
    assert "acct_1" in back.text
    assert stored(database) == [("acct_1", "active")]


def test_the_cookie_is_for_this_and_nothing_else(api: httpx.Client, link: str) -> None:
    """No script reads it, no other site sends it, it ends soon, and with the connection."""
    to_stripe = api.post(link)
    cookie = to_stripe.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=lax", "path=/stripe", "max-age=600"):
        assert part in cookie
    assert "secure" not in cookie
    back = api.get(decided(to_stripe))
    assert re.match(rf'{COOKIE}="";.*max-age=0; path=/stripe', back.headers["set-cookie"].lower())
    assert COOKIE not in api.cookies


@pytest.mark.parametrize("public_url", ["https://api"])
def test_on_https_the_cookie_is_secure(api: httpx.Client, link: str) -> None:
    """By the public address: behind a terminator the request is plain."""
    assert "; secure" in api.post(link.replace("https:", "http:")).headers["set-cookie"].lower()


def test_nothing_of_the_pages_leaks(api: httpx.Client, emulator: RemoteEmulator, link: str) -> None:
    """Not stored, not framed, no referrer with what is in the address, no script."""
    offered, to_stripe = api.get(link), api.post(link)
    for response in (offered, to_stripe, api.get(decided(to_stripe)), api.get(link)):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "no-referrer"
        forms = f"'self' https: {emulator.url}" if response is offered else "'none'"
        assert re.fullmatch(
            r"default-src 'none'; style-src 'sha256-\S+'; base-uri 'none'; "
            rf"frame-ancestors 'none'; form-action {re.escape(forms)}",
            response.headers["content-security-policy"],
        )
        assert "<script" not in response.text


def test_a_look_uses_nothing_up(api: httpx.Client, database: Database, link: str) -> None:
    """Mail scanners open links. The page names the organization, and its button is what counts."""
    with database.transaction() as tx:
        organization = tx.session.exec(select(OrganizationRow)).one()
        organization.display_name = "<b>Acme"
    for _ in range(2):
        assert api.head(link).status_code == 200
        offered = api.get(link)
        assert offered.status_code == 200
        assert heading(offered) == "Connect your Stripe account to &lt;b&gt;Acme"
        assert '<form method="post"><button type="submit">Continue to Stripe' in offered.text
        assert COOKIE not in api.cookies
    assert api.post(link).status_code == 303


def test_a_link_works_once(api: httpx.Client, link: str) -> None:
    """Afterwards the page says how to get another."""
    assert api.post(link).status_code == 303
    for again in (api.post(link), api.get(link)):
        assert (again.status_code, heading(again)) == (404, "This link does not work")
        assert "usageflow stripe connect" in again.text
    assert api.get("/stripe/connect").status_code == 404
    assert api.put(link).status_code == 405


def test_another_site_cannot_press_the_button(api: httpx.Client, link: str) -> None:
    """It could make an owner connect an account to a stranger."""
    refused = api.post(link, headers={"origin": "https://elsewhere.example"})
    assert (refused.status_code, heading(refused)) == (403, "This came from another site")
    assert api.post(link, headers={"sec-fetch-site": "same-origin"}).status_code == 303


def test_a_database_that_is_away_at_the_end_is_told(
    api: httpx.Client, database: Database, settings: Settings, link: str, monkeypatch: Any
) -> None:
    """Stripe has agreed by then: a page says what to do, and it can be done."""
    back = decided(api.post(link))

    def away(*_: object, **__: object) -> None:
        raise DatabaseError("away")

    with monkeypatch.context() as broken:
        broken.setattr(accounts, "connect", away)
        told = api.get(back)
    assert (told.status_code, heading(told)) == (503, "Your account was not connected")
    assert "Connect it once more in a while" in told.text
    assert stored(database) == []
    with database.transaction() as tx:
        anew = connect.link(tx, settings, default_organization(tx))
    assert api.get(decided(api.post(anew))).status_code == 200
    assert stored(database) == [("acct_1", "active")]


@pytest.mark.parametrize("client_id", [None])
def test_without_a_platform_there_is_nothing_to_connect(api: httpx.Client) -> None:
    """It says which settings are missing, and asks the database nothing."""
    for answer in (api.get("/stripe/connect?ticket=x"), api.post("/stripe/connect?ticket=x")):
        assert (answer.status_code, heading(answer)) == (404, "Accounts cannot be connected here")
        assert "set USAGEFLOW_STRIPE_CLIENT_ID" in answer.text
    assert api.get("/stripe/callback?state=x&code=y").status_code == 400


@pytest.mark.parametrize("decision", ["connect:acct_1", "deny"])
def test_what_another_browser_brings_back_connects_nothing(
    api: httpx.Client, database: Database, link: str, decision: str
) -> None:
    """Who gets an owner to open his own way back must not have his account connected for them."""
    back = decided(api.post(link), decision)
    session = api.cookies[COOKIE]
    api.cookies.clear()
    for other in ("", "x" * 43):
        refused = api.get(back, headers={"cookie": f"{COOKIE}={other}"} if other else {})
        assert (refused.status_code, heading(refused)) == (400, "Nothing was connected")
    assert stored(database) == []
    api.get(back, headers={"cookie": f"{COOKIE}={session}"})
    assert stored(database) == ([("acct_1", "active")] if decision != "deny" else [])


def test_the_way_back_works_once(
    api: httpx.Client, database: Database, emulator: RemoteEmulator, link: str
) -> None:
    """A page that is loaded again uses no code again, which would end the connection."""
    to_stripe = api.post(link)
    cookie = {"cookie": f"{COOKIE}={api.cookies[COOKIE]}"}
    back = decided(to_stripe)
    assert api.head(back, headers=cookie).status_code == 405
    assert api.get(back, headers=cookie).status_code == 200
    again = api.get(back, headers=cookie)
    assert (again.status_code, heading(again)) == (400, "Nothing was connected")
    assert stored(database) == [("acct_1", "active")]
    emulator.deauthorize("acct_1")  # it is still connected


def test_a_state_that_was_never_given_connects_nothing(
    api: httpx.Client, database: Database, link: str
) -> None:
    """Made up, left out, or the ticket itself."""
    api.post(link)
    ticket = httpx.URL(link).params["ticket"]
    for state in ("", "x", ticket):
        refused = api.get("/stripe/callback", params={"state": state, "code": "ac_1"})
        assert refused.status_code == 400
    assert stored(database) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": "access_denied", "error_description": "The user denied"}, "You told Stripe"),
        ({"error": "server_error", "error_description": "<b>Try"}, "Stripe says: &lt;b&gt;Try"),
        ({"error": "server_error"}, "Stripe says: server_error"),
        ({}, "Stripe says: nothing"),
    ],
)
def test_a_refusal_is_told(
    api: httpx.Client, database: Database, link: str, answer: dict[str, str], words: str
) -> None:
    """In Stripe's words, escaped, except where its owner knows best."""
    state = httpx.URL(api.post(link).headers["location"]).params["state"]
    refused = api.get("/stripe/callback", params={"state": state, **answer})
    assert (refused.status_code, heading(refused)) == (400, "Your account was not connected")
    assert words in refused.text
    assert stored(database) == []


def test_an_unknown_outcome_is_no_connection(
    api: httpx.Client, database: Database, settings: Settings, link: str
) -> None:
    """It says so, and how to begin anew; a second connection does no harm."""
    back = decided(api.post(link)).replace("code=ac_", "code=no_")
    told = api.get(back)
    assert (told.status_code, heading(told)) == (502, "Stripe did not confirm the connection")
    assert "Connect it once more" in told.text
    assert stored(database) == []
    with database.transaction() as tx:
        anew = connect.link(tx, settings, default_organization(tx))
    assert api.get(decided(api.post(anew))).status_code == 200
    assert stored(database) == [("acct_1", "active")]


def test_an_account_of_another_organization_stays_there(
    api: httpx.Client, database: Database, link: str
) -> None:
    """The page says why, and where the owner can end what Stripe has begun."""
    with database.transaction() as tx:
        tx.session.add(OrganizationRow(id="other", name="other", created_at=tx.now))
        tx.session.flush()
        accounts.connect(tx, "other", "acct_1", livemode=False)
    refused = api.get(decided(api.post(link)))
    assert (refused.status_code, heading(refused)) == (409, "Your account was not connected")
    assert ">acct_1 is connected to another organization." in refused.text
    assert stored(database) == [("acct_1", "active")]
