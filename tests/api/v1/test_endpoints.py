"""Endpoints that no policy matches over HTTP: listed as edges report them, and drafted."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from usageflow.catalog.endpoints import report
from usageflow.db.session import Database
from usageflow.middleware.endpoints import Endpoint
from usageflow.middleware.sketch import Sketch

SignIn = Callable[..., httpx.Client]

CHAT = Sketch(
    response={"usage.total_tokens": ("integer",)}, headers=("x-account-id",), statuses=(200, 400)
)


@pytest.fixture
def developer(sign_in: SignIn, database: Database, organization_id: str) -> httpx.Client:
    """Of an organization whose edges have reported two endpoints."""
    with database.transaction() as tx:
        found = [
            Endpoint("GET", "/v1/items/{id}", requests=7, routed=True, sketch=Sketch()),
            Endpoint("POST", "/v1/chat", requests=1_204, routed=False, sketch=CHAT),
        ]
        report(tx, organization_id, found)
    return sign_in("DEVELOPER")


def names(client: httpx.Client, **query: Any) -> list[str]:
    """METHOD /template of those that are listed."""
    found = client.get("/api/v1/endpoints", params=query).json()["data"]
    return [f"{one['method']} {one['template']}" for one in found]


def test_what_no_policy_matches_is_listed(developer: httpx.Client) -> None:
    """The busiest first, with names and types of what was seen."""
    listed = developer.get("/api/v1/endpoints").json()
    assert listed["meta"]["total"] == 2
    chat = listed["data"][0]
    assert (chat["method"], chat["template"], chat["requests"]) == ("POST", "/v1/chat", 1_204)
    assert chat["sketch"]["response"] == {"usage.total_tokens": ["integer"]}
    assert (chat["sketch"]["headers"], chat["sketch"]["statuses"]) == (["x-account-id"], [200, 400])
    assert names(developer, search="items") == ["GET /v1/items/{id}"]
    assert names(developer, page=2, page_size=1) == ["GET /v1/items/{id}"]


def test_a_draft_can_be_published(developer: httpx.Client) -> None:
    """As it is: in shadow mode; then the endpoint is not listed any more."""
    asked = {"method": "POST", "template": "/v1/chat"}
    draft = developer.post("/api/v1/endpoints/draft", json=asked).json()["toml"]
    assert 'quantity = "response.body.usage.total_tokens"' in draft
    assert developer.put("/api/v1/policies", json={"toml": draft}).status_code == 200
    assert names(developer) == ["GET /v1/items/{id}"]
    assert developer.post("/api/v1/endpoints/draft", json=asked).status_code == 404


def test_endpoints_of_others_are_not_there(developer: httpx.Client, sign_in: SignIn) -> None:
    """Neither listed nor drafted."""
    other = sign_in("OWNER", organization="other")
    assert names(other) == []
    asked = {"method": "POST", "template": "/v1/chat"}
    assert other.post("/api/v1/endpoints/draft", json=asked).status_code == 404
