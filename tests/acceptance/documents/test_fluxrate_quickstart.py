"""The quickstart, top to bottom: its commands as they stand there."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

METER = r"""
curl -X POST https://api.fluxrate.co/api/v1/features \
-H "Content-Type: application/json" \
-H "Cookie: access_token=<your_token>" \
-d '{
"name": "API Calls",
"lookup_key": "api_calls",
"type": "meter",
"meter_name": "api_calls",
"property_name": "call_count",
"aggregation_type": "SUM",
"unit": "calls"
}'
"""
PLAN = r"""
curl -X POST https://api.fluxrate.co/api/v1/plans \
-H "Content-Type: application/json" \
-H "Cookie: access_token=<your_token>" \
-d '{
"name": "Starter",
"lookup_id": "starter",
"type": "USAGE",
"billing_interval": "month",
"currency": "USD"
}'
"""
CHARGE = r"""
curl -X POST https://api.fluxrate.co/api/v1/plans/<plan_id>/charges \
-H "Content-Type: application/json" \
-H "Cookie: access_token=<your_token>" \
-d '{
"type": "USAGE",
"meter_id": "<your_meter_id>",
"unit_price": 0.001,
"display_name": "API Call Charge"
}'
"""
CUSTOMER = r"""
curl -X POST https://api.fluxrate.co/api/v1/customers \
-H "Content-Type: application/json" \
-H "Cookie: access_token=<your_token>" \
-d '{
"name": "Acme Corp",
"email": "billing@acme.com",
"external_id": "acme-corp-001"
}'
"""
SUBSCRIPTION = r"""
curl -X POST https://api.fluxrate.co/api/v1/subscriptions \
-H "Content-Type: application/json" \
-H "Cookie: access_token=<your_token>" \
-d '{
"customer_id": "<customer_id>",
"plan_id": "<plan_id>",
"billing_interval": "month",
"start_date": "2025-01-01T00:00:00Z"
}'
"""
KEY = r"""
curl -X POST https://api.fluxrate.co/api/v1/api-keys \
-H "Content-Type: application/json" \
-H "Cookie: access_token=<your_token>" \
-d '{
"name": "Production SDK Key",
"scopes": ["usage.write"]
}'
"""
TRACK = r"""
curl -X POST https://api.fluxrate.co/api/v1/sdk/track \
-H "Content-Type: application/json" \
-H "X-API-Key: org_live_<your_key>" \
-d '{
"meter_token": "<meter_token>",
"customer_external_id": "acme-corp-001",
"quantity": 150,
"idempotency_key": "req_unique_abc123"
}'
"""
INVOICE = r"""
curl -X POST https://api.fluxrate.co/api/v1/subscriptions/<subscription_id>/generate-invoice \
-H "Cookie: access_token=<your_token>"
"""
Until = Callable[[Callable[[], bool], Callable[[], object]], None]


def test_the_quickstart(terminal: Any, until: Until) -> None:
    """Each step is answered as the document says, and the usage of step 6 is billed."""
    terminal.sign_up("Cloud Supplier")

    meter = terminal.curl(METER)
    described = (meter.body["aggregation_type"], meter.body["unit"])
    assert (meter.status, described) == (201, ("SUM", "calls"))
    terminal.filled["your_meter_id"] = meter.body["meter_id"]
    terminal.filled["meter_token"] = meter.body["meter_token"]

    plan = terminal.curl(PLAN)
    assert (plan.status, plan.body["lookup_id"], plan.body["currency"]) == (201, "starter", "USD")
    terminal.filled["plan_id"] = plan.body["id"]
    charge = terminal.curl(CHARGE)
    assert (charge.status, charge.body["unit_price"]) == (201, Decimal("0.001"))

    customer = terminal.curl(CUSTOMER)
    assert (customer.status, customer.body["external_id"]) == (201, "acme-corp-001")
    terminal.filled["customer_id"] = customer.body["id"]
    subscription = terminal.curl(SUBSCRIPTION)
    assert (subscription.status, subscription.body["status"]) == (201, "ACTIVE")
    terminal.filled["subscription_id"] = subscription.body["id"]

    key = terminal.curl(KEY)
    assert (key.status, key.body["scopes"], key.body["status"]) == (201, ["usage.write"], "ACTIVE")
    prefix, _, terminal.filled["your_key"] = key.body["key"].rpartition("_")
    assert prefix == "org_live"

    tracked = terminal.curl(TRACK)
    assert tracked.status == 201
    assert tracked.body["quantity"] == "150"
    assert tracked.body["customer_id"] == terminal.filled["customer_id"]
    assert tracked.body["meter_id"] == terminal.filled["your_meter_id"]
    again = terminal.curl(TRACK)
    assert (again.status, again.body) == (201, tracked.body)
    other = terminal.curl(TRACK.replace("150", "151"))
    assert other.status == 409

    path = f"/api/v1/subscriptions/{terminal.filled['subscription_id']}"

    def caught_up() -> bool:
        """The worker has closed every period since January 2025."""
        found = terminal.get(path).body
        return bool(found["current_period_end"] > tracked.body["timestamp"])

    until(caught_up, lambda: terminal.get(path).body)
    invoice = terminal.curl(INVOICE)
    assert (invoice.status, invoice.body["status"]) == (201, "DRAFT")
    [line] = [one for one in invoice.body["line_items"] if one["quantity"]]
    assert (line["quantity"], line["line_total"]) == (150, Decimal("0.15"))
    assert invoice.body["total"] == Decimal("0.15")
    months = terminal.get(f"{path}/invoices?page_size=100").body
    periods = [one for one in months["data"] if one["id"] != invoice.body["id"]]
    assert len(periods) >= 12
    assert {one["status"] for one in periods} == {"DRAFT"}  # for an hour, to be looked at
