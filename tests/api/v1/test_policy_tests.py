"""Policies tried over HTTP: what they make of a request, and what their examples expect."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from usageflow.api.v1.policy_tests import EXAMPLES_MAX

SignIn = Callable[..., httpx.Client]

TOML = """
[[policy]]
name       = "chat"
match      = "POST /v1/chat"
identify   = [ { from = "header", name = "x-account-id" } ]
field      = "account_id"
metric     = "AI_TOKEN"
quantity   = "response.body.usage.total_tokens"
event_name = "token_used"
"""
EXAMPLE = """
[[example]]
name = "{name}"
request = "POST /v1/chat"
request_headers = {{ x-account-id = "acct_42" }}
response_json = {{ usage = {{ total_tokens = 42 }} }}
expect = [ {{ policy = "chat", quantity = {quantity} }} ]
"""
REQUEST = {
    "request": "POST /v1/chat",
    "request_headers": {"x-account-id": "acct_42"},
    "response_json": {"usage": {"total_tokens": 0.1}},
}


@pytest.fixture
def developer(sign_in: SignIn) -> httpx.Client:
    """May write policies."""
    return sign_in("DEVELOPER")


def tried(client: httpx.Client, **body: Any) -> Any:
    """What was made of it."""
    response = client.post("/api/v1/policies/test", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_request_is_tried(developer: httpx.Client) -> None:
    """Which policy counts it, whose it is and how much, exactly; nothing is put into use."""
    found = tried(developer, toml=TOML, request=REQUEST)
    assert found == {
        "events": [
            {
                "policy": "chat",
                "metric": "AI_TOKEN",
                "field": "account_id",
                "identity": "acct_42",
                "quantity": 0.1,
                "event_name": "token_used",
                "state": "counted",
                "reason": None,
            }
        ],
        "examples": [],
    }
    assert tried(developer, request=REQUEST)["events"] == []


def test_the_policies_in_use_are_tried_without_a_file(developer: httpx.Client) -> None:
    """What is missing is told as the inbox would tell it."""
    developer.put("/api/v1/policies", json={"toml": TOML})
    (event,) = tried(developer, request={"request": "POST /v1/chat"})["events"]
    assert (event["state"], event["identity"], event["quantity"]) == ("inbox", None, None)
    assert "x-account-id is absent" in event["reason"]
    assert tried(developer, request={"request": "GET /v1/chat"})["events"] == []


def test_examples_of_a_file_are_run(developer: httpx.Client) -> None:
    """Each with what is different."""
    text = TOML + EXAMPLE.format(name="right", quantity=42) + EXAMPLE.format(name="no", quantity=1)
    assert tried(developer, toml=text)["examples"] == [
        {"name": "right", "differences": []},
        {"name": "no", "differences": ['policy "chat": quantity: expected 1, got 42']},
    ]


def test_the_servers_variables_are_not_lent(
    developer: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that a policy names is the test's own, or there is none."""
    monkeypatch.setenv("KEY_SECRET", "of the server")
    text = TOML.replace(
        '{ from = "header", name = "x-account-id" }',
        '{ from = "api_key", header = "x-key", secret = "env:KEY_SECRET" }',
    )
    request = {**REQUEST, "request_headers": {"x-key": "k"}}
    (event,) = tried(developer, toml=text, request=request)["events"]
    assert (event["identity"], "KEY_SECRET is not set" in event["reason"]) == (None, True)
    (event,) = tried(developer, toml=text, request=request, environ={"KEY_SECRET": "x"})["events"]
    assert event["identity"] not in (None, "k")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"toml": "[[policy]]"}, "toml:1"),
        ({"request": {"request": "chat"}}, "request.request"),
        ({"request": {**REQUEST, "request_body": "", "request_json": 1}}, "request."),
        (
            {
                "toml": TOML
                + "".join(EXAMPLE.format(name=n, quantity=1) for n in range(EXAMPLES_MAX + 1))
            },
            "toml",
        ),
    ],
    ids=["file", "request", "two bodies", "examples"],
)
def test_what_cannot_be_tried(developer: httpx.Client, body: Any, field: str) -> None:
    """Says where the mistake is."""
    response = developer.post("/api/v1/policies/test", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["fields"][0]["field"] == field
