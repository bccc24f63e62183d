"""The owner's sign-up over HTTP: what the form takes, what it refuses, and what it never shows."""

import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy import text
from starlette.datastructures import Headers

from usageflow.api.signup import ATTEMPTS_MAX, BODY_BYTES_MAX, foreign
from usageflow.api.signup import problems_of as problems
from usageflow.catalog.keys import Caller, authenticate
from usageflow.catalog.members import open_signup
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database

GOOD = {
    "organization": " Acme & <Sons> ",
    "email": " Ada@Example.com ",
    "password": "correct horse battery",
}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def token(database: Database) -> str:
    """The token of the link that the server printed."""
    with database.transaction() as tx:
        made = open_signup(tx, default_organization(tx))
    assert made is not None
    return made


def send(
    api: httpx.Client, token: str, headers: Mapping[str, str] = {}, **changes: str
) -> httpx.Response:
    """Send the form as a browser does."""
    return api.post("/signup", data={"token": token, **GOOD, **changes}, headers=headers)


def members(database: Database) -> list[str]:
    """The e-mail addresses of all members."""
    with database.reading() as tx:
        return [
            row.email
            for row in tx.session.execute(
                text("SELECT email FROM member JOIN person ON person.id = person_id")
            )
        ]


class Inputs(HTMLParser):
    """The inputs of a page by name, and the texts of elements with an id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inputs: dict[str, dict[str, str | None]] = {}
        self.labels: set[str | None] = set()
        self.texts: dict[str, str] = {}
        self._id: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An input, a label, or where a text with an id begins."""
        found = dict(attrs)
        if tag == "input":
            self.inputs[found["name"] or ""] = found
        elif tag == "label":
            self.labels.add(found["for"])
        self._id = found.get("id")

    def handle_data(self, data: str) -> None:
        """A text."""
        if self._id:
            self.texts.setdefault(self._id, data)


def test_the_link_shows_the_form(api: httpx.Client, token: str) -> None:
    """Each field has a label; the token goes on in the form; the password is told as a new one."""
    response = api.get("/signup", params={"token": token})
    assert response.status_code == 200
    page = Inputs(response.text)
    assert page.inputs.keys() == {"token", "organization", "email", "password"}
    assert page.labels == {"organization", "email", "password"}
    assert page.inputs["token"]["value"] == token
    assert page.inputs["password"]["autocomplete"] == "new-password"
    assert "12 characters" in page.texts[page.inputs["password"]["aria-describedby"] or ""]
    assert "autofocus" in page.inputs["organization"]


def test_nothing_of_the_page_leaks(api: httpx.Client, token: str) -> None:
    """Not stored, not framed, no referrer with the token, no script, only our own style."""
    for response in (
        api.get("/signup", params={"token": token}),
        api.get("/signup"),
        send(api, token, password="short"),
        send(api, token),
    ):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "no-referrer"
        policy = response.headers["content-security-policy"]
        assert re.fullmatch(
            r"default-src 'none'; style-src 'sha256-\S+'; form-action 'self'; base-uri 'none'; "
            r"frame-ancestors 'none'",
            policy,
        )
        assert "<script" not in response.text
        assert "style=" not in response.text
        assert not re.search(r"(?:src|href)=", response.text)


def test_the_form_makes_the_owner(api: httpx.Client, database: Database, token: str) -> None:
    """The answer has a key that works, this once; the link is used up."""
    response = send(api, token, {"origin": "null"})
    assert response.status_code == 200
    assert "<h1>Acme &amp; &lt;Sons&gt; is set up</h1>" in response.text
    (key,) = re.findall(r"uf_live_[0-9a-f]{48}", response.text)
    assert "--server http://api" in response.text
    assert "correct horse" not in response.text
    assert members(database) == ["ada@example.com"]
    with database.reading() as tx:
        assert isinstance(authenticate(tx, key, "usage.write"), Caller)
        row = tx.session.execute(text("SELECT * FROM person")).one()
        assert "correct horse" not in repr(tuple(row))
    for again in (send(api, token), api.get("/signup", params={"token": token})):
        assert again.status_code == 404
        assert "This link does not work" in again.text
    assert members(database) == ["ada@example.com"]


