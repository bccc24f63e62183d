"""/api/v1/members: the people of an organization, and that an owner remains."""

from collections.abc import Callable

import httpx

SignIn = Callable[..., httpx.Client]
PATH = "/api/v1/members"


def me(client: httpx.Client) -> str:
    """The address of who is signed in."""
    email: str = client.get("/api/v1/auth/me").json()["user"]["email"]
    return email


def member_of(client: httpx.Client, email: str) -> str:
    """The id of the member with this address."""
    rows = client.get(PATH).json()["data"]
    return next(str(row["id"]) for row in rows if row["email"] == email)


def test_members_are_listed_and_changed(sign_in: SignIn) -> None:
    """By an admin; what a role may do counts from the next request on; who is removed is out."""
    owner, admin, viewer = (sign_in(role) for role in ("OWNER", "ADMIN", "VIEWER"))
    listed = viewer.get(PATH).json()
    assert listed["meta"]["total"] == 3
    assert {row["role"] for row in listed["data"]} == {"OWNER", "ADMIN", "VIEWER"}
    assert listed["data"][0].keys() == {"id", "email", "role", "created_at"}
    path = f"{PATH}/{member_of(admin, me(viewer))}"
    changed = admin.patch(path, json={"role": "DEVELOPER"})
    assert changed.json()["role"] == "DEVELOPER"
    assert viewer.get("/api/v1/api-keys").status_code == 200
    assert admin.delete(path).status_code == 204
    assert viewer.get(PATH).status_code == 401
    assert admin.delete(path).status_code == 404
    assert owner.get(PATH).json()["meta"]["total"] == 2


def test_owners_are_for_owners(sign_in: SignIn) -> None:
    """An admin neither makes, changes nor removes one; the last one stays."""
    owner, admin = sign_in("OWNER"), sign_in("ADMIN")
    theirs, own = (f"{PATH}/{member_of(owner, me(each))}" for each in (owner, admin))
    for response in (
        admin.patch(theirs, json={"role": "VIEWER"}),
        admin.delete(theirs),
        admin.patch(own, json={"role": "OWNER"}),
    ):
        assert response.status_code == 403
        assert response.json()["error"]["message"].startswith("only an owner may")
    for response in (owner.patch(theirs, json={"role": "ADMIN"}), owner.delete(theirs)):
        assert response.status_code == 409
        assert "needs an owner" in response.json()["error"]["message"]
    assert owner.patch(own, json={"role": "GUEST"}).status_code == 422
    assert owner.patch(own, json={"role": "OWNER"}).status_code == 200
    assert owner.delete(theirs).status_code == 204


def test_members_of_others(sign_in: SignIn) -> None:
    """Neither seen nor touched."""
    owner, other = sign_in("OWNER"), sign_in("OWNER", organization="other")
    path = f"{PATH}/{member_of(other, me(other))}"
    assert owner.get(PATH).json()["meta"]["total"] == 1
    assert owner.patch(path, json={"role": "VIEWER"}).status_code == 404
    assert owner.delete(path).status_code == 404
