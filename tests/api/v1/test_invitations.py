"""/api/v1/invitations: a link, once, for who has an account and for who has none."""

from collections.abc import Callable
from typing import Any

import httpx
from sqlalchemy import text

from usageflow.api.signing_in import ADDRESS_ATTEMPTS_MAX, EMAIL_ATTEMPTS_MAX
from usageflow.catalog import passwords, people
from usageflow.db.session import Database

SignIn = Callable[..., httpx.Client]
PATH = "/api/v1/invitations"
ACCEPT = f"{PATH}/accept"
PASSWORD = "correct horse battery"


def invited(client: httpx.Client, email: str, role: str = "DEVELOPER") -> str:
    """The token of a new invitation."""
    response = client.post(PATH, json={"email": email, "role": role})
    assert response.status_code == 201, response.text
    link: str = response.json()["link"]
    before, _, token = link.partition("?token=")
    assert before == "http://api/invite"
    return token


def accepted(client: httpx.Client, token: str, **more: Any) -> httpx.Response:
    """Use a link."""
    return client.post(ACCEPT, json={"token": token, **more})


def test_who_has_no_account_gets_one(
    sign_in: SignIn, rest: httpx.Client, database: Database
) -> None:
    """With a password of their own, and is signed in, in the role of the invitation."""
    token = invited(sign_in("ADMIN"), "Eve@Example.com")
    short = accepted(rest, token, password="short")
    assert short.json()["error"]["fields"][0]["field"] == "password"
    content = accepted(rest, token, password=PASSWORD).json()
    assert content["user"]["email"] == "eve@example.com"
    assert content["organization"]["role"] == "DEVELOPER"
    assert rest.get("/api/v1/auth/me").json()["user"] == content["user"]
    assert accepted(rest, token, password=PASSWORD).status_code == 404
    with database.reading() as tx:
        assert tx.session.execute(text("SELECT recipient FROM mail")).scalars().all() == [
            "eve@example.com"
        ]


def test_who_has_an_account_shows_it(
    sign_in: SignIn, rest: httpx.Client, database: Database
) -> None:
    """By their password, or by being signed in; being somebody else is not enough."""
    with database.transaction() as tx:
        people.create(tx, "eve@example.com", passwords.hashed(PASSWORD))
    admin, other = sign_in("ADMIN"), sign_in("ADMIN", organization="other")
    token = invited(admin, "eve@example.com")
    assert accepted(rest, token, password="correct horse batterx").status_code == 403
    assert accepted(rest, token).status_code == 403
    assert accepted(admin, token).status_code == 403
    first = accepted(rest, token, password=PASSWORD).json()["organization"]
    token = invited(other, "eve@example.com", "VIEWER")
    second = accepted(rest, token).json()["organization"]
    assert (second["role"], second["key"]) == ("VIEWER", "other")
    me = rest.get("/api/v1/auth/me").json()
    assert me["organization"] == second
    assert me["organizations"] == [first, second]


def test_signing_up_with_an_invitation(sign_in: SignIn, rest: httpx.Client) -> None:
    """Whatever the setting; only with the address that was invited."""
    token = invited(sign_in("OWNER"), "eve@example.com", "OWNER")
    body = {"email": "mallory@example.com", "password": PASSWORD, "invitation": token}
    path = "/api/v1/auth/signup"
    refused = rest.post(path, json=body)
    assert refused.status_code == 403
    assert rest.post(path, json=body | {"invitation": "guess"}).status_code == 404
    made = rest.post(path, json=body | {"email": "eve@example.com"})
    assert made.status_code == 201
    assert made.json()["organization"]["role"] == "OWNER"
    again = rest.post(path, json=body | {"email": "EVE@example.com"})
    assert again.status_code == 409
    nobody = rest.post("/api/v1/auth/login", json={k: body[k] for k in ("email", "password")})
    assert nobody.status_code == 401, "nothing was left of the first try"


def test_invitations_are_listed_and_taken_back(sign_in: SignIn, rest: httpx.Client) -> None:
    """Without their links; one at a time for an address; those of others are none of ours."""
    admin, other = sign_in("ADMIN"), sign_in("ADMIN", organization="other")
    token = invited(admin, "eve@example.com")
    (row,) = admin.get(PATH).json()["data"]
    assert row.keys() == {"id", "email", "role", "invited_by", "created_at", "expires_at"}
    assert other.get(PATH).json()["data"] == []
    again = admin.post(PATH, json={"email": "eve@example.com", "role": "VIEWER"})
    assert again.status_code == 409
    assert other.delete(f"{PATH}/{row['id']}").status_code == 404
    assert admin.delete(f"{PATH}/{row['id']}").status_code == 204
    assert accepted(rest, token, password=PASSWORD).status_code == 404
    assert admin.get(PATH).json()["meta"]["total"] == 0


def test_who_may_invite_whom(sign_in: SignIn) -> None:
    """Admins all but owners; developers nobody."""
    body = {"email": "eve@example.com", "role": "OWNER"}
    for role, status in [("DEVELOPER", 403), ("ADMIN", 403), ("OWNER", 201)]:
        assert sign_in(role).post(PATH, json=body).status_code == status


def test_invitations_end_with_the_right_to_invite(sign_in: SignIn, rest: httpx.Client) -> None:
    """Who is removed, or gets another role, has seen the links; those of others go on."""
    owner, admins = sign_in("OWNER"), [sign_in("ADMIN"), sign_in("ADMIN")]
    tokens = [
        invited(admin, f"{number}@example.com", "ADMIN") for number, admin in enumerate(admins)
    ]
    emails = [admin.get("/api/v1/auth/me").json()["user"]["email"] for admin in admins]
    ids = {one["email"]: one["id"] for one in owner.get("/api/v1/members").json()["data"]}
    left = invited(owner, "eve@example.com")
    removed = owner.delete(f"/api/v1/members/{ids[emails[0]]}")
    changed = owner.patch(f"/api/v1/members/{ids[emails[1]]}", json={"role": "VIEWER"})
    assert (removed.status_code, changed.status_code) == (204, 200)
    for token in tokens:
        assert accepted(rest, token, password=PASSWORD).status_code == 404
    assert accepted(rest, left, password=PASSWORD).status_code == 200


def test_who_guesses_has_to_wait(sign_in: SignIn, rest: httpx.Client) -> None:
    """At the password behind one link, and at links as such."""
    token = invited(sign_in("ADMIN"), "eve@example.com")
    for _ in range(EMAIL_ATTEMPTS_MAX):
        assert accepted(rest, token, password="short").status_code == 422
    assert accepted(rest, token, password=PASSWORD).status_code == 429
    for number in range(ADDRESS_ATTEMPTS_MAX - EMAIL_ATTEMPTS_MAX):
        assert accepted(rest, f"guess {number}").status_code == 404
    assert accepted(rest, "guess").status_code == 429
