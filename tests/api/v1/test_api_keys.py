"""/api/v1/api-keys: shown once, good for no more than whoever made them, replaced with overlap."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

SignIn = Callable[..., httpx.Client]
PATH = "/api/v1/api-keys"


def made(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """A new key."""
    response = client.post(PATH, json={"name": "Production SDK Key", **body})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    content: dict[str, Any] = response.json()
    return content


def status_with(rest: httpx.Client, key: str) -> int:
    """What a key gets."""
    return rest.get("/api/v1/plans", headers={"x-api-key": key}).status_code


def test_the_key_of_the_quickstart(sign_in: SignIn, rest: httpx.Client) -> None:
    """Word by word; it is shown once."""
    owner = sign_in("OWNER")
    key = made(owner, scopes=["usage.write"])
    assert re.fullmatch("org_live_[0-9a-f]{48}", key["key"])
    expected = {"name": "Production SDK Key", "scopes": ["usage.write"], "status": "ACTIVE"}
    assert expected.items() <= key.items()
    assert key["expires_at"] is None
    listed = owner.get(PATH)
    assert key["key"] not in listed.text
    (row,) = listed.json()["data"]
    assert row == {name: value for name, value in key.items() if name != "key"}
    assert row["prefix"] == key["key"][:13]


def test_a_key_works_until_it_is_revoked(sign_in: SignIn, rest: httpx.Client) -> None:
    """By default it tracks and reads; revoked, it is refused at once."""
    developer = sign_in("DEVELOPER")
    key = made(developer)
    assert key["scopes"] == ["usage.read", "usage.write"]
    assert status_with(rest, key["key"]) == 200
    assert developer.delete(f"{PATH}/{key['id']}").status_code == 204
    assert status_with(rest, key["key"]) == 401
    assert developer.delete(f"{PATH}/{key['id']}").status_code == 404
    (row,) = developer.get(PATH).json()["data"]
    assert row["status"] == "REVOKED"
    assert row["last_used_at"] is not None


def test_nobody_gives_what_they_do_not_have(sign_in: SignIn) -> None:
    """A developer makes no key that writes plans; an admin does."""
    body = {"name": "a", "scopes": ["billing.write"]}
    refused = sign_in("DEVELOPER").post(PATH, json=body)
    assert refused.status_code == 403
    assert refused.json()["error"]["fields"][0]["field"] == "scopes"
    assert "plans.write" in refused.json()["error"]["message"]
    made_by_admin = sign_in("ADMIN").post(PATH, json=body)
    assert made_by_admin.status_code == 201
    rotated = sign_in("DEVELOPER").post(f"{PATH}/{made_by_admin.json()['id']}/rotate")
    assert rotated.status_code == 403, "nor gets the one there is anew"
    assert sign_in("VIEWER").post(PATH, json={"name": "a"}).status_code == 403


def test_a_key_is_replaced(sign_in: SignIn, rest: httpx.Client) -> None:
    """Both work for the overlap; with none, the old one ends at once."""
    owner = sign_in("OWNER")
    old = made(owner, scopes=["usage.read"])
    new = owner.post(f"{PATH}/{old['id']}/rotate")
    assert new.status_code == 201
    assert new.json()["scopes"] == ["usage.read"]
    assert status_with(rest, old["key"]) == status_with(rest, new.json()["key"]) == 200
    (first,) = (row for row in owner.get(PATH).json()["data"] if row["id"] == old["id"])
    ends = datetime.fromisoformat(first["expires_at"])
    assert timedelta(hours=23) < ends - datetime.now(UTC) <= timedelta(hours=24)
    now = owner.post(f"{PATH}/{old['id']}/rotate", json={"overlap_hours": 0})
    assert now.status_code == 201
    assert status_with(rest, old["key"]) == 401
    ended = owner.post(f"{PATH}/{old['id']}/rotate", json={"overlap_hours": 1})
    assert ended.status_code == 409


def test_a_key_that_expires(sign_in: SignIn, rest: httpx.Client) -> None:
    """In the future only."""
    owner = sign_in("OWNER")
    until = datetime.now(UTC) + timedelta(hours=1)
    key = made(owner, expires_at=until.isoformat())
    assert datetime.fromisoformat(key["expires_at"]) == until
    assert status_with(rest, key["key"]) == 200
    past = "2020-01-01T00:00:00Z"
    for path, body in [
        (PATH, {"name": "a", "expires_at": past}),
        (f"{PATH}/{key['id']}/rotate", {"expires_at": past}),
    ]:
        refused = owner.post(path, json=body)
        assert refused.status_code == 422
        assert refused.json()["error"]["fields"][0]["field"] == "expires_at"


def test_what_is_no_key_to_make(sign_in: SignIn) -> None:
    """The field is named."""
    owner = sign_in("OWNER")
    for body, field in [
        ({"name": ""}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["usage.wite"]}, "scopes.0"),
        ({"name": "a", "key": "org_live_1"}, "key"),
    ]:
        response = owner.post(PATH, json=body)
        assert response.status_code == 422
        assert response.json()["error"]["fields"][0]["field"] == field


def test_keys_of_others(sign_in: SignIn) -> None:
    """Neither seen, replaced nor revoked."""
    owner, other = sign_in("OWNER"), sign_in("OWNER", organization="other")
    key_id = made(other)["id"]
    assert owner.get(PATH).json()["data"] == []
    assert owner.post(f"{PATH}/{key_id}/rotate").status_code == 404
    assert owner.delete(f"{PATH}/{key_id}").status_code == 404
