"""What two policies may not both claim."""

from collections.abc import Callable

import pytest

from usageflow.policies.claims import Claims
from usageflow.policies.models import Policy

MakePolicy = Callable[..., Policy]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("GET /a", "GET /a"),
        ("GET /a", "HEAD /a"),
        ("ANY /a", "POST /a"),
        ("GET,POST /a", "POST,PUT /a"),
        ("GET /a/:x", "GET /a/{y:str}"),
        ("GET /a/*", "GET /a/*"),
    ],
)
def test_the_same_requests_are_counted_once(policy: MakePolicy, first: str, second: str) -> None:
    """Equal templates with a common method in one metric would bill a request twice."""
    claims = Claims()
    assert claims.make(policy(name="one", match=first)) is None
    assert claims.make(policy(name="two", match=second)) == (
        "match",
        f'"{second}" and "{first}" of policy "one" both count CALL for the same requests',
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"match": "GET /a"}, {"match": "POST /a"}),
        ({"match": "GET /a"}, {"match": "GET /a/"}),
        ({"match": "GET /a/:x"}, {"match": "GET /a/{x:int}"}),
        ({"match": "GET /a/*"}, {"match": "GET /a/{x:path}"}),
        ({"match": "GET /a"}, {"match": "GET /a", "metric": "OTHER"}),
        ({"match": "GET /a"}, {"match": "GET /a", "mode": "off"}),
        ({"match": "GET /a", "mode": "off"}, {"match": "GET /a"}),
    ],
)
def test_different_claims_live_together(
    policy: MakePolicy, first: dict[str, str], second: dict[str, str]
) -> None:
    """Other methods, other templates, other metrics and policies that are off do not conflict."""
    claims = Claims()
    assert claims.make(policy(name="one", **first)) is None
    assert claims.make(policy(name="two", **second)) is None


def test_a_name_is_used_once(policy: MakePolicy) -> None:
    """Events name their policy; two of one name could not be told apart, even if one is off."""
    claims = Claims()
    assert claims.make(policy(match="GET /a", mode="off")) is None
    problem = ("name", 'another policy is called "chat" too')
    assert claims.make(policy(match="GET /b")) == problem


def test_a_policy_does_not_claim_twice(policy: MakePolicy) -> None:
    """A template that occurs twice within a policy would bill twice as well."""
    problem = Claims().make(policy(match=["GET /a", "ANY /a"]))
    assert problem is not None
    assert problem[1].startswith('"ANY /a" and "GET /a" of policy "chat" both count')


def test_a_refused_policy_claims_nothing(policy: MakePolicy) -> None:
    """What is left out does not take others with it."""
    claims = Claims()
    assert claims.make(policy(name="one", match="GET /a")) is None
    assert claims.make(policy(name="two", match=["GET /b", "GET /a"])) is not None
    assert claims.make(policy(name="two", match="GET /b")) is None
