"""Exemptions: routes with a reason."""

from typing import Any

import pytest
from pydantic import ValidationError

from usageflow.policies.exemptions import Exemption
from usageflow.policies.problems import explain


def test_an_exemption_has_routes_and_a_reason() -> None:
    """One route or a list; the reason is for whoever audits what is not billed."""
    read = Exemption.model_validate({"match": ["GET /a", "ANY /b/*"], "reason": " static files "})
    assert [route.text for route in read.routes] == ["GET /a", "ANY /b/*"]
    assert read.reason == "static files"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"match": "GET /a"}, "reason: is required"),
        ({"match": "GET /a", "reason": "  "}, "reason: string should have at least 1 character"),
        ({"match": "/a", "reason": "r"}, 'match: "/a" has no method: write "GET /a" or "ANY /a"'),
        ({"match": [], "reason": "r"}, "match: has 0 entries; 1 to 100 are allowed"),
        ({"match": "GET /a", "reason": "r", "raeson": ""}, 'raeson: is not known; did you mean "r'),
    ],
)
def test_a_wrong_exemption_is_refused(values: dict[str, Any], problem: str) -> None:
    """In words that name the key."""
    with pytest.raises(ValidationError) as refused:
        Exemption.model_validate(values)
    ((_, text),) = explain(refused.value, Exemption)
    assert text.startswith(problem)
