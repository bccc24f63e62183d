"""Conditions on host, headers and query: what is written, what meets them."""

import timeit
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from usageflow._types import Headers
from usageflow.policies import Policy
from usageflow.policies.conditions import compile_conditions, specificity
from usageflow.policies.document import canonical, from_json, to_json
from usageflow.policies.problems import explain
from usageflow.policies.query import QUERY_BYTES_MAX

MakePolicy = Callable[..., Policy]
ALL = {"host": ["b.example.com", "::1"], "header": {"X-B": "1", "x-a": "*"}, "query": {"v": ["2"]}}


def met(policy: Policy, headers: Mapping[str, str], query: str = "") -> bool | None:
    """Whether a request with these headers and this query meets the conditions."""
    condition = compile_conditions(policy.host, policy.header, policy.query)
    assert condition is not None
    sent: Headers = [(name.encode(), value.encode()) for name, value in headers.items()]
    return condition(sent, query.encode())


@pytest.mark.parametrize(
    ("host", "sent", "is_met"),
    [
        ("api.example.com", "api.example.com", True),
        ("API.example.com.", "api.EXAMPLE.com:8443", True),
        ("api.example.com", "api.example.com.", True),
        ("api.example.com", " api.example.com", True),
        ("api.example.com", "example.com", False),
        ("api.example.com", "api.example.com.evil.test", False),
        ("*.example.com", "api.example.com", True),
        ("*.example.com", "a.b.example.com:80", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "notexample.com", False),
        (["a.test", "b.test"], "b.test", True),
        (["a.test", "*.b.test"], "x.b.test", True),
        ("127.0.0.1", "127.0.0.1:80", True),
        ("[::1]", "[::1]:80", True),
        ("::1", "[0:0:0:0:0:0:0:1]", True),
        ("2001:DB8::1", "[2001:db8::1]", True),
        ("::1", "[::2]", False),
        ("::1", "[", False),
        ("localhost", "", False),
    ],
)
def test_a_host_is_compared_as_a_host(
    policy: MakePolicy, host: object, sent: str, *, is_met: bool
) -> None:
    """Port, case, a final dot and the spelling of an address do not count."""
    assert met(policy(host=host), {"host": sent}) is is_met


@pytest.mark.parametrize(
    ("header", "sent", "is_met"),
    [
        ({"X-Plan": "pro"}, {"x-plan": "pro"}, True),
        ({"X-Plan": "pro"}, {"x-plan": " pro\t"}, True),
        ({"X-Plan": "pro"}, {"x-plan": "Pro"}, False),
        ({"X-Plan": "pro"}, {"x-plan": "pro,free"}, False),
        ({"X-Plan": "pro"}, {"x-plan-b": "pro"}, False),
        ({"X-Plan": "pro"}, {}, False),
        ({"x-plan": ["pro", "max"]}, {"x-plan": "max"}, True),
        ({"x-plan": "*"}, {"x-plan": ""}, True),
        ({"x-plan": ["*", "pro"]}, {"x-plan": "free"}, True),
        ({"x-plan": "*"}, {"x-other": "1"}, False),
        ({"x-plan": ""}, {"x-plan": ""}, True),
        ({"x-a": "1", "x-b": "2"}, {"x-a": "1"}, False),
        ({"x-a": "1", "x-b": "2"}, {"x-b": "2", "x-a": "1"}, True),
    ],
)
def test_a_header_is_compared_exactly(
    policy: MakePolicy, header: object, sent: dict[str, str], *, is_met: bool
) -> None:
    """Names without their case, values as they are, white space around them aside."""
    assert met(policy(header=header), sent) is is_met


@pytest.mark.parametrize(
    ("query", "sent", "is_met"),
    [
        ({"v": "2"}, "v=2", True),
        ({"v": "2"}, "%76=%32", True),
        ({"v": "2"}, "V=2", False),
        ({"v": "2"}, "v=2+", False),
        ({"v": "a b"}, "v=a+b", True),
        ({"v": ["1", "2"]}, "x&v=2", True),
        ({"v": "*"}, "v", True),
        ({"v": "*"}, "", False),
        ({"v": "1", "w": "*"}, "v=1", False),
        ({"v": "1", "w": "*"}, "w=&v=1", True),
        ({"stream": "\u00e9"}, "stream=%C3%A9", True),
    ],
)
def test_a_parameter_is_compared_decoded(
    policy: MakePolicy, query: object, sent: str, *, is_met: bool
) -> None:
    """Names and values exactly, as the app reads them."""
    assert met(policy(query=query), {}, sent) is is_met


def test_occurrences_that_disagree_are_unclear(policy: MakePolicy) -> None:
    """A second header, host or parameter is neither met nor unmet, wherever it stands."""
    both = [(b"x-plan", b"free"), (b"host", b"x.test"), (b"x-plan", b"pro"), (b"host", b"a.test")]
    for headers in (both, both[::-1]):
        for narrow in ({"header": {"x-plan": "pro"}}, {"host": "a.test"}):
            made = policy(**narrow)
            condition = compile_conditions(made.host, made.header, made.query)
            assert condition is not None
            assert condition(headers, b"") is None
    assert met(policy(query={"v": "2"}), {}, "v=1&v=2&v=3") is None
    assert met(policy(query={"v": ["1", "2"]}), {}, "v=1&v=2") is True
    assert met(policy(query={"v": "2", "w": "1"}), {}, "v=1&v=2&w=2") is False
    assert met(policy(query={"v": "2"}, header={"x": "1"}), {"x": "1"}, "v=1&v=2") is None


