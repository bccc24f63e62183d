"""/api/v1/webhooks: endpoints over HTTP, and their log."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from usageflow.db import outbox
from usageflow.db.session import Database
from usageflow.webhooks.fan_out import fan_out_due

URL = "https://hooks.example/usageflow"


@pytest.fixture
def developer(sign_in: Callable[..., httpx.Client]) -> httpx.Client:
    """Webhooks are a developer's."""
    return sign_in("DEVELOPER")


def made(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    """A new endpoint."""
    response = client.post("/api/v1/webhooks", json={"url": URL} | changes)
    assert response.status_code == 201, response.text
    content: dict[str, Any] = response.json()
    return content


def data(client: httpx.Client, path: str, **params: Any) -> list[dict[str, Any]]:
    """A list's items."""
    response = client.get(f"/api/v1{path}", params=params)
    assert response.status_code == 200, response.text
    content: list[dict[str, Any]] = response.json()["data"]
    assert response.json()["meta"]["total"] == len(content)
    return content


def test_an_endpoint_from_beginning_to_end(developer: httpx.Client) -> None:
    """Made, read, changed, rotated, deleted; its secret is in two answers only."""
    endpoint = made(developer, types=["invoice.paid"], description="books")
    secret = endpoint.pop("secret")
    path = f"/api/v1/webhooks/{endpoint['id']}"
    assert endpoint | {"created_at": 0, "updated_at": 0} == {
        "id": endpoint["id"],
        "url": URL,
        "types": ["invoice.paid"],
        "description": "books",
        "enabled": True,
        "disabled_reason": None,
        "failing_since": None,
        "old_secret_until": None,
        "created_at": 0,
        "updated_at": 0,
    }
    assert developer.get(path).json() == endpoint
    assert data(developer, "/webhooks") == [endpoint]
    changed = developer.patch(path, json={"types": [], "enabled": False}).json()
    assert (changed["types"], changed["enabled"], changed["url"]) == ([], False, URL)
    rotated = developer.post(f"{path}/rotate-secret").json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != secret
    assert rotated["old_secret_until"] is not None
    assert developer.delete(path).status_code == 204
    assert developer.get(path).status_code == 404
    assert data(developer, "/webhooks") == []


def test_what_is_wrong_is_named(developer: httpx.Client) -> None:
    """By the field of the request."""
    for body, field in (
        ({}, "url"),
        ({"url": "ftp://x"}, "url"),
        ({"url": "https://user:pw@x/"}, "url"),
        ({"url": URL, "types": ["invoice.eaten"]}, "types.0"),
        ({"url": URL, "types": ["webhook.test"]}, "types.0"),
        ({"url": URL, "secret": "mine"}, "secret"),
    ):
        response = developer.post("/api/v1/webhooks", json=body)
        assert response.status_code == 422
        assert [one["field"] for one in response.json()["error"]["fields"]] == [field]


def test_events_deliveries_and_replays(
    developer: httpx.Client, database: Database, organization_id: str
) -> None:
    """What happened is listed with every digit; what it is told to, too, and can be told anew."""
    endpoint = made(developer)
    with database.transaction() as tx:
        exact = {"amount": Decimal("0.000000000001")}
        event_id = outbox.emit(tx, organization_id, "invoice.paid", exact)
    fan_out_due(database)
    (event,) = data(developer, "/webhook-events", type="invoice.paid")
    assert data(developer, "/webhook-events", type="invoice.failed") == []
    assert (event["id"], event["type"]) == (event_id, "invoice.paid")
    raw = developer.get(f"/api/v1/webhook-events/{event_id}").text
    assert json.loads(raw, parse_float=Decimal)["body"]["data"] == exact
    (delivery,) = data(developer, f"/webhooks/{endpoint['id']}/deliveries", state="pending")
    assert (delivery["event_id"], delivery["attempts"], delivery["replay"]) == (event_id, 0, 0)
    path = f"/api/v1/webhook-deliveries/{delivery['id']}"
    details = developer.get(path).json()
    assert details.pop("body")["id"] == event_id
    assert details.pop("log") == []
    assert details == delivery
    at_once = developer.post(f"{path}/replay")
    assert (at_once.status_code, at_once.json()["id"]) == (202, delivery["id"])
    again = developer.post(
        f"/api/v1/webhook-events/{event_id}/replay", json={"endpoint_id": endpoint["id"]}
    )
    assert (again.status_code, again.json()["replay"]) == (202, 1)
    assert len(data(developer, f"/webhooks/{endpoint['id']}/deliveries")) == 2


def test_a_test_event(developer: httpx.Client, database: Database) -> None:
    """It says whom it is for and who sent it."""
    endpoint = made(developer, types=["invoice.paid"])
    response = developer.post(f"/api/v1/webhooks/{endpoint['id']}/test")
    assert response.status_code == 202
    (event,) = data(developer, "/webhook-events")
    assert (event["id"], event["type"]) == (response.json()["event_id"], "webhook.test")
    assert event["body"]["data"]["endpointId"] == endpoint["id"]
    fan_out_due(database)
    assert len(data(developer, f"/webhooks/{endpoint['id']}/deliveries")) == 1
    developer.patch(f"/api/v1/webhooks/{endpoint['id']}", json={"enabled": False})
    assert developer.post(f"/api/v1/webhooks/{endpoint['id']}/test").status_code == 409
    (delivery,) = data(developer, f"/webhooks/{endpoint['id']}/deliveries")
    replayed = developer.post(f"/api/v1/webhook-deliveries/{delivery['id']}/replay")
    assert replayed.status_code == 409


def test_a_receiver_can_use_the_secret(developer: httpx.Client) -> None:
    """It is what the library of the standard takes."""
    Webhook(made(developer)["secret"])


@pytest.mark.parametrize("role", ["OWNER", "VIEWER"])
def test_nobody_else_has_them(sign_in: Callable[..., httpx.Client], role: str) -> None:
    """What is not there, and what another organization has, looks the same to everybody."""
    theirs = sign_in("OWNER", organization="other")
    endpoint_id = made(theirs)["id"]
    event_id = theirs.post(f"/api/v1/webhooks/{endpoint_id}/test").json()["event_id"]
    body = {"endpoint_id": endpoint_id}
    delivery = theirs.post(f"/api/v1/webhook-events/{event_id}/replay", json=body).json()["id"]
    expected = {"OWNER": 404, "VIEWER": 403}[role]
    client = sign_in(role)
    for method, path, content in (
        ("GET", f"/webhooks/{endpoint_id}", None),
        ("PATCH", f"/webhooks/{endpoint_id}", {}),
        ("DELETE", f"/webhooks/{endpoint_id}", None),
        ("POST", f"/webhooks/{endpoint_id}/rotate-secret", None),
        ("POST", f"/webhooks/{endpoint_id}/test", None),
        ("GET", f"/webhooks/{endpoint_id}/deliveries", None),
        ("GET", f"/webhook-deliveries/{delivery}", None),
        ("POST", f"/webhook-deliveries/{delivery}/replay", None),
        ("GET", f"/webhook-events/{event_id}", None),
        ("POST", f"/webhook-events/{event_id}/replay", body),
    ):
        response = client.request(method, f"/api/v1{path}", json=content)
        assert response.status_code == expected, (method, path, response.text)
