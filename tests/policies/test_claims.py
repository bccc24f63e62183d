"""What two policies may not both claim."""

from collections.abc import Callable

import pytest

from usageflow.policies.claims import Claims
from usageflow.policies.models import Policy
from usageflow.policies.paths import PathRules

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


NARROW = {"host": "api.example.com", "header": {"X-Plan": ["b", "a"]}, "query": {"v": "1"}}


@pytest.mark.parametrize(
    ("condition", "same"),
    [
        ("host", ["API.example.com"]),
        ("header", {"x-plan": ["a", "b", "a"]}),
        ("query", {"v": ["1"]}),
    ],
)
def test_equal_conditions_conflict(policy: MakePolicy, condition: str, same: object) -> None:
    """However they are written: both policies would count the same requests."""
    claims = Claims()
    assert claims.make(policy(name="one", **NARROW)) is None
    assert claims.make(policy(name="two", **{**NARROW, condition: same})) is not None


@pytest.mark.parametrize("condition", ["host", "header", "query"])
def test_other_conditions_live_together(policy: MakePolicy, condition: str) -> None:
    """The policy with more conditions is asked first, and the other one for the rest."""
    claims = Claims()
    fewer = {name: said for name, said in NARROW.items() if name != condition}
    assert claims.make(policy(name="one", **NARROW)) is None
    assert claims.make(policy(name="two", **fewer)) is None
    assert claims.make(policy(name="three")) is None


def test_path_rules_decide_what_is_the_same(policy: MakePolicy) -> None:
    """Where a final slash does not count, templates with and without it bill the same request."""
    for rules, problem in (("", None), ("final-slash", "match")):
        claims = Claims(PathRules.parse(rules))
        assert claims.make(policy(name="one", match="GET /a")) is None
        found = claims.make(policy(name="two", match="GET /a/"))
        assert (found and found[0]) == problem


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
