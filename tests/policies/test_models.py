"""The policy: what may be written, what is refused and in which words."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from usageflow.policies.models import Metric, Policy
from usageflow.policies.problems import explain

MakePolicy = Callable[..., Policy]
HEADER = {"from": "header", "name": "x"}


def test_what_is_not_said_has_the_documented_default(policy: MakePolicy) -> None:
    """Five fields are required; the others mean count 1 for each success, live, and say so."""
    made = policy()
    assert made.quantity == 1
    assert (made.when, made.on_missing, made.on_abort) == ("success", "inbox", "measured")
    assert (made.on_ledger_failure, made.mode, made.event_name) == ("open", "live", None)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"match": "GET /a"}, "match", ("GET /a",)),
        ({"match": ["GET /a", "POST /b"]}, "match", ("GET /a", "POST /b")),
        ({"quantity": 5}, "quantity", Decimal(5)),
        ({"quantity": 0}, "quantity", Decimal(0)),
        ({"quantity": Decimal("1E+3")}, "quantity", Decimal(1000)),
        ({"quantity": "sum(response.body[].n)"}, "quantity", "sum(response.body[].n)"),
        ({"when": [200, 404]}, "when", (200, 404)),
        ({"when": "request"}, "when", "request"),
        ({"on_missing": Decimal("0.5")}, "on_missing", Decimal("0.5")),
        ({"on_missing": "skip"}, "on_missing", "skip"),
    ],
)
def test_values_are_kept_exactly(
    policy: MakePolicy, changes: dict[str, Any], field: str, value: object
) -> None:
    """Numbers are Decimals in plain notation, lists are tuples; nothing else is changed."""
    found = getattr(policy(**changes), field)
    assert (found, str(found)) == (value, str(value))


def test_a_policy_cannot_be_changed(policy: MakePolicy) -> None:
    """What was checked stays what it is."""
    with pytest.raises(ValidationError, match="frozen"):
        policy().name = "other"  # type: ignore[misc]


def test_header_names_are_lower_case(policy: MakePolicy) -> None:
    """ASGI gives header names in lower case, however they were written in the policy."""
    source = policy(identify=[{"from": "header", "name": "X-Account-ID"}]).identify[0]
    assert source.model_dump(by_alias=True, exclude_defaults=True) == {
        "from": "header",
        "name": "x-account-id",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "proxy-authorization", "cookie", "Set-Cookie"),
        *("x-api-key", "X-ApiKey", "x_api_key", "x-auth-token", "x-client-secret"),
    ],
)
def test_a_header_with_a_credential_is_no_identity(policy: MakePolicy, name: str) -> None:
    """What it holds would be stored, and sent to Stripe; the message says what comes instead."""
    with pytest.raises(ValidationError) as refused:
        policy(identify=[{"from": "header", "name": name}])
    message = (
        f"identify[1].name: {name.lower()!r} carries a credential, and an identity is stored "
        'and sent to Stripe as it is; use from = "jwt" or from = "api_key", which keep the '
        "credential to themselves"
    )
    assert explain(refused.value, Policy) == [("identify", message)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ""}, "name: string should have at least 1 character"),
        ({"name": "x" * 101}, "name: string should have at most 100 characters"),
        ({"name": "a\nb"}, "name: holds characters that cannot be printed"),
        ({"name": 5}, "name: must be text"),
        ({"match": []}, "match: has 0 entries; 1 to 100 are allowed"),
        ({"match": ["GET /a"] * 101}, "match: has 101 entries; 1 to 100 are allowed"),
        ({"match": 5}, "match: must be a list"),
        ({"match": [5]}, "match[1]: must be text"),
        ({"match": "a"}, 'match[1]: "a" has no path'),
        ({"identify": []}, "identify: has 0 entries; 1 to 10 are allowed"),
        ({"identify": [HEADER] * 11}, "identify: has 11 entries; 1 to 10 are allowed"),
        ({"identify": HEADER}, "identify: must be a list"),
        ({"identify": ["x"]}, "identify[1]: must be a table"),
        ({"identify": [{}]}, "identify[1]: from: is required; one of header, query, path, body"),
        (
            {"identify": [HEADER, {"from": "quary", "name": "x"}]},
            'identify[2]: from: "quary" is not one of header, query, path, body, cookie',
        ),
        ({"identify": [{"from": "header"}]}, "identify[1].name: is required"),
        (
            {"identify": [{**HEADER, "nmae": "x"}]},
            'identify[1].nmae: is not known; did you mean "name"?',
        ),
        (
            {"identify": [{"from": "header", "name": "a b"}]},
            "identify[1].name: 'a b' is not the name of a header",
        ),
        (
            {"identify": [{"from": "body", "path": "a["}]},
            "identify[1].path: column 3: the expression is incomplete",
        ),
        (
            {"match": ["GET /:user", "GET /b"], "identify": [{"from": "path", "name": "user"}]},
            'identify: the path "/b" has no parameter "user"',
        ),
        (
            {"match": "GET /:user", "identify": [{"from": "path", "name": "usr"}]},
            'identify: the path "/:user" has no parameter "usr"; did you mean "user"?',
        ),
        ({"field": ""}, "field: string should have at least 1 character"),
        ({"field": "x" * 41}, "field: string should have at most 40 characters"),
        ({"metric": "1a"}, "metric: must start with a letter and have at most 64"),
        ({"metric": "a" * 65}, "metric: must start with a letter and have at most 64"),
        ({"metric": "a\n"}, "metric: must start with a letter and have at most 64"),
        ({"quantity": 0.5}, "quantity: a binary float is not exact; pass a Decimal"),
        ({"quantity": -1}, "quantity: negative"),
        ({"quantity": Decimal("NaN")}, "quantity: NaN is not a number"),
        ({"quantity": Decimal("1E+400")}, "quantity: 401 digits; at most 38 are kept"),
        ({"quantity": True}, "quantity: must be a number or a JMESPath expression"),
        ({"quantity": None}, "quantity: must be a number or a JMESPath expression"),
        ({"quantity": "5 5"}, "quantity: column 1: "),
        ({"quantity": "a" * 1_025}, "quantity: 1025 characters; at most 1024"),
        (
            {"quantity": "respons.body.n"},
            'quantity: "respons" is none of request, response, websocket; did you mean "response"?',
        ),
        (
            {"quantity": "response.bdy.n"},
            "quantity: response.bdy does not exist; response has status, headers, body, bytes",
        ),
        ({"event_name": ""}, "event_name: string should have at least 1 character"),
        ({"event_name": "x" * 101}, "event_name: string should have at most 100 characters"),
        ({"when": "sucess"}, 'when: must be "success", "response", "request" or a list'),
        ({"when": []}, 'when: must be "success", "response", "request" or a list'),
        ({"when": [99]}, 'when: must be "success", "response", "request" or a list'),
        ({"when": [True]}, 'when: must be "success", "response", "request" or a list'),
        ({"when": 200}, 'when: must be "success", "response", "request" or a list'),
        ({"on_missing": "drop"}, 'on_missing: must be "inbox", "skip" or a number'),
        ({"on_missing": True}, 'on_missing: must be "inbox", "skip" or a number'),
        ({"on_missing": -1}, "on_missing: negative"),
        ({"on_abort": "half"}, "on_abort: must be 'measured', 'full' or 'none'"),
        ({"on_ledger_failure": "shut"}, "on_ledger_failure: must be 'open' or 'closed'"),
        ({"mode": "on"}, "mode: must be 'live', 'shadow' or 'off'"),
        ({"qantity": 1}, 'qantity: is not known; did you mean "quantity"?'),
        ({"zzz": 1}, "zzz: is not known"),
    ],
)
def test_a_wrong_value_is_refused_in_words(
    policy: MakePolicy, changes: dict[str, Any], problem: str
) -> None:
    """An invalid policy cannot be built, and one line says where and why."""
    with pytest.raises(ValidationError) as refused:
        policy(**changes)
    ((_, text),) = explain(refused.value, Policy)
    assert text.startswith(problem)


def test_a_metric_is_declared_with_its_key() -> None:
    """Name and unit are for people and may be absent."""
    assert Metric.model_validate({"key": "CALL"}).unit is None
    with pytest.raises(ValidationError, match="pattern"):
        Metric.model_validate({"key": "a b"})
