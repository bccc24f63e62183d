"""The end of the demo: what was used becomes invoices, and their lines add up.

It talks to the server as the owner of the organization would, over the HTTP API. That the sums are
right is seen here from what the clients counted, not from what the server says of itself.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import httpx

from usageflow.errors import UsageFlowError

METRIC: Final = "REQUEST"
BASE: Final = Decimal(20)
INCLUDED: Final = Decimal(50)
PRICE: Final = Decimal("0.015")
"""What the plan costs: for a month, and for each request beyond those included."""
CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Bill:
    """A customer's invoice, and how many requests its client counted."""

    customer: str
    requests: int
    invoice: Mapping[str, Any]

    @property
    def expected(self) -> Decimal:
        """What the requests cost."""
        overage = max(Decimal(0), self.requests - INCLUDED) * PRICE
        return BASE + overage.quantize(CENT, rounding="ROUND_HALF_UP")

    @property
    def right(self) -> bool:
        """Whether the lines add up to the total, and the total is what was used."""
        lines = self.invoice["line_items"]
        total = self.invoice["total"]
        used = [line["quantity"] for line in lines if line["metric"] == METRIC]
        added: Decimal = sum((line["line_total"] for line in lines), Decimal(0))
        return used == [self.requests] and added == total == self.expected


async def bills(url: str, began_at: datetime, requests: Mapping[str, int]) -> list[Bill]:
    """Sign up, make a plan, subscribe every customer from `began_at` on, and bill them now.

    Raises UsageFlowError for an answer that is none, with what the server said.
    """
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        owner = {
            "email": "owner@example.com",
            "password": secrets.token_urlsafe(16),
            "organization_name": "Demo",
        }
        await _post(client, "/api/v1/auth/signup", owner)
        plan = await _post(
            client,
            "/api/v1/plans",
            {
                "name": "Pro",
                "lookup_id": "pro",
                "type": "HYBRID",
                "billing_interval": "month",
                "currency": "USD",
                "base_price": str(BASE),
            },
        )
        charge = {
            "type": "USAGE",
            "metric": METRIC,
            "included_units": str(INCLUDED),
            "overage_price": str(PRICE),
            "display_name": "Requests",
        }
        await _post(client, f"/api/v1/plans/{plan['id']}/charges", charge)
        found = []
        for customer in sorted(requests):
            wanted = {
                "customer_external_id": customer,
                "plan_id": plan["id"],
                "start_date": began_at.isoformat(),
            }
            subscription = await _post(client, "/api/v1/subscriptions", wanted)
            place = f"/api/v1/subscriptions/{subscription['id']}/generate-invoice"
            found.append(Bill(customer, requests[customer], await _post(client, place, {})))
        return found


def told(bill: Bill) -> str:
    """One invoice as text, with the sum that anybody can do."""
    lines = [
        f"  {line['description']:<44} {line['line_total']:>10.2f}"
        for line in bill.invoice["line_items"]
    ]
    overage = f"{bill.requests} requests: {BASE} + ({bill.requests} - {INCLUDED}) x {PRICE}"
    total = f"  {'Total ' + bill.invoice['currency']:<44} {bill.invoice['total']:>10.2f}"
    return "\n".join([f"invoice of {bill.customer} ({overage})", *lines, total])


async def _post(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> Any:
    answer = await client.post(path, json=dict(body))
    if not answer.is_success:
        raise UsageFlowError(f"POST {path}: {answer.status_code} {answer.text}")
    return json.loads(answer.text, parse_float=Decimal, parse_int=Decimal)
