"""/api/v1/audit: who changed what."""

from collections.abc import Callable

import httpx

SignIn = Callable[..., httpx.Client]
PATH = "/api/v1/audit"


def test_the_log_is_read(sign_in: SignIn) -> None:
    """By admins; the latest first, with what it was before, and by which request."""
    admin, other = sign_in("ADMIN"), sign_in("ADMIN", organization="other")
    me = admin.get("/api/v1/auth/me").json()["user"]["email"]
    changed = admin.patch("/api/v1/organization", json={"name": "Acme", "tax_percent": 7.25})
    key_id = admin.post("/api/v1/api-keys", json={"name": "edge"}).json()["id"]
    listed = admin.get(PATH).json()
    latest = listed["data"][0]
    assert (latest["action"], latest["subject"]) == ("api_key.create", key_id)
    (settings,) = admin.get(PATH, params={"action": "organization.set"}).json()["data"]
    assert settings["actor"] == me
    assert settings["request_id"] == changed.headers["x-request-id"]
    assert (settings["before"], settings["after"]) == (
        {"tax_percent": None},
        {"tax_percent": 7.25},
    )
    assert len(settings["hash"]) == 64
    for params, total in [
        ({"actor": me}, 3),
        ({"subject": key_id}, 1),
        ({"since": "2999-01-01T00:00:00Z"}, 422),
        ({"since": "2199-01-01T00:00:00Z"}, 0),
    ]:
        found = admin.get(PATH, params=params)
        assert total in (found.status_code, found.json().get("meta", {}).get("total"))
    actions = [row["action"] for row in other.get(PATH).json()["data"]]
    assert actions == ["organization.create"]
    assert sign_in("DEVELOPER").get(PATH).status_code == 403
