"""/api/v1/smtp: the server over HTTP, its password never; and the log of mail."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from usageflow.db import outbox
from usageflow.db.session import Database

SERVER: dict[str, Any] = {
    "host": "localhost",
    "port": 1,
    "security": "tls",
    "sender": "Acme <billing@acme.example>",
    "username": "acme",
    "password": "keepthistoyourself",
}


@pytest.fixture
def admin(sign_in: Callable[..., httpx.Client]) -> httpx.Client:
    """Mail is an admin's."""
    return sign_in("ADMIN")


def test_a_server_from_beginning_to_end(admin: httpx.Client) -> None:
    """Set, read, changed, forgotten; the password is in no answer."""
    assert admin.get("/api/v1/smtp").status_code == 404
    response = admin.put("/api/v1/smtp", json=SERVER)
    assert response.status_code == 200
    told = response.json()
    assert told.pop("updated_at")
    assert told == {n: v for n, v in SERVER.items() if n != "password"} | {"has_password": True}
    assert SERVER["password"] not in admin.get("/api/v1/smtp").text
    kept = {**SERVER, "sender": "x@acme.example"}
    del kept["password"]
    assert admin.put("/api/v1/smtp", json=kept).json()["has_password"]
    refused = admin.put("/api/v1/smtp", json=kept | {"host": "evil.example"})
    assert refused.status_code == 422
    assert refused.json()["error"]["fields"][0]["field"] == "password"
    assert admin.delete("/api/v1/smtp").status_code == 204
    assert admin.delete("/api/v1/smtp").status_code == 404


def test_a_test_mail_tells_what_is_wrong(admin: httpx.Client) -> None:
    """In the words of the system or the server."""
    body = {"recipient": "me@acme.example"}
    assert admin.post("/api/v1/smtp/test", json=body).status_code == 404
    admin.put("/api/v1/smtp", json=SERVER)
    response = admin.post("/api/v1/smtp/test", json=body)
    assert response.json() == {"sent": False, "error": "[Errno 111] Connection refused"}


def test_what_became_of_the_mail(
    admin: httpx.Client, database: Database, organization_id: str
) -> None:
    """Its text is not told: a link in it may be a key."""
    with database.transaction() as tx:
        outbox.post(
            tx, organization_id, recipient="a@b.example", subject="Hello", text="https://secret"
        )
    response = admin.get("/api/v1/mails", params={"state": "waiting"})
    (mail,) = response.json()["data"]
    assert (mail["recipient"], mail["subject"], mail["state"]) == (
        *("a@b.example", "Hello", "waiting"),
    )
    assert mail["next_at"] is not None
    assert "secret" not in response.text
    assert admin.get("/api/v1/mails", params={"state": "sent"}).json()["data"] == []


def test_it_is_of_one_organization(sign_in: Callable[..., httpx.Client]) -> None:
    """Another one has neither the server nor the mail; a developer may see neither."""
    sign_in("OWNER", organization="other").put("/api/v1/smtp", json=SERVER)
    assert sign_in("OWNER").get("/api/v1/smtp").status_code == 404
    for path in ("/smtp", "/mails"):
        assert sign_in("DEVELOPER").get(f"/api/v1{path}").status_code == 403
