"""/api/v1/plans/{plan}/charges and /features: one by one."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

FEATURE = {
    "name": "API Calls",
    "lookup_key": "api_calls",
    "type": "meter",
    "meter_name": "api_calls",
}
CHARGES = "/api/v1/plans/starter/charges"
FEATURES = "/api/v1/plans/starter/features"


@pytest.fixture
def feature(rest: httpx.Client, key: Callable[..., str]) -> dict[str, Any]:
    """A meter feature, beside a plan `starter`."""
    rest.headers["x-api-key"] = key("billing.write")
    rest.post("/api/v1/plans", json={"name": "Starter"})
    made: dict[str, Any] = rest.post("/api/v1/features", json=FEATURE).json()
    return made


def test_the_charge_of_the_quickstart(rest: httpx.Client, feature: dict[str, Any]) -> None:
    """All that was said comes back; the plan shows it in its next version."""
    body = {
        "type": "USAGE",
        "meter_id": feature["meter_id"],
        "unit_price": 0.001,
        "display_name": "API Call Charge",
    }
    made = rest.post(CHARGES, json=body)
    assert made.status_code == 201
    charge = made.json()
    assert body.items() <= charge.items()
    assert (charge["model"], charge["metric"], charge["plan_version"]) == (
        "per_unit",
        "api_calls",
        2,
    )
    plan = rest.get("/api/v1/plans/starter").json()
    assert charge == plan["charges"][0] | {"plan_id": plan["id"], "plan_version": plan["version"]}


def test_each_model_is_told_by_what_it_uses(rest: httpx.Client, feature: dict[str, Any]) -> None:
    """A metric is named by token, key or id; without one the charge is fixed."""
    tiers = [
        {"up_to": 1000, "unit_price": 0.002},
        {"up_to": None, "unit_price": 0.001, "flat_price": 1},
    ]
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("per_unit", {"meter_id": feature["meter_token"], "unit_price": 1}),
        ("included", {"metric": "API_CALLS", "included_units": 5, "unit_price": 1}),
        ("package", {"metric": "api_calls", "package_size": 100, "unit_price": "2.5"}),
        ("graduated", {"metric": "api_calls", "tiers": tiers}),
        ("volume", {"metric": "api_calls", "tiers": tiers, "model": "volume", "maximum": 9}),
        ("fixed", {"display_name": "Support", "unit_price": 5}),
    ]
    for model, body in bodies:
        rest.post("/api/v1/plans", json={"name": model})
        charge = rest.post(f"/api/v1/plans/{model.replace('_', '-')}/charges", json=body).json()
        assert charge["model"] == model
        assert charge["type"] == ("FIXED" if model == "fixed" else "USAGE")
        assert charge["display_name"] == body.get("display_name", "API Calls")
        assert charge["tiers"] == [{"flat_price": 0} | tier for tier in body.get("tiers", [])]


def test_a_charge_changes_and_ends(rest: httpx.Client, feature: dict[str, Any]) -> None:
    """Each time in a new version; an ended one does not come back."""
    charge = rest.post(CHARGES, json={"meter_id": feature["id"], "unit_price": 1})
    assert charge.json()["error"]["fields"][0]["field"] == "meter_id"
    charge = rest.post(CHARGES, json={"meter_id": feature["meter_id"], "overage_price": 1}).json()
    path = f"{CHARGES}/{charge['id']}"
    changed = rest.patch(path, json={"overage_price": 2, "included_units": 10}).json()
    assert (changed["unit_price"], changed["included_units"]) == (2, 10)
    assert changed["id"] == charge["id"]
    ended = rest.patch(path, json={"status": "INACTIVE"}, params={"if_version": 3}).json()
    assert (ended["status"], ended["plan_version"]) == ("INACTIVE", 4)
    revived = rest.patch(path, json={"status": "ACTIVE"})
    assert revived.status_code == 409
    assert rest.patch(f"{CHARGES}/none", json={}).status_code == 404
    assert rest.patch(path, json={}, params={"if_version": 3}).status_code == 409


def test_what_is_told_twice_is_refused(rest: httpx.Client, feature: dict[str, Any]) -> None:
    """Two names of one metric, or two of one price."""
    for body, words in (
        ({"meter_id": feature["meter_id"], "metric": "api_calls"}, "say metric or meter_id"),
        ({"unit_price": 1, "overage_price": 1}, "say one of them"),
    ):
        refused = rest.post(CHARGES, json=body)
        assert refused.status_code == 422
        assert words in refused.json()["error"]["message"]


def test_a_plan_grants_and_withdraws_features(rest: httpx.Client, feature: dict[str, Any]) -> None:
    """Named by id or lookup key; granted again means granted otherwise."""
    granted = {
        "feature_id": feature["id"],
        "is_enabled": True,
        "usage_limit": 1000,
        "usage_reset_period": "month",
        "is_soft_limit": True,
        "static_value": None,
    }
    made = rest.post(FEATURES, json=granted)
    assert made.status_code == 201
    assert granted.items() <= made.json().items()
    again = rest.post(FEATURES, json={"feature_id": "api_calls", "usage_limit": None})
    assert (again.json()["usage_limit"], again.json()["plan_version"]) == (None, 3)
    plan = rest.get("/api/v1/plans/starter").json()
    assert [one["feature_id"] for one in plan["features"]] == [feature["id"]]
    reset = {"feature_id": "api_calls", "usage_reset_period": "day"}
    refused = rest.post(FEATURES, json=reset)
    assert refused.json()["error"]["fields"][0]["field"] == "usage_reset_period"
    assert rest.delete(f"{FEATURES}/api_calls").status_code == 204
    assert rest.delete(f"{FEATURES}/api_calls").status_code == 404
    assert rest.get("/api/v1/plans/starter").json()["features"] == []
