"""The document between server and edge: exact both ways, tolerant per policy."""

import contextlib
from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.errors import PolicyFileError
from usageflow.policies.document import canonical, from_json, to_json
from usageflow.policies.models import Policy

MakePolicy = Callable[..., Policy]


def test_policies_come_back_as_they_were(policy: MakePolicy) -> None:
    """Every field survives, numbers to the last digit."""
    rich = policy(
        name="rich",
        match=["GET /a/:id", "POST /b/{id}"],
        identify=[
            {"from": "path", "name": "id"},
            {"from": "body", "path": "user.id"},
            {"from": "query", "name": "u"},
        ],
        quantity=Decimal("0.100000000001"),
        event_name="calls",
        when=[200, 404],
        on_missing=Decimal("123456789012345678901234567890.5"),
        on_abort="none",
        on_ledger_failure="closed",
        mode="shadow",
    )
    sent = ((policy(), "3"), (rich, "f00"))
    found = from_json(to_json(sent))
    assert (found.policies, found.problems) == (sent, ())
    assert repr(found.policies[1][0].quantity) == repr(rich.quantity)


def test_what_equals_a_default_is_not_said(policy: MakePolicy) -> None:
    """An edge older than a new field can still read the policies that do not use it."""
    assert canonical(policy(when="success", quantity=1)) == (
        b'{"field":"account_id","identify":[{"from":"header","name":"x-account"}],'
        b'"match":["POST /v1/chat"],"metric":"CALL","name":"chat"}'
    )


def test_a_policy_this_release_cannot_read_is_left_out(policy: MakePolicy) -> None:
    """A newer server's policy is reported by name; the others live."""
    document = msgspec.json.decode(to_json([(policy(), "1")] * 4))
    document["policies"][0]["policy"]["identify"] = [{"from": "mtls", "name": "cn"}]
    document["policies"][1]["version"] = 5
    document["policies"][2] = {"version": "1"}
    document["policies"].append("x")
    found = from_json(msgspec.json.encode(document), "the server")
    assert found.policies == ((policy(), "1"),)
    assert found.problems == (
        (
            'the server: policy "chat" (#1): identify[1]: from: "mtls" is not one of header, '
            "query, path, body, cookie, api_key, jwt, metadata"
        ),
        'the server: policy "chat" (#2): version: must be a text of 1 to 100 characters',
        'the server: policy (#3): not an object with "version" and "policy"',
        'the server: policy (#5): not an object with "version" and "policy"',
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cache: the document is not JSON: Input data was truncated"),
        (b"[]", 'cache: not a policy document: no list "policies"'),
        (b'{"policies": {}}', 'cache: not a policy document: no list "policies"'),
    ],
)
def test_what_is_no_document_is_an_error(data: bytes, problem: str) -> None:
    """A truncated or foreign file must not be taken for an empty policy set."""
    with pytest.raises(PolicyFileError) as refused:
        from_json(data, "cache")
    assert refused.value.problems == (problem,)


def test_no_policies_are_an_empty_document() -> None:
    """An empty set is a valid answer of the server."""
    assert from_json(to_json([])) == ((), ())


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="ignore")))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No answer of a server raises anything but PolicyFileError."""
    for text in (data, b'{"policies": [%s]}' % data):
        with contextlib.suppress(PolicyFileError):
            from_json(text)
