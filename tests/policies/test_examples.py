"""Examples: what may be written, and differences in words."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from usageflow.events import Identity, UsageEvent
from usageflow.policies import Policy
from usageflow.policies.examples import Example, differences, without_example
from usageflow.policies.problems import explain

MINIMAL = {"name": "e", "request": "GET /x", "expect": []}


def example(**values: Any) -> Example:
    """An example with some values of its own."""
    return Example.model_validate({**MINIMAL, **values})


def expecting(**values: Any) -> Example:
    """An example that expects one event of the policy `chat`."""
    return example(expect=[{"policy": "chat", **values}])


def event(**values: Any) -> UsageEvent:
    """An event of the policy `chat`, counted unless said otherwise."""
    said: dict[str, Any] = {
        "id": "1",
        "policy": "chat",
        "policy_version": "f1",
        "metric": "AI_TOKEN",
        "identity": Identity("account_id", "a1"),
        "quantity": Decimal(42),
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "state": "counted",
    }
    return UsageEvent(**{**said, **values})


def test_a_repeated_header_is_a_list() -> None:
    """Names are kept in lower case, as ASGI gives them; the order stays."""
    read = example(request_headers={"X-Account": ["a", "b"], "Accept": "*/*"})
    assert read.request_headers == (("x-account", "a"), ("x-account", "b"), ("accept", "*/*"))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"request": "GET"}, 'request: "GET" is not METHOD /path, such as POST /v1/chat?x=1'),
        ({"request": "GET /a b"}, 'request: "GET /a b" is not METHOD /path'),
        ({"request": "GET v1/x"}, 'request: "GET v1/x" is not METHOD /path'),
        ({"request": "ANY /x"}, 'request: "ANY" is not the method of one HTTP request'),
        ({"request": "GET,POST /x"}, 'request: "GET,POST" is not the method of one HTTP request'),
        ({"request": "WEBSOCKET /x"}, 'request: "WEBSOCKET" is not the method of one HTTP'),
        ({"request": "G(T /x"}, 'request: "G(T" is not a method'),
        ({"request_headers": {"a": 1}}, "request_headers: must be a table of texts or lists"),
        ({"response_headers": "a: b"}, "response_headers: must be a table of texts or lists"),
        ({"response_status": 99}, "response_status: input should be greater than or equal to 100"),
        (
            {"response_body": "", "response_chunks": []},
            "response_body and response_chunks: one body is written in one way",
        ),
        (
            {"request_body": "{}", "request_json": {}},
            "request_body and request_json: one body is written in one way",
        ),
        ({"at": "2026-01-01T00:00:00"}, "at: input should have timezone info"),
        ({"expect": [{"policy": "p", "state": "gap"}]}, "expect[1].state: must be 'counted', "),
        ({"expect": [{}]}, "expect[1].policy: is required"),
        ({"expct": []}, 'expct: is not known; did you mean "expect"?'),
    ],
)
def test_a_wrong_example_is_refused(values: dict[str, Any], problem: str) -> None:
    """In words that name the key."""
    with pytest.raises(ValidationError) as refused:
        example(**values)
    ((_, text),) = explain(refused.value, Example)
    assert text.startswith(problem)


def test_what_is_expected_must_be_said() -> None:
    """An example without `expect` would pass for whatever happens."""
    with pytest.raises(ValidationError):
        Example.model_validate({"name": "e", "request": "GET /x"})


def test_what_is_not_said_may_be_anything() -> None:
    """An expectation of a policy alone is met by whatever it counts."""
    assert differences(expecting(), [event()]) == []
    assert differences(example(), []) == []
    everything = expecting(metric="AI_TOKEN", identity="a1", quantity=Decimal("42.0"))
    assert differences(everything, [event()]) == []
    cut = event(reason="aborted: the client disconnected")
    assert differences(expecting(reason="client disconnected"), [cut]) == []


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        ({"metric": "CALL"}, {}, "metric: expected CALL, got AI_TOKEN"),
        ({"identity": "a2"}, {}, "identity: expected a2, got a1"),
        ({"quantity": 43}, {}, "quantity: expected 43, got 42"),
        ({"reason": "cut"}, {}, 'reason: expected "cut", got ""'),
        (
            {"quantity": 1, "state": "inbox"},
            {"state": "inbox", "quantity": None, "reason": "no"},
            "quantity: expected 1, got none",
        ),
        (
            {},
            {"state": "inbox", "identity": Identity("f", None), "quantity": None, "reason": "no"},
            "expected counted, got inbox ? AI_TOKEN of ? (no)",
        ),
        ({"state": "shadow"}, {}, "expected shadow, got counted 42 AI_TOKEN of a1"),
    ],
)
def test_each_difference_is_a_line(
    expected: dict[str, Any], got: dict[str, Any], words: str
) -> None:
    """What was expected and what there was; another state says the event's reason."""
    assert differences(expecting(**expected), [event(**got)]) == [f'policy "chat": {words}']


def test_events_too_many_or_too_few_are_differences() -> None:
    """All events must be expected, and all that is expected must be there."""
    assert differences(expecting(), []) == ['policy "chat": expected an event, got none']
    assert differences(example(), [event()]) == [
        'policy "chat": expected no event, got counted 42 AI_TOKEN of a1'
    ]


def test_policies_without_an_example(policy: Callable[..., Policy]) -> None:
    """Those that no event is expected of; a policy that is off can have none."""
    policies = [policy(name=name) for name in ("chat", "calls")] + [policy(name="x", mode="off")]
    assert without_example(policies, [expecting()]) == ["calls"]
    assert without_example(policies, []) == ["chat", "calls"]
