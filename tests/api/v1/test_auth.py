"""/api/v1/auth: sign-up, sign-in, the two cookies, and what ends them."""

import re
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import httpx
from sqlalchemy import text

from usageflow._types import ASGIApp
from usageflow.api import create_api
from usageflow.api.signing_in import EMAIL_ATTEMPTS_MAX
from usageflow.catalog import audit, members, people
from usageflow.catalog.audit import Actor
from usageflow.catalog.permissions import of_role
from usageflow.config import Settings
from usageflow.db.session import Database

ADA = {
    "email": "Ada@Example.com",
    "password": "correct horse battery",
    "organization_name": "Acme & Sons",
}
LOGIN = {"email": "ada@example.com", "password": "correct horse battery"}


def code(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which shows no password."""
    assert "correct horse" not in response.text
    return response.status_code, response.json()["error"]["code"]


def cookies_of(response: httpx.Response) -> SimpleCookie:
    """The cookies that an answer sets."""
    found = SimpleCookie()
    for line in response.headers.get_list("set-cookie"):
        found.load(line)
    return found


def signed_up(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    """Ada has an account, and `client` her cookies."""
    response = client.post("/api/v1/auth/signup", json=ADA | changes)
    assert response.status_code == 201, response.text
    content: dict[str, Any] = response.json()
    return content


def test_the_first_signs_up(rest: httpx.Client, database: Database) -> None:
    """They own the organization an installation begins with; everybody else is refused."""
    response = rest.post("/api/v1/auth/signup", json=ADA)
    assert response.status_code == 201
    content = response.json()
    assert content["user"].keys() == {"id", "email", "created_at"}
    assert content["user"]["email"] == "ada@example.com"
    here = {"key": "default", "name": "Acme & Sons", "role": "OWNER"}
    assert here.items() <= content["organization"].items()
    me = rest.get("/api/v1/auth/me").json()
    assert me["user"] == content["user"]
    assert me["permissions"] == sorted(of_role("OWNER"))
    assert me["organizations"] == [content["organization"]]
    rest.cookies.clear()
    again = rest.post("/api/v1/auth/signup", json=ADA | {"email": "eve@example.com"})
    assert code(again) == (403, "forbidden")
    with database.reading() as tx:
        entries, _ = audit.listing(tx, content["organization"]["id"], offset=0, limit=9)
        (entry,) = entries
        assert (entry.actor, entry.action) == ("ada@example.com", "member.join")
        assert entry.request_id == response.headers["x-request-id"]


def test_the_cookies(rest: httpx.Client) -> None:
    """Out of reach of scripts and other sites; the refresh token goes to one place only."""
    signed_up(rest)
    for answer in (
        rest.post("/api/v1/auth/login", json=LOGIN),
        rest.post("/api/v1/auth/refresh"),
    ):
        assert answer.status_code == 200
        found = cookies_of(answer)
        assert found.keys() == {"access_token", "refresh_token"}
        for name, path, life_s in [
            ("access_token", "/", "900"),
            ("refresh_token", "/api/v1/auth", "604800"),
        ]:
            one = found[name]
            assert re.fullmatch(r"[\w-]{43}", one.value)
            assert (one["path"], one["max-age"], one["samesite"]) == (path, life_s, "lax")
            assert one["httponly"]
            assert not one["secure"], "this server is reached without TLS"


def test_the_cookies_go_over_tls_where_there_is_tls(database: Database, rest: httpx.Client) -> None:
    """The server is behind it, or has it itself."""
    signed_up(rest)
    by_tls = rest.post("https://api/api/v1/auth/login", json=LOGIN)
    assert all(one["secure"] for one in cookies_of(by_tls).values())
    behind = create_api(database, Settings(public_url="https://usage.example.com"))
    transport = type(rest._transport)(behind)  # type: ignore[call-arg]
    with httpx.Client(transport=transport, base_url="http://api") as client:
        response = client.post("/api/v1/auth/login", json=LOGIN)
    assert response.status_code == 200
    assert all(one["secure"] for one in cookies_of(response).values())


def test_the_cookie_of_the_quickstart(rest: httpx.Client) -> None:
    """As curl sends it: `-H "Cookie: access_token=<your_token>"`."""
    signed_up(rest)
    token = rest.cookies["access_token"]
    rest.cookies.clear()
    assert code(rest.get("/api/v1/auth/me")) == (401, "missing_credentials")
    shown = rest.get("/api/v1/auth/me", headers={"cookie": f"access_token={token}"})
    assert shown.json()["user"]["email"] == "ada@example.com"


def test_signing_in_again_ends_the_session_before(rest: httpx.Client) -> None:
    """Of this browser; a wrong password and an unknown address are one answer, and end nothing."""
    signed_up(rest)
    before = rest.cookies["access_token"]
    wrong = rest.post("/api/v1/auth/login", json=LOGIN | {"password": "correct horse batterx"})
    unknown = rest.post("/api/v1/auth/login", json=LOGIN | {"email": "eve@example.com"})
    assert code(wrong) == code(unknown) == (401, "invalid_credentials")
    assert wrong.json()["error"] == unknown.json()["error"]
    assert rest.get("/api/v1/auth/me").status_code == 200
    assert rest.post("/api/v1/auth/login", json=LOGIN | {"email": "ADA@example.com"}).is_success
    assert rest.get("/api/v1/auth/me").status_code == 200
    headers = {"cookie": f"access_token={before}"}
    rest.cookies.clear()
    assert code(rest.get("/api/v1/auth/me", headers=headers)) == (401, "invalid_session")


def test_a_refresh_token_is_good_once(rest: httpx.Client) -> None:
    """Shown again it ends the session; without one there is nothing to refresh."""
    signed_up(rest)
    first = rest.cookies["refresh_token"]
    refreshed = rest.post("/api/v1/auth/refresh")
    assert refreshed.json()["user"]["email"] == "ada@example.com"
    assert rest.cookies["refresh_token"] != first
    assert rest.get("/api/v1/auth/me").status_code == 200
    stolen = {"cookie": f"refresh_token={first}"}
    kept = rest.cookies["access_token"]
    rest.cookies.clear()
    again = rest.post("/api/v1/auth/refresh", headers=stolen)
    assert code(again) == (401, "invalid_session")
    assert not cookies_of(again)
    after = rest.get("/api/v1/auth/me", headers={"cookie": f"access_token={kept}"})
    assert code(after) == (401, "invalid_session")
    assert code(rest.post("/api/v1/auth/refresh")) == (401, "invalid_session")


def test_signing_out(rest: httpx.Client) -> None:
    """The session is over, and the cookies are gone; who is not signed in may, too."""
    signed_up(rest)
    token = rest.cookies["access_token"]
    assert rest.post("/api/v1/auth/logout").status_code == 204
    assert not rest.cookies
    shown = rest.get("/api/v1/auth/me", headers={"cookie": f"access_token={token}"})
    assert code(shown) == (401, "invalid_session")
    assert rest.post("/api/v1/auth/logout").status_code == 204


def test_who_guesses_has_to_wait(rest: httpx.Client) -> None:
    """For the password of one address; others sign in meanwhile."""
    signed_up(rest)
    rest.cookies.clear()
    guess = {"email": "bob@example.com", "password": "a"}
    for _ in range(EMAIL_ATTEMPTS_MAX):
        assert rest.post("/api/v1/auth/login", json=guess).status_code == 401
    refused = rest.post("/api/v1/auth/login", json=guess)
    assert code(refused) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "900"
    assert rest.post("/api/v1/auth/login", json=LOGIN).status_code == 200


def test_another_site_signs_nobody_in_or_out(rest: httpx.Client) -> None:
    """A browser says where a request comes from."""
    for path, body in [("signup", ADA), ("login", LOGIN), ("refresh", None), ("logout", None)]:
        headers = {"sec-fetch-site": "cross-site"}
        response = rest.post(f"/api/v1/auth/{path}", json=body, headers=headers)
        assert code(response) == (403, "cross_site_request")


def test_what_nobody_signs_up_with(rest: httpx.Client) -> None:
    """The answer names the field; nothing was made."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"email": "nobody"}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "x" * 1_025}, "password"),
        ({"organization_name": None}, "organization_name"),
        ({"organization_name": "a\x00"}, "organization_name"),
        ({"admin": True}, "admin"),
    ]
    for changes, field in cases:
        response = rest.post("/api/v1/auth/signup", json=ADA | changes)
        assert code(response) == (422, "invalid")
        assert response.json()["error"]["fields"][0]["field"] == field
    signed_up(rest)


