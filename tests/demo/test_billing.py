"""The demo's own judgement of an invoice."""

from decimal import Decimal
from typing import Any

import pytest

from usageflow.demo.billing import METRIC, Bill, told


def invoice(**changes: Any) -> dict[str, Any]:
    """An invoice of 72 requests: 20.00 and 22 x 0.015 = 0.33."""
    lines = [
        {
            "description": "Base price",
            "metric": None,
            "quantity": 1,
            "line_total": Decimal("20.00"),
        },
        {
            "description": "Requests",
            "metric": METRIC,
            "quantity": Decimal(72),
            "line_total": Decimal("0.33"),
        },
    ]
    return {"currency": "USD", "total": Decimal("20.33"), "line_items": lines} | changes


def test_an_invoice_is_right_if_the_requests_cost_that() -> None:
    """The lines add up to the total, and the total is what was counted outside."""
    assert Bill("acme", 72, invoice()).right
    assert told(Bill("acme", 72, invoice())).endswith("20.33")


@pytest.mark.parametrize(
    ("requests", "changes"),
    [
        (71, {}),
        (72, {"total": Decimal("20.34")}),
        (72, {"line_items": []}),
        (0, {"line_items": [], "total": Decimal(20)}),
    ],
    ids=["another count", "another total", "no lines", "nothing billed"],
)
def test_an_invoice_that_is_wrong_is_told(requests: int, changes: dict[str, Any]) -> None:
    """One request, one cent or one line too few is seen."""
    assert not Bill("acme", requests, invoice(**changes)).right