def test_a_mistake_keeps_what_was_typed(api: httpx.Client, database: Database, token: str) -> None:
    """Each is told at its field, the first has the focus, the password has to be typed again."""
    response = send(api, token, organization='"Acme" <b>', email="nobody", password="a secret")
    assert response.status_code == 422
    page = Inputs(response.text)
    assert page.inputs["organization"]["value"] == '"Acme" <b>'
    assert page.inputs["email"]["value"] == "nobody"
    assert "value" not in page.inputs["password"]
    assert "a secret" not in response.text
    assert "aria-invalid" not in page.inputs["organization"]
    for name, words in (("email", "ada@example.com"), ("password", "At least 12")):
        assert page.inputs[name]["aria-invalid"] == "true"
        assert words in page.texts[page.inputs[name]["aria-describedby"] or ""]
    assert "autofocus" in page.inputs["email"]
    assert "autofocus" not in page.inputs["password"]
    assert "<b>" not in response.text
    assert members(database) == []
    assert send(api, token).status_code == 200, "the link still works"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("organization", ""),
        ("organization", "   "),
        ("organization", "x" * 101),
        ("organization", "a\x00b"),
        ("organization", "a\u202eb"),
        ("email", ""),
        ("email", "ada"),
        ("email", "ada@"),
        ("email", "a b@example.com"),
        ("email", "a@b@c"),
        ("email", "a\x00@example.com"),
        ("email", "x" * 250 + "@b.co"),
        ("password", ""),
        ("password", "x" * 1_025),
    ],
)
def test_what_a_field_cannot_be(field: str, value: str) -> None:
    """The problem is told at this field alone."""
    assert problems(GOOD | {field: value}).keys() == {field}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("organization", "x" * 100),
        ("organization", "Società 東京"),
        ("email", "root@localhost"),
        ("email", "ada+tag@例え.jp"),
        ("password", "x" * 12),
    ],
)
def test_what_a_field_may_be(field: str, value: str) -> None:
    """Names and addresses of the whole world."""
    assert problems(GOOD | {field: value}) == {}


@pytest.mark.parametrize("name", ["organization", "email", "password"])
def test_a_missing_field_is_told(api: httpx.Client, token: str, name: str) -> None:
    """As an empty one."""
    data = {"token": token, **GOOD}
    del data[name]
    response = api.post("/signup", data=data)
    assert response.status_code == 422
    assert f'id="{name}-note"' in response.text


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", {"content-type": "application/json"}),
        (b"a=1", {}),
        (urlencode({"a": "x" * BODY_BYTES_MAX}).encode(), FORM),
        (b"&".join(b"a=1" for _ in range(9)), FORM),
        (b"a=\xff", FORM),
    ],
)
def test_what_is_no_form_is_refused(
    api: httpx.Client, body: bytes, headers: Mapping[str, str]
) -> None:
    """Another kind, too large, too many fields, not encoded; without a look at the database."""
    response = api.post("/signup", content=body, headers=headers)
    assert response.status_code == 400
    assert "This is not the form" in response.text


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, False),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site", "origin": "http://api"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://api:80"}, False),
        ({"origin": "https://api:80"}, False),
        ({"origin": "http://evil"}, True),
        ({"origin": "http://api:81"}, True),
        ({"origin": "null"}, False),
    ],
)
def test_forms_of_other_sites(headers: dict[str, str], refused: bool) -> None:  # noqa: FBT001 - a row
    """What browsers tell about where a form stood; behind a terminator the scheme may differ."""
    assert foreign(Headers({"host": "api:80"} | headers)) == refused


def test_a_form_of_another_site_makes_nothing(
    api: httpx.Client, database: Database, token: str
) -> None:
    """Even with the right token."""
    assert send(api, token, {"sec-fetch-site": "cross-site"}).status_code == 403
    assert members(database) == []


def test_who_guesses_has_to_wait(api: httpx.Client, database: Database, token: str) -> None:
    """By links or by forms; the owner, who may have the same address behind a proxy, does not."""
    for number in range(ATTEMPTS_MAX):
        if number % 2:
            assert send(api, "guess").status_code == 404
        else:
            assert api.get("/signup", params={"token": "guess"}).status_code == 404
    for response in (send(api, "guess"), api.get("/signup", params={"token": "guess"})):
        assert response.status_code == 429
        assert response.headers["retry-after"] == "60"
    assert members(database) == []
    assert api.get("/signup", params={"token": token}).status_code == 200
    assert send(api, token).status_code == 200


def test_two_who_send_at_the_same_moment(
    api: httpx.Client, database: Database, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is used up between look and use: the second gets no account."""
    from usageflow.api import signup

    def slow(password: str) -> str:
        monkeypatch.setattr(signup, "hashed", lambda _: "$x$")
        assert send(api, token, email="first@example.com").status_code == 200
        return "$y$"

    monkeypatch.setattr(signup, "hashed", slow)
    assert send(api, token).status_code == 404
    assert members(database) == ["first@example.com"]


def test_the_title_says_that_something_is_wrong(api: httpx.Client, token: str) -> None:
    """Who listens to the page hears it first."""
    titles = [
        unescape(response.text.partition("<title>")[2].partition("</title>")[0])
        for response in (api.get("/signup", params={"token": token}), send(api, token, email="x"))
    ]
    assert titles == [
        "Create the owner's account · UsageFlow",
        "Check the form: Create the owner's account · UsageFlow",
    ]