def test_signing_up_where_it_is_open(
    database: Database, rest: httpx.Client, settings: Settings
) -> None:
    """Each gets an organization of their own; an address has one account."""
    app: ASGIApp = create_api(database, Settings(signup="open"))
    transport = type(rest._transport)(app)  # type: ignore[call-arg]
    with httpx.Client(transport=transport, base_url="http://api") as client:
        first = signed_up(client)
        second = signed_up(client, email="eve@example.com")
        taken = client.post("/api/v1/auth/signup", json=ADA)
    assert first["organization"]["key"] == "acme-sons"
    assert second["organization"]["key"].startswith("acme-sons-")
    assert code(taken) == (409, "conflict")


def test_a_changed_password_signs_out_everywhere_else(
    rest: httpx.Client, database: Database
) -> None:
    """Not here. The one before opens nothing any more; the change is noted."""
    me = signed_up(rest)
    elsewhere = rest.post("/api/v1/auth/login", json=LOGIN)
    assert elsewhere.is_success
    here = cookies_of(elsewhere)["access_token"].value
    rest.cookies.clear()
    rest.post("/api/v1/auth/login", json=LOGIN)
    path = "/api/v1/auth/password"
    wrong = rest.post(path, json={"current": "wrong", "new": "four small dry words"})
    assert code(wrong) == (422, "invalid")
    assert wrong.json()["error"]["fields"][0]["field"] == "current"
    short = rest.post(path, json={"current": LOGIN["password"], "new": "short"})
    assert short.json()["error"]["fields"][0]["field"] == "new"
    changed = {"current": LOGIN["password"], "new": "four small dry words"}
    assert rest.post(path, json=changed).status_code == 204
    assert rest.get("/api/v1/auth/me").status_code == 200
    rest.cookies.clear()
    assert not rest.get("/api/v1/auth/me", headers={"cookie": f"access_token={here}"}).is_success
    assert rest.post("/api/v1/auth/login", json=LOGIN).status_code == 401
    renewed = LOGIN | {"password": "four small dry words"}
    assert rest.post("/api/v1/auth/login", json=renewed).status_code == 200
    with database.reading() as tx:
        (noted,), _ = audit.listing(
            tx, me["organization"]["id"], action="person.", offset=0, limit=9
        )
        assert (noted.actor, noted.subject) == ("ada@example.com", me["user"]["id"])


