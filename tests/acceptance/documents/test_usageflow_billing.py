"""Getting started, core concepts and the invoices API of the billing platform, step by step."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

Until = Callable[[Callable[[], bool], Callable[[], object]], None]

API_CALLS = {"name": "API Calls", "key": "API_CALL", "unit": "calls"}
PRO = {"name": "Pro", "billing_interval": "month", "currency": "USD", "base_price": 100}
OVERAGE = {"metric": "API_CALL", "included_units": 10_000, "overage_price": 0.01}
EVENT = {
    "metric": "API_CALL",
    "amount": 1000,
    "customerId": "user_123",
    "metadata": {"endpoint": "/v1/chat"},
}
LIST_INVOICES = """
curl https://your-domain.com/api/invoices \\
-H "x-usageflow-api-key: YOUR_API_KEY"
"""


def track(terminal: Any, key: str, event: Any, name: str) -> Any:
    """Step 7: the request of the page, with its two headers."""
    headers = (f"x-usageflow-api-key:{key}", f"Idempotency-Key:{name}")
    return terminal.post("/api/track", event, *headers)


def subscribed(terminal: Any) -> str:
    """Steps 1 to 5: organization, metric, plan, plan metric, subscription of the organization."""
    terminal.sign_up("CloudAI")
    assert terminal.get("/api/v1/organization").body["name"] == "CloudAI"
    assert terminal.post("/api/v1/metrics", API_CALLS).status == 201
    plan = terminal.post("/api/v1/plans", PRO)
    assert (plan.status, plan.body["base_price"]) == (201, 100)
    charge = terminal.post(f"/api/v1/plans/{plan.body['id']}/charges", OVERAGE)
    assert (charge.status, charge.body["included_units"]) == (201, 10_000)
    subscription = terminal.post("/api/v1/subscriptions", {"plan_id": plan.body["id"]})
    assert (subscription.status, subscription.body["status"]) == (201, "ACTIVE")
    found: str = subscription.body["id"]
    return found


def key_of(terminal: Any) -> str:
    """Step 6: Dashboard, Api Keys, Generate Key."""
    made = terminal.usageflow(
        *("keys", "create", "--name", "backend"),
        *("--scope", "usage.write", "--scope", "usage.read"),
    )
    found = re.search(r"uf_live_\w+", made)
    assert found
    return found.group()


def invoices(terminal: Any, key: str) -> list[dict[str, Any]]:
    """What the invoices API says."""
    answer = terminal.curl(LIST_INVOICES.replace("YOUR_API_KEY", key))
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.body["invoices"]
    return found


def test_getting_started(terminal: Any, receiver: Any, until: Until) -> None:
    """Twelve steps: 12,000 calls of 10,000 included cost 100 and 2,000 x 0.01, and it is told."""
    subscription = subscribed(terminal)
    key = key_of(terminal)
    hooks = terminal.post("/api/v1/webhooks", {"url": receiver.url})
    assert (hooks.status, hooks.body["secret"][:6]) == (201, "whsec_")

    first = track(terminal, key, EVENT, "unique-event-id")
    assert (first.status, first.body["success"]) == (200, True)
    assert track(terminal, key, EVENT, "unique-event-id").body == first.body
    for number in range(11):
        assert track(terminal, key, EVENT, f"event-{number}").status == 200

    used = terminal.get(f"/api/v1/subscriptions/{subscription}/usage").body
    assert [one["quantity"] for one in used["charges"]] == [12_000]

    made = terminal.post(f"/api/v1/subscriptions/{subscription}/generate-invoice", {})
    assert (made.status, made.body["total"]) == (201, Decimal(120))
    until(lambda: "invoice.created" in receiver.types(), lambda: receiver.bodies)
    [told] = [one for one in receiver.bodies if one["type"] == "invoice.created"]
    assert told["data"]["invoiceId"] == made.body["id"]
    assert told["data"]["amount"] == 120

    invited = terminal.post(
        "/api/v1/invitations", {"email": "dev@example.com", "role": "DEVELOPER"}
    )
    assert (invited.status, invited.body["role"]) == (201, "DEVELOPER")


def test_the_invoices_api(terminal: Any, receiver: Any, until: Until) -> None:
    """The scenario at the end of the page, and its three statuses."""
    subscription = subscribed(terminal)
    key = key_of(terminal)
    assert terminal.post("/api/v1/webhooks", {"url": receiver.url}).status == 201
    assert invoices(terminal, key) == []
    assert track(terminal, key, EVENT | {"amount": 12_000}, "all at once").status == 200
    made = terminal.post(f"/api/v1/subscriptions/{subscription}/generate-invoice", {}).body
    issued = terminal.post(f"/api/v1/invoices/{made['id']}/finalize", {})
    assert (issued.status, issued.body["status"]) == (200, "OPEN")

    [invoice] = invoices(terminal, key)
    assert list(invoice)[:6] == ["id", "amount", "status", "periodStart", "periodEnd", "createdAt"]
    assert (invoice["id"], invoice["amount"]) == (made["id"], 120)
    assert invoice["status"] == "PENDING"
    for name in ("periodStart", "periodEnd", "createdAt"):
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", invoice[name])

    assert terminal.post(f"/api/v1/invoices/{made['id']}/pay", {}).status == 200
    assert invoices(terminal, key)[0]["status"] == "PAID"

    settings = {"suspend_after_days": 0}
    assert terminal.request("PATCH", "/api/v1/organization", settings).status == 200
    assert track(terminal, key, EVENT | {"amount": 500}, "more").status == 200
    more = terminal.post(f"/api/v1/subscriptions/{subscription}/generate-invoice", {}).body
    assert more["total"] == Decimal(5)
    assert terminal.post(f"/api/v1/invoices/{more['id']}/finalize", {}).status == 200
    assert terminal.post(f"/api/v1/invoices/{more['id']}/fail", {}).status == 200
    assert [one["status"] for one in invoices(terminal, key)] == ["FAILED", "PAID"]
    wanted = {"invoice.created", "invoice.paid", "invoice.failed", "subscription.suspended"}
    until(lambda: wanted <= set(receiver.types()), receiver.types)
    found = terminal.get(f"/api/v1/subscriptions/{subscription}").body
    assert found["status"] == "SUSPENDED"


def test_core_concepts(terminal: Any) -> None:
    """What the page says of each block: isolated, reusable, hashed, raw, immutable."""
    subscription = subscribed(terminal)
    key = key_of(terminal)
    event = {"metric": "API_CALL", "amount": 1, "customerId": "user_123"}
    assert track(terminal, key, event, "one").status == 200

    [raw] = terminal.get("/api/v1/events").body["data"]
    assert (raw["metric"], raw["quantity"]) == ("API_CALL", 1)
    story = terminal.get(f"/api/v1/events/{raw['id']}").body
    assert story["identity"] == {"field": "external_id", "value": "user_123"}

    again = {"name": "Team", "billing_interval": "month", "charges": [OVERAGE]}
    assert terminal.post("/api/v1/plans", again).status == 201

    listed = terminal.get("/api/v1/api-keys").body["data"]
    assert key not in str(listed)
    assert key[:12] in str(listed)

    made = terminal.post(f"/api/v1/subscriptions/{subscription}/generate-invoice", {}).body
    terminal.post(f"/api/v1/invoices/{made['id']}/finalize", {})
    edited = {"customer_id": made["customer_id"], "currency": "USD", "line_items": []}
    for method in ("PUT", "DELETE"):
        body = edited if method == "PUT" else None
        refused = terminal.request(method, f"/api/v1/invoices/{made['id']}", body)
        assert refused.status in (409, 422)
    cancelled = terminal.post(
        f"/api/v1/subscriptions/{subscription}/cancel",
        {"cancel_at_period_end": False, "reason": "enough"},
    )
    assert cancelled.body["status"] == "CANCELLED"