def test_all_conditions_must_be_met(policy: MakePolicy) -> None:
    """Host, headers and query together."""
    headers = {"host": "b.example.com", "x-a": "", "x-b": "1"}
    assert met(policy(**ALL), headers, "v=2")
    assert not met(policy(**ALL), headers, "v=1")
    for missing in headers:
        rest = {name: value for name, value in headers.items() if name != missing}
        assert not met(policy(**ALL), rest, "v=2")


def test_a_query_that_is_not_read_is_unclear(policy: MakePolicy) -> None:
    """Its length is neither a way past the policy nor into it."""
    long = "x" * QUERY_BYTES_MAX
    assert met(policy(query={"v": "2"}), {}, long) is False
    assert met(policy(query={"v": "2"}), {}, long + "x") is None


def test_a_policy_without_conditions_asks_nothing(policy: MakePolicy) -> None:
    """There is nothing to call for most policies; of others, more conditions come first."""
    plain, narrow = policy(), policy(**ALL)
    assert compile_conditions(plain.host, plain.header, plain.query) is None
    assert specificity(plain.host, plain.header, plain.query) == 0
    assert specificity(narrow.host, narrow.header, narrow.query) == 4


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"host": 1}, "host: must be a text or a list of texts"),
        ({"host": ["a"] * 101}, "host: has 101 entries; at most 100 are allowed"),
        *(
            ({"host": host}, f"host: {host!r} is not a host: write a name without scheme and port")
            for host in ("a.test:80", "http://a.test", "*", "a.*.test", "", "b\u00fccher.test")
        ),
        ({"header": "x-plan"}, 'header: must be a table such as { name = "value" }'),
        ({"header": {f"x{n}": "1" for n in range(21)}}, "header: has 21 entries; at most 20"),
        ({"header": {"x plan": "a"}}, "header: x plan: is not the name of a header"),
        ({"header": {"x" * 101: "a"}}, f"header: {'x' * 101}: a name has 1 to 100 characters"),
        ({"header": {"X-A": "1", "x-a": "2"}}, "header: x-a: occurs twice; upper and lower case"),
        ({"header": {"x-a": 1}}, "header: x-a: must be a text or a list of texts"),
        ({"header": {"x-a": [True]}}, "header: x-a: must be a text or a list of texts"),
        ({"header": {"x-a": []}}, 'header: x-a: has no value; write "*" for any'),
        ({"header": {"x-a": " b"}}, "header: x-a: a value holds no white space around it"),
        ({"header": {"x-a": "\u00e9"}}, "header: x-a: a value holds printable ASCII only"),
        ({"query": ["v"]}, 'query: must be a table such as { name = "value" }'),
        ({"query": {"": "1"}}, "query: : a name has 1 to 100 characters"),
        ({"query": {"v": None}}, "query: v: must be a text or a list of texts"),
    ],
)
def test_a_wrong_condition_is_refused_in_words(
    policy: MakePolicy, changes: dict[str, Any], problem: str
) -> None:
    """Whatever could never be met, or not as it was meant."""
    with pytest.raises(ValidationError) as caught:
        policy(**changes)
    ((field, text),) = explain(caught.value, Policy)
    assert field == next(iter(changes))
    assert text.startswith(problem)


def test_conditions_survive_every_document(policy: MakePolicy) -> None:
    """They are tables in the document, and the same policy comes back from it."""
    made = policy(**ALL)
    assert Policy.model_validate(made.model_dump(by_alias=True)) == made
    assert b'"header":{"x-a":["*"],"x-b":["1"]}' in canonical(made)
    assert b'"host":["::1","b.example.com"]' in canonical(made)
    assert from_json(to_json([(made, "1")])).policies == ((made, "1"),)
    assert hash(made) == hash(policy(**ALL))
    assert Policy.model_validate(policy().model_dump(by_alias=True)) == policy()
    assert policy(host=[], header={}, query={}) == policy()
    assert b"host" not in canonical(policy())


@given(
    st.lists(st.tuples(st.sampled_from([b"host", b"x-a"]), st.binary(max_size=12)), max_size=4),
    st.binary(max_size=30),
)
def test_nothing_a_client_sends_raises(
    policy: MakePolicy, headers: list[tuple[bytes, bytes]], query: bytes
) -> None:
    """Any bytes in headers and query are met or not met."""
    made = policy(host="::1", header={"x-a": "1"}, query={"v": "1"})
    for host, header, asked in ((made.host, (), ()), ((), made.header, ()), ((), (), made.query)):
        condition = compile_conditions(host, header, asked)
        assert condition is not None
        assert condition(headers, query) in (True, False)


def test_only_the_needed_header_is_compared(policy: MakePolicy) -> None:
    """A condition among 50 headers takes some microseconds (a wide margin: noise)."""
    made = policy(header={"x-plan": "pro"})
    condition = compile_conditions(made.host, made.header, made.query)
    assert condition is not None
    headers = [(b"x-header-%d" % number, b"value" * 100) for number in range(50)]
    assert min(timeit.repeat(lambda: condition(headers, b""), number=100, repeat=5)) < 100 * 50e-6