def test_one_s_sessions(rest: httpx.Client) -> None:
    """Listed with this one marked; another can be ended, somebody else's cannot."""
    signed_up(rest)
    rest.cookies.clear()
    rest.post("/api/v1/auth/login", json=LOGIN, headers={"user-agent": "Firefox"})
    listed = rest.get("/api/v1/auth/sessions").json()
    assert listed["meta"]["total"] == 2
    (here,), (other,) = (
        [one for one in listed["data"] if one["current"] is current] for current in (True, False)
    )
    assert here["user_agent"] == "Firefox"
    path = f"/api/v1/auth/sessions/{other['id']}"
    assert rest.delete(path).status_code == 204
    assert code(rest.delete(path)) == (404, "not_found")
    assert rest.get("/api/v1/auth/sessions?page_size=1").json()["data"][0]["id"] == here["id"]


def test_several_organizations(
    rest: httpx.Client, sign_in: Callable[..., httpx.Client], database: Database
) -> None:
    """One acts for one at a time, with the role one has there; never for one of others."""
    me = signed_up(rest)
    theirs = sign_in("OWNER", organization="other").get("/api/v1/auth/me").json()["organization"]
    path, body = "/api/v1/auth/organization", {"organization_id": theirs["id"]}
    assert code(rest.post(path, json=body)) == (404, "not_found")
    with database.transaction() as tx:
        members.join(tx, theirs["id"], me["user"]["id"], "VIEWER", actor=Actor("x"))
    switched = rest.post(path, json=body).json()
    assert (switched["organization"]["id"], switched["organization"]["role"]) == (
        theirs["id"],
        "VIEWER",
    )
    assert {one["id"] for one in switched["organizations"]} == {
        theirs["id"],
        me["organization"]["id"],
    }
    shown = rest.get("/api/v1/auth/me").json()
    assert shown == switched
    assert rest.post("/api/v1/auth/refresh").json()["organization"] == shown["organization"]


def test_who_is_a_member_of_nothing(rest: httpx.Client, database: Database) -> None:
    """Is recognised, and told so."""
    signed_up(rest)
    with database.transaction() as tx:
        tx.session.execute(text("DELETE FROM member"))
        assert people.find(tx, "ada@example.com") is not None
    assert code(rest.post("/api/v1/auth/login", json=LOGIN)) == (403, "forbidden")
    assert code(rest.get("/api/v1/auth/me")) == (401, "invalid_session")
    assert code(rest.post("/api/v1/auth/refresh")) == (401, "invalid_session")


def test_a_key_is_no_person(rest: httpx.Client, key: Callable[..., str]) -> None:
    """It has no name, no password and no sessions."""
    rest.headers["x-api-key"] = key("usage.read")
    for method, path in [
        ("GET", "me"),
        ("GET", "sessions"),
        ("DELETE", "sessions/ses_1"),
    ]:
        assert code(rest.request(method, f"/api/v1/auth/{path}")) == (403, "forbidden")
