"""/api/v1/plans: what can be subscribed to, and its versions."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest

STARTER = {
    "name": "Starter",
    "lookup_id": "starter",
    "type": "USAGE",
    "billing_interval": "month",
    "currency": "USD",
}


@pytest.fixture
def admin(rest: httpx.Client, key: Callable[..., str]) -> httpx.Client:
    """A client that may read and write all of billing."""
    rest.headers["x-api-key"] = key("billing.write")
    rest.post("/api/v1/metrics", json={"key": "API_CALL", "name": "API Calls"})
    return rest


def test_the_plan_of_the_quickstart(admin: httpx.Client) -> None:
    """All that was said comes back; it is the first version, and can be subscribed to."""
    made = admin.post("/api/v1/plans", json=STARTER)
    assert made.status_code == 201
    plan = made.json()
    assert {name: plan[name] for name in STARTER} == STARTER
    assert (plan["version"], plan["is_active"], plan["charges"]) == (1, True, [])
    for name in (plan["id"], "starter"):
        assert admin.get(f"/api/v1/plans/{name}").json() == plan


def test_the_plan_of_getting_started(admin: httpx.Client) -> None:
    """Pro, 100 a month, 10,000 calls included and 0.01 beyond: said at once, in its words."""
    priced = {"metric": "API_CALL", "included_units": 10000, "overage_price": 0.01}
    made = admin.post("/api/v1/plans", json={"name": "Pro", "base_price": 100, "charges": [priced]})
    assert made.status_code == 201
    plan = made.json()
    assert (plan["lookup_id"], plan["type"], plan["currency"]) == ("pro", "HYBRID", "USD")
    assert (plan["billing_interval"], plan["base_price"]) == ("month", 100)
    (charge,) = plan["charges"]
    assert priced.items() <= charge.items()
    assert (charge["type"], charge["model"], charge["unit_price"]) == ("USAGE", "included", 0.01)
    assert (charge["display_name"], charge["status"]) == ("API Calls", "ACTIVE")
    meter = admin.get("/api/v1/meters/API_CALL").json()
    assert charge["meter_id"] == meter["id"]


def test_prices_keep_every_digit(admin: httpx.Client) -> None:
    """As a number and as a text; no digit is added or lost on the way."""
    body = (
        '{"name": "Exact", "base_price": 0.100000000001, "minimum": "123456789012.000000000001", '
        '"charges": [{"metric": "API_CALL", "unit_price": 0.000000000001}]}'
    )
    made = admin.post("/api/v1/plans", content=body, headers={"content-type": "application/json"})
    plan = json.loads(made.text, parse_float=Decimal)
    assert plan["base_price"] == Decimal("0.100000000001")
    assert plan["minimum"] == Decimal("123456789012.000000000001")
    assert plan["charges"][0]["unit_price"] == Decimal("0.000000000001")


def test_a_change_of_terms_is_a_version(admin: httpx.Client) -> None:
    """Another name is not; the versions before can be read for ever."""
    plan = admin.post("/api/v1/plans", json=STARTER | {"type": "HYBRID"}).json()
    path = f"/api/v1/plans/{plan['id']}"
    renamed = admin.patch(path, json={"name": "Start", "is_active": False}).json()
    assert (renamed["version"], renamed["name"], renamed["is_active"]) == (1, "Start", False)
    raised = admin.patch(path, json={"base_price": 49, "name": "Begin"}, params={"if_version": 1})
    assert (raised.json()["version"], raised.json()["name"]) == (2, "Begin")
    stale = admin.patch(path, json={"base_price": 59, "name": "No"}, params={"if_version": 1})
    assert stale.status_code == 409
    assert admin.get(path).json()["name"] == "Begin"
    versions = admin.get(f"{path}/versions").json()
    assert [(one["version"], one["base_price"]) for one in versions["data"]] == [(2, 49), (1, 0)]
    assert admin.get(f"{path}/versions/1").json() == versions["data"][1]
    assert admin.get(f"{path}/versions/3").status_code == 404


def test_plans_are_listed_and_deleted(admin: httpx.Client) -> None:
    """Newest first, with their charges; deleted while nobody has subscribed."""
    for name in ("One", "Two"):
        priced = [{"metric": "API_CALL", "unit_price": 1}]
        admin.post("/api/v1/plans", json={"name": name, "charges": priced, "is_active": name > "P"})

    def listed(**params: Any) -> list[str]:
        found = admin.get("/api/v1/plans", params=params).json()["data"]
        assert all(plan["charges"][0]["meter_id"] for plan in found)
        return [plan["name"] for plan in found]

    assert listed() == ["Two", "One"]
    assert listed(is_active=True) == listed(search="tw") == ["Two"]
    assert admin.delete("/api/v1/plans/one").status_code == 204
    assert listed() == ["Two"]
    for method, more in (("GET", ""), ("DELETE", ""), ("GET", "/versions"), ("PATCH", "")):
        gone = admin.request(method, f"/api/v1/plans/one{more}", json={})
        assert gone.status_code == 404


def test_mistakes_are_told_in_the_words_of_plans(admin: httpx.Client) -> None:
    """With their place in the request."""
    admin.post("/api/v1/plans", json=STARTER)
    included = {"metric": "API_CALL", "unit_price": 1, "model": "per_unit", "included_units": 1}
    for body, status, field in (
        (STARTER, 409, "lookup_id"),
        ({"name": "X", "currency": "usd"}, 422, "currency"),
        ({"name": "X", "base_price": 1.5, "type": "USAGE"}, 422, "base_price"),
        ({"name": "X", "base_price": True}, 422, "base_price"),
        ({"name": "X", "charges": [included]}, 422, "charges[0].included_units"),
        ({"name": "X", "charges": [{"unit_price": 1}]}, 422, "charges[0].display_name"),
        ({"name": "X", "features": [{"feature_id": "x"}]}, 422, "features[0].feature_id"),
        ({"name": "X", "charges": [{"metric": "NO", "unit_price": 1}]}, 422, "charges[0].metric"),
    ):
        refused = admin.post("/api/v1/plans", json=body)
        assert refused.status_code == status, refused.text
        assert refused.json()["error"]["fields"][0]["field"] == field
    assert admin.patch("/api/v1/plans/starter", json={"currency": "EUR"}).status_code == 422
