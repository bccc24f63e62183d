"""/api/v1 entitlements: what a customer may use, and the question before each use."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest


@pytest.fixture
def admin(sign_in: Callable[..., httpx.Client]) -> httpx.Client:
    """A person who may do it all."""
    return sign_in("ADMIN")


def made(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What is made."""
    response = client.post(f"/api/v1{path}", json=body)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.fixture
def subscription(admin: httpx.Client) -> dict[str, Any]:
    """Acme subscribes to 1,000 calls a month, softly, and to a switch."""
    calls = {"name": "Calls", "lookup_key": "calls", "type": "meter", "unit": "calls"}
    calls = made(admin, "/features", calls)
    sso = made(admin, "/features", {"name": "Sign-on", "lookup_key": "sso", "type": "switch"})
    made(admin, "/features", {"name": "Beta", "lookup_key": "beta", "type": "switch"})
    made(admin, "/plans", {"name": "Pro", "lookup_id": "pro", "base_price": 49, "currency": "USD"})
    limit = {"usage_limit": 1000, "usage_reset_period": "month", "is_soft_limit": True}
    made(admin, "/plans/pro/features", {"feature_id": calls["id"], **limit})
    made(admin, "/plans/pro/features", {"feature_id": sso["id"]})
    made(admin, "/customers", {"name": "Acme", "external_id": "acme"})
    return made(admin, "/subscriptions", {"customer_id": "acme", "plan_id": "pro"})


def test_what_a_customer_may_use(admin: httpx.Client, subscription: dict[str, Any]) -> None:
    """Each feature with its limit, what is used and left, and when it is reset."""
    response = admin.get("/api/v1/customers/acme/entitlements")
    assert response.status_code == 200
    assert response.json()["customer_id"] == subscription["customer_id"]
    calls, sso = response.json()["data"]
    assert calls.pop("feature_id").startswith("fea_")
    assert calls == {
        "lookup_key": "calls",
        "name": "Calls",
        "type": "meter",
        "subscription_id": subscription["id"],
        "enabled": True,
        "usage_limit": 1000,
        "used": 0,
        "remaining": 1000,
        "resets_at": subscription["current_period_end"],
        "soft": True,
        "value": None,
    }
    assert (sso["lookup_key"], sso["enabled"], sso["used"]) == ("sso", True, None)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"feature": "calls"}, (True, False)),
        ({"feature": "calls", "quantity": "1000"}, (True, False)),
        ({"feature": "calls", "quantity": "1000.000000000001"}, (True, True)),
        ({"feature": "sso"}, (True, False)),
        ({"feature": "beta"}, (False, False)),
    ],
    ids=["one", "all", "beyond", "switch", "not granted"],
)
def test_asking_before_use(
    admin: httpx.Client,
    subscription: dict[str, Any],
    params: dict[str, str],
    expected: tuple[bool, bool],
) -> None:
    """Allowed or not, over a soft limit or not, and always why."""
    response = admin.get("/api/v1/entitlements/check", params={"customer_id": "acme", **params})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["allowed"], answer["over"]) == expected
    assert answer["reason"]
    assert (answer["entitlement"] is None) == (params["feature"] == "beta")


def test_a_key_with_usage_read_may_ask(
    rest: httpx.Client, key: Callable[..., str], subscription: dict[str, Any]
) -> None:
    """Programs ask with the key they have."""
    rest.headers["x-api-key"] = key("usage.read")
    params = {"customer_id": "acme", "feature": "sso"}
    assert rest.get("/api/v1/entitlements/check", params=params).json()["allowed"] is True


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"customer_id": "nobody", "feature": "sso"}, 404),
        ({"customer_id": "acme", "feature": "none"}, 404),
        ({"customer_id": "acme", "feature": "calls", "quantity": "-1"}, 422),
        ({"customer_id": "acme", "feature": "calls", "quantity": "1e3"}, 422),
        ({"customer_id": "acme"}, 422),
    ],
    ids=["customer", "feature", "negative", "exponent", "no feature"],
)
def test_what_cannot_be_asked(
    admin: httpx.Client, subscription: dict[str, Any], params: dict[str, str], status: int
) -> None:
    """Of nobody, about nothing, for less than nothing."""
    assert admin.get("/api/v1/entitlements/check", params=params).status_code == status
    assert admin.get("/api/v1/customers/nobody/entitlements").status_code == 404
