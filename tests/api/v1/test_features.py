"""/api/v1/features: meters as the quickstart makes them, switches and values."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

METER = {
    "name": "API Calls",
    "lookup_key": "api_calls",
    "type": "meter",
    "meter_name": "api_calls",
    "property_name": "call_count",
    "aggregation_type": "SUM",
    "unit": "calls",
}


@pytest.fixture
def admin(rest: httpx.Client, key: Callable[..., str]) -> httpx.Client:
    """A client that may read and write all of billing."""
    rest.headers["x-api-key"] = key("billing.write")
    return rest


def test_the_meter_of_the_quickstart(admin: httpx.Client) -> None:
    """All that was said comes back, with the token that usage names it by; filters as well."""
    filters = [{"property": "region", "values": ["eu"]}]
    made = admin.post("/api/v1/features", json=METER | {"filters": filters})
    assert made.status_code == 201
    feature = made.json()
    assert {name: feature[name] for name in METER} == METER
    assert feature["filters"] == filters
    meter = admin.get(f"/api/v1/meters/{feature['meter_token']}").json()
    assert (meter["id"], meter["name"]) == (feature["meter_id"], "API Calls")
    for name in (feature["id"], "api_calls"):
        assert admin.get(f"/api/v1/features/{name}").json() == feature


def test_features_that_measure_nothing(admin: httpx.Client) -> None:
    """They have no meter; listed by type, changed, archived, and then listed apart."""
    admin.post("/api/v1/features", json=METER)
    for kind in ("switch", "custom"):
        body = {"name": kind, "lookup_key": kind, "type": kind}
        made = admin.post("/api/v1/features", json=body).json()
        assert (made["type"], made["meter_id"], made["unit"]) == (kind, None, None)

    def listed(**params: Any) -> list[str]:
        found = admin.get("/api/v1/features", params=params).json()["data"]
        return [feature["lookup_key"] for feature in found]

    assert listed() == ["api_calls", "custom", "switch"]
    assert listed(type="switch") == listed(search="SWI") == ["switch"]
    renamed = admin.patch("/api/v1/features/switch", json={"name": "SSO"}).json()
    assert (renamed["name"], renamed["lookup_key"]) == ("SSO", "switch")
    assert admin.delete("/api/v1/features/switch").status_code == 204
    assert listed(archived=True) == ["switch"]
    assert listed() == ["api_calls", "custom"]
    assert admin.get("/api/v1/features/switch").json()["archived_at"] is not None
    for method in ("GET", "PATCH", "DELETE"):
        assert admin.request(method, "/api/v1/features/x", json={}).status_code == 404


def test_mistakes_are_told_in_the_words_of_features(admin: httpx.Client) -> None:
    """A metric calls the same fields otherwise."""
    admin.post("/api/v1/metrics", json={"key": "api_calls", "aggregation": "MAX"})
    switch = {"name": "x", "lookup_key": "x", "type": "switch", "unit": "calls"}
    no_key = {"name": "x", "lookup_key": "1st", "type": "meter"}
    taken = {"name": "x", "lookup_key": "taken", "type": "custom"}
    admin.post("/api/v1/features", json=taken)
    for body, status, field, words in (
        (METER, 409, "aggregation_type", "has another aggregation"),
        (switch, 422, "body", "unit: a switch feature does not measure anything"),
        (no_key, 422, "body", "say meter_name"),
        (taken, 409, "lookup_key", "there is a feature taken already"),
    ):
        refused = admin.post("/api/v1/features", json=body)
        assert refused.status_code == status
        (wrong,) = refused.json()["error"]["fields"]
        assert wrong["field"] == field
        assert words in wrong["message"]
