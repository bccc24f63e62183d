"""/api/v1/metrics and /api/v1/meters: one row in two dialects."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

API_CALL = {"name": "API Calls", "key": "API_CALL", "unit": "calls"}


@pytest.fixture
def admin(rest: httpx.Client, key: Callable[..., str]) -> httpx.Client:
    """A client that may read and write all of billing."""
    rest.headers["x-api-key"] = key("billing.write")
    return rest


def test_the_metric_of_getting_started(admin: httpx.Client) -> None:
    """Name, key and unit are all it takes; the same row answers as a meter, however it is named."""
    made = admin.post("/api/v1/metrics", json=API_CALL)
    assert made.status_code == 201
    metric = made.json()
    assert metric == API_CALL | {
        "id": metric["id"],
        "meter_token": metric["meter_token"],
        "aggregation": "SUM",
        "property": None,
        "filters": [],
        "description": "",
        "created_at": metric["created_at"],
    }
    for name in (metric["id"], metric["meter_token"], "api_call"):
        assert admin.get(f"/api/v1/metrics/{name}").json() == metric
        meter = admin.get(f"/api/v1/meters/{name}").json()
        assert (meter["id"], meter["meter_name"]) == (metric["id"], "API_CALL")
        assert (meter["aggregation_type"], meter["property_name"]) == ("SUM", None)
    listed = admin.get("/api/v1/metrics", params={"search": "call"}).json()
    assert listed["data"] == [metric]
    assert listed["meta"] == {"page": 1, "page_size": 20, "total": 1, "total_pages": 1}
    assert admin.get("/api/v1/meters").json()["data"] == [meter]


def test_a_metric_is_changed_and_deleted(admin: httpx.Client) -> None:
    """What is left out stays, what may be nothing can be, and a name is never null."""
    admin.post("/api/v1/metrics", json=API_CALL | {"property": "count"})
    filters = [{"property": "region", "values": ["eu"]}]
    changed = admin.patch(
        "/api/v1/metrics/API_CALL", json={"property": None, "filters": filters}
    ).json()
    assert (changed["property"], changed["filters"], changed["unit"]) == (None, filters, "calls")
    assert admin.patch("/api/v1/metrics/API_CALL", json={"name": None}).status_code == 422
    assert admin.delete("/api/v1/metrics/API_CALL").status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        gone = admin.request(method, "/api/v1/metrics/API_CALL", json={})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    assert admin.get("/api/v1/meters/API_CALL").status_code == 404


def test_what_is_wrong_is_told_by_field(admin: httpx.Client) -> None:
    """Nothing is made of a body that is not understood."""
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"name": "x"}, "key"),
        ({"key": "x"}, "key"),
        ({"key": "api call"}, "key"),
        ({"key": "1st"}, "key"),
        ({"key": "CALL", "name": "a\u0000b"}, "name"),
        ({"key": "CALL", "unit": "\u200bcalls"}, "unit"),
        ({"key": "CALL", "aggregation": "AVG"}, "aggregation"),
        ({"key": "CALL", "filters": [{"property": "a", "values": []}]}, "filters.0.values"),
        ({"key": "CALL", "color": "red"}, "color"),
    ]
    for body, field in mistakes:
        refused = admin.post("/api/v1/metrics", json=body)
        assert refused.status_code == 422
        assert [wrong["field"] for wrong in refused.json()["error"]["fields"]] == [field]
    assert admin.get("/api/v1/metrics").json()["data"] == []
    for path in ("metrics", "meters", "features", "plans", "customers"):
        assert admin.get(f"/api/v1/{path}", params={"search": "a\0"}).status_code == 422


def test_a_key_is_taken_once(admin: httpx.Client) -> None:
    """In whatever capitals, and with any name that can be seen."""
    named = admin.post("/api/v1/metrics", json={"key": "CALL", "name": "<b>'; DROP 🦓"})
    assert named.json()["name"] == "<b>'; DROP 🦓"
    refused = admin.post("/api/v1/metrics", json={"key": "call"})
    assert refused.status_code == 409
    assert refused.json()["error"]["fields"][0]["field"] == "key"
