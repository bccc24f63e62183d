"""The facts: bodies as documents, or why they are none."""

from collections.abc import Callable
from typing import Any

from usageflow.policies.facts import Facts, request_json, response_json
from usageflow.policies.reason import Reason


def test_a_body_with_a_problem_is_not_read(facts: Callable[..., Any]) -> None:
    """What the edge says about a body is the reason."""
    seen = facts(request=b'{"n": 1}')
    seen.request_body.problem = "the app did not read the request body"
    assert request_json(seen) == Reason("request body: the app did not read the request body")


def test_an_empty_body_says_so(facts: Callable[..., Facts]) -> None:
    """No bytes are no JSON, and the reason is simple."""
    assert response_json(facts(response=b"")) == Reason("response body is empty")
