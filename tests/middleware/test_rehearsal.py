"""An example counts what the same exchange counts in an app."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from usageflow.events import UsageEvent
from usageflow.middleware.rehearsal import REHEARSED, rehearse
from usageflow.policies import PolicySet, parse_file
from usageflow.policies.examples import Example
from usageflow.policies.surroundings import Surroundings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = """
[[policy]]
name = "chat"
match = "POST /v1/chat/{{user}}"
identify = [ {identify} ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "{quantity}"
"""
HEADER = '{ from = "header", name = "x-account" }'
TOKENS = "response.body.usage.total_tokens"
Count = Callable[..., UsageEvent]


@pytest.fixture
def count(kit: Any) -> Count:
    """The event of an example, under a policy with this identity and quantity."""

    def event(
        *, identify: str = HEADER, quantity: str = "response.status", **values: Any
    ) -> UsageEvent:
        said = {
            "name": "example",
            "request": "POST /v1/chat/u1",
            "request_headers": {"x-account": "a1"},
            "expect": [],
        }
        example = Example.model_validate({**said, **values})
        policies = kit.policy_set(POLICY.format(identify=identify, quantity=quantity))
        (found,) = rehearse(policies, example, now=NOW)
        return found

    return event


def test_an_event_as_it_would_be_recorded(count: Count) -> None:
    """All of it, but for its id and the time it took."""
    event = count()
    assert (event.id, event.policy, event.metric) == (REHEARSED, "chat", "AI_TOKEN")
    assert (event.identity.value, event.quantity) == ("a1", Decimal(200))
    assert event.state == "counted"
    assert (event.request_method, event.request_route) == ("POST", "/v1/chat/{user}")
    assert (event.request_status, event.occurred_at) == (200, NOW)


@pytest.mark.parametrize(
    ("quantity", "values", "counted"),
    [
        (TOKENS, {"response_json": {"usage": {"total_tokens": 42}}}, "42"),
        (TOKENS, {"response_json": {"usage": {"total_tokens": Decimal("0.10")}}}, "0.10"),
        (TOKENS, {"response_body": '{"usage": {"total_tokens": 1e3}}'}, "1000"),
        ("request.body.n", {"request_json": {"n": 3}}, "3"),
        ("request.body.n", {"request_body": '{"n": 4}'}, "4"),
        ("request.bytes", {"request_body": "é"}, "2"),
        ("response.bytes", {"response_chunks": ["ab", "c"]}, "3"),
        ("response.status", {"response_status": 201}, "201"),
        (
            'length(response.headers.\\"content-type\\")',
            {"response_json": {}},
            str(len("application/json")),
        ),
        (
            'length(response.headers.\\"content-type\\")',
            {"response_chunks": [], "response_headers": {"Content-Type": "a/b"}},
            "3",
        ),
        ("to_number(request.query.n)", {"request": "POST /v1/chat/u1?n=5&m=%26"}, "5"),
    ],
)
def test_quantities_from_each_part_of_an_example(
    count: Count, quantity: str, values: dict[str, Any], counted: str
) -> None:
    """Bodies as text or as JSON, with exact numbers; headers, query and status."""
    event = count(quantity=quantity, **values)
    assert (event.reason, str(event.quantity)) == (None, counted)


def test_a_stream_is_read_event_by_event(count: Count) -> None:
    """Chunks may end anywhere."""
    chunks = ['data: {"usage": {"total_', 'tokens": 7}}\n\n', "data: [DONE]\n\n"]
    assert count(quantity=TOKENS, response_chunks=chunks).quantity == 7


def test_a_response_that_breaks_off(count: Count) -> None:
    """Its body is not complete, and the reason says so."""
    event = count(quantity=TOKENS, response_body='{"usage"', aborted=True)
    assert event.state == "inbox"
    assert "incomplete" in str(event.reason)
    assert count(aborted=True).reason == "aborted: the app ended without completing its response"


@pytest.mark.parametrize(
    ("identify", "values", "identity"),
    [
        ('{ from = "path", name = "user" }', {"request": "POST /v1/chat/%C3%A9"}, "é"),
        ('{ from = "query", name = "a" }', {"request": "POST /v1/chat/x?a=b%20c"}, "b c"),
        ('{ from = "body", path = "user.id" }', {"request_json": {"user": {"id": "u"}}}, "u"),
        ('{ from = "metadata", name = "tenant" }', {"metadata": {"tenant": "t1"}}, "t1"),
    ],
)
def test_identities_from_each_part_of_an_example(
    count: Count, identify: str, values: dict[str, Any], identity: str
) -> None:
    """The request as a client sends it, and what the app has set for it."""
    assert count(identify=identify, **values).identity.value == identity


def test_a_repeated_header_goes_to_the_inbox(count: Count) -> None:
    """As it does in an app."""
    event = count(request_headers={"x-account": ["a1", "a2"]})
    assert event.reason == "no identity: header x-account occurs with different values"


def test_the_time_of_a_request_is_the_example_s(count: Count) -> None:
    """Or now, if it does not say."""
    event = count(at="2025-06-01T02:00:00+02:00")
    assert event.occurred_at == datetime(2025, 6, 1, tzinfo=UTC)


def test_what_no_policy_matches_leaves_nothing(kit: Any) -> None:
    """Also if a policy matches and its `when` does not hold."""
    policies = kit.policy_set(POLICY.format(identify=HEADER, quantity="response.status"))
    for values in ({"request": "GET /v1/chat/u"}, {"response_status": 404}):
        said = {"name": "e", "request": "POST /v1/chat/u", "expect": [], **values}
        assert rehearse(policies, Example.model_validate(said), now=NOW) == []


def test_a_response_without_a_body_ends_with_its_head(kit: Any) -> None:
    """HEAD and 204 are complete without one."""
    policies = kit.policy_set(kit.calls)
    for values in ({"request": "HEAD /metered"}, {"response_status": 204}):
        said = {"name": "e", "request": "GET /metered", "expect": [], "aborted": True, **values}
        (event,) = rehearse(policies, Example.model_validate(said), now=NOW)
        assert not str(event.reason).startswith("aborted")


def test_conditions_and_path_rules_hold_as_in_the_app(kit: Any) -> None:
    """Headers, query and the undecoded path are what a policy set matches by."""
    toml = kit.calls + 'header = { x-plan = "paid" }\nquery = { n = "*" }\n'
    policies = kit.policy_set(toml)
    paid = {"name": "e", "request": "GET /metered?n=1", "expect": []}
    free = {**paid, "request_headers": {"x-plan": "paid"}, "request": "GET /metered"}
    for values, events in ((paid, 0), (free, 0), ({**free, **paid}, 1)):
        assert len(rehearse(policies, Example.model_validate(values), now=NOW)) == events
    parsed = parse_file(kit.calls.replace("/metered", "/files/:name"), "p.toml")
    slashes = Surroundings(path_rules=frozenset(("encoded-slash",)))
    encoded = Example.model_validate({**paid, "request": "GET /files/a%2Fb"})
    for surroundings, events in ((Surroundings(), 0), (slashes, 1)):
        policies = PolicySet.build(parsed.policies, surroundings)
        assert len(rehearse(policies, encoded, now=NOW)) == events
