"""The page behind the link of an invitation: what it shows, takes and refuses."""

import re

import httpx
import pytest

from usageflow.api.signup import ATTEMPTS_MAX
from usageflow.catalog import audit, invitations, people
from usageflow.catalog.audit import Actor
from usageflow.catalog.invitations import Invited
from usageflow.catalog.organizations import create, required
from usageflow.catalog.permissions import of_role
from usageflow.db.session import Database

PASSWORD = "correct horse battery"
EVE = "eve@example.com"


def invited(database: Database, name: str) -> str:
    """The token of a link for Eve, to an organization of this name."""
    with database.transaction() as tx:
        made = invitations.invite(
            tx,
            create(tx, name, display_name=f"<b>{name}", actor="test"),
            email=EVE,
            role="DEVELOPER",
            may=of_role("OWNER"),
            base_url="http://api",
            actor=Actor("ada@example.com"),
        )
        assert isinstance(made, Invited)
    return made.link.partition("?token=")[2]


@pytest.fixture
def token(database: Database) -> str:
    """The token of a link for Eve, who has no account."""
    return invited(database, "acme")


def send(api: httpx.Client, token: str, password: str = PASSWORD) -> httpx.Response:
    """Send the form as a browser does."""
    return api.post("/invite", data={"token": token, "password": password})


def test_a_link_makes_an_account_and_a_member(
    api: httpx.Client, database: Database, token: str
) -> None:
    """With a password to choose; once; the log names the request."""
    shown = api.get("/invite", params={"token": token})
    assert shown.status_code == 200
    assert "<title>Join &lt;b&gt;acme · UsageFlow</title>" in shown.text
    assert "invited as eve@example.com, in the role DEVELOPER" in shown.text
    assert 'autocomplete="new-password"' in shown.text
    short = send(api, token, "short")
    assert short.status_code == 422
    assert "At least 12 characters" in short.text
    assert "short" not in re.sub("<style>.*?</style>", "", short.text, flags=re.DOTALL)
    done = send(api, token)
    assert done.status_code == 200
    assert "You are a member of &lt;b&gt;acme" in done.text
    assert people.recognised(database, EVE, PASSWORD) is not None
    for again in (send(api, token), api.get("/invite", params={"token": token})):
        assert again.status_code == 404
        assert "This link does not work" in again.text
    with database.reading() as tx:
        acme = required(tx, "acme")
        (row, *_), _ = audit.listing(tx, acme, action="member.join", offset=0, limit=1)
        assert row.request_id == done.headers["x-request-id"]


def test_who_has_an_account_shows_its_password(
    api: httpx.Client, database: Database, token: str
) -> None:
    """A wrong one is told, and not repeated."""
    assert send(api, token).status_code == 200
    second = invited(database, "other")
    assert 'autocomplete="current-password"' in api.get(f"/invite?token={second}").text
    wrong = send(api, second, "correct horse batterx")
    assert wrong.status_code == 422
    assert "not the password of the account" in wrong.text
    assert "batterx" not in wrong.text
    assert send(api, second).status_code == 200


def test_nothing_of_the_page_leaks(api: httpx.Client, token: str) -> None:
    """Not stored, not framed, no referrer with the token."""
    for response in (api.get(f"/invite?token={token}"), api.get("/invite"), send(api, token)):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


def test_what_is_not_the_form_is_refused(api: httpx.Client, token: str) -> None:
    """From another site, or of another kind."""
    foreign = {"sec-fetch-site": "cross-site"}
    form = {"token": token, "password": PASSWORD}
    assert api.post("/invite", data=form, headers=foreign).status_code == 403
    assert api.post("/invite", json=form).status_code == 400
    assert send(api, token).status_code == 200


def test_who_guesses_has_to_wait(api: httpx.Client, token: str) -> None:
    """At links, and at the password behind one; who has another link does not."""
    for number in range(ATTEMPTS_MAX):
        guess = api.get("/invite?token=guess") if number % 2 else send(api, f"guess {number}")
        assert guess.status_code == 404
    for response in (api.get("/invite?token=guess"), send(api, "guess")):
        assert response.status_code == 429
        assert response.headers["retry-after"] == "60"
    for _ in range(ATTEMPTS_MAX):
        assert send(api, token, "short").status_code == 422
    assert send(api, token).status_code == 429
