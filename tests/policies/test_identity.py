"""Whose a request is: each source, and why it yields nothing."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from usageflow.policies.facts import Facts
from usageflow.policies.identity import compile_identity, compile_source
from usageflow.policies.reason import Reason
from usageflow.policies.routes import parse_template
from usageflow.policies.sources import Source

SOURCE: TypeAdapter[Source] = TypeAdapter(Source)
HEADER = {"from": "header", "name": "X-Account"}
QUERY = {"from": "query", "name": "account"}
PATH = {"from": "path", "name": "id"}
BODY = {"from": "body", "path": "user.id"}


def read(
    source: dict[str, str], seen: Facts, *, template: str = "/a/:id", path: str = "/a/1"
) -> str | Reason:
    """What one source yields."""
    compiled = compile_source(SOURCE.validate_python(source), parse_template(template))
    return compiled(seen, path.split("/"))


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([(b"x-account", b"acct_42")], "acct_42"),
        ([(b"a", b"b"), (b"x-account", b" two words ")], " two words "),
        ([(b"x-account", "z\u00fcrich".encode())], "z\u00fcrich"),
        ([(b"x-account", b"z\xfcrich")], "z\u00fcrich"),
        ([(b"x-account", b"same"), (b"x-account", b"same")], "same"),
        ([(b"x-account", b"x" * 500)], "x" * 500),
        ([(b"x-account", "a\u00a0b".encode())], "a\u00a0b"),
    ],
)
def test_a_header_is_taken_as_it_was_sent(
    facts: Callable[..., Facts], headers: list[tuple[bytes, bytes]], value: str
) -> None:
    """The value is neither trimmed nor folded; UTF-8 is tried before Latin-1."""
    assert read(HEADER, facts(request_headers=headers)) == value


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([(b"x-accounts", b"a")], "is absent"),
        ([(b"x-account", b"a"), (b"x-account", b"b")], "occurs with different values"),
        ([(b"x-account", b"a"), (b"x-account", b"")], "occurs with different values"),
        ([(b"x-account", b"")], "is empty"),
        ([(b"x-account", b"x" * 501)], "has 501 characters; at most 500"),
        ([(b"x-account", b"a\x00b")], "contains control characters"),
        ([(b"x-account", b"a\x9fb")], "contains control characters"),
    ],
)
def test_a_header_that_identifies_nobody_says_why(
    facts: Callable[..., Facts], headers: list[tuple[bytes, bytes]], reason: str
) -> None:
    """Absent, contradictory, empty, oversized or unprintable: never a guess."""
    assert read(HEADER, facts(request_headers=headers)) == Reason(f"header x-account {reason}")


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (b"account=acct_42", "acct_42"),
        (b"a=1&account=a%2Fb+c&account=a/b%20c", "a/b c"),
        (b"acc%6Funt=x", "x"),
        ("account=z\u00fcrich".encode(), "z\u00fcrich"),
        (b"account=z%C3%BCrich", "z\u00fcrich"),
    ],
)
def test_a_query_parameter_is_decoded_as_forms_are(
    facts: Callable[..., Facts], query: bytes, value: str
) -> None:
    """Percent escapes and plus signs are undone, also in the name."""
    assert read(QUERY, facts(query_string=query)) == value


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (b"", "is absent"),
        (b"accounts=1", "is absent"),
        (b"account=a&account=b", "occurs with different values"),
        (b"account=", "is empty"),
        (b"account=%00", "contains control characters"),
        (b"account=%FF", "is not valid Unicode text"),
        (b"account=\xff", "is not valid Unicode text"),
    ],
)
def test_a_query_parameter_that_identifies_nobody_says_why(
    facts: Callable[..., Facts], query: bytes, reason: str
) -> None:
    """Bytes that are no text are not replaced: two customers would become one."""
    assert read(QUERY, facts(query_string=query)) == Reason(f"query account {reason}")


def test_a_path_parameter_is_its_segment(facts: Callable[..., Facts]) -> None:
    """The matched segment identifies; the rest of the path may too, if it is not empty."""
    assert read(PATH, facts(), path="/a/acct_42") == "acct_42"
    rest = {"template": "/a/{id:path}"}
    assert read(PATH, facts(), path="/a/b/c", **rest) == "b/c"
    assert read(PATH, facts(), path="/a/", **rest) == Reason("path id is empty")
    assert read(PATH, facts(), path="/a/1\n") == Reason("path id contains control characters")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"user": {"id": "acct_42"}}', "acct_42"),
        (b'{"user": {"id": 42}}', "42"),
        (b'{"user": {"id": -1}}', "-1"),
        (b'{"user": {"id": 123456789012345678901234567890}}', "123456789012345678901234567890"),
        (b'{"user": {"id": 1.50}}', "1.50"),
        (b'{"user": {"id": 1e3}}', "1000"),
    ],
)
def test_a_value_of_the_body_identifies(
    facts: Callable[..., Facts], body: bytes, value: str
) -> None:
    """Text and numbers, the latter in plain notation with every digit."""
    assert read(BODY, facts(request=body)) == value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "request body is empty"),
        (b"x", "request body is not JSON: JSON is malformed: invalid character (byte 0)"),
        (b"{}", "request body user.id is missing"),
        (b'{"user": 1}', "request body user.id is missing"),
        (b'{"user": {"id": null}}', "request body user.id is missing"),
        (b'{"user": {"id": ""}}', "request body user.id is empty"),
        (b'{"user": {"id": true}}', "request body user.id is neither text nor a number"),
        (b'{"user": {"id": [1]}}', "request body user.id is neither text nor a number"),
        (b'{"user": {"id": {}}}', "request body user.id is neither text nor a number"),
        (b'{"user": {"id": 1e999}}', "request body user.id has more than 500 digits"),
        (b'{"user": {"id": 1e-999999}}', "request body user.id has more than 500 digits"),
        (
            b'{"user": {"id": ' + b"1" * 4_000 + b"}}",
            "request body user.id has more than 500 digits",
        ),
        (
            b'{"user": {"id": ' + b"1" * 5_000 + b"}}",
            "request body holds a number with too many digits",
        ),
        (b'{"user": {"id": "a\\u0000"}}', "request body user.id contains control characters"),
    ],
)
def test_a_body_that_identifies_nobody_says_why(
    facts: Callable[..., Facts], body: bytes, reason: str
) -> None:
    """Booleans, null and containers are nobody; a number must be one that can be written."""
    assert read(BODY, facts(request=body)) == Reason(reason)


def test_an_expression_that_fails_is_a_reason(facts: Callable[..., Facts]) -> None:
    """The name of the source precedes what went wrong."""
    found = read({"from": "body", "path": "sum(user)"}, facts(request=b'{"user": "x"}'))
    assert found == Reason("request body sum(user): sum() got string, not array-number")


def test_the_first_source_that_yields_wins(facts: Callable[..., Facts]) -> None:
    """Sources are tried in order; all failing gives one reason that names each."""
    sources = [SOURCE.validate_python(source) for source in (HEADER, QUERY)]
    compiled = compile_identity(sources, parse_template("/"))
    both = facts(request_headers=[(b"x-account", b"h")], query_string=b"account=q")
    assert compiled(both, []) == "h"
    assert compiled(facts(query_string=b"account=q"), []) == "q"
    assert compiled(facts(), []) == Reason(
        "no identity: header x-account is absent; query account is absent"
    )


@given(headers=st.lists(st.tuples(st.just(b"x-account"), st.binary())), query=st.binary())
def test_no_bytes_make_a_source_raise(
    facts: Callable[..., Facts], headers: list[tuple[bytes, bytes]], query: bytes
) -> None:
    """Whatever a client sends is a text that can be stored, or a reason."""
    for source in (HEADER, QUERY):
        found = read(source, facts(request_headers=headers, query_string=query))
        if isinstance(found, str):
            assert 1 <= len(found) <= 500
            assert found.encode()


@given(st.decimals(-(10**20), 10**20, allow_nan=False, allow_infinity=False, places=6))
def test_a_number_of_the_body_keeps_every_digit(
    facts: Callable[..., Facts], number: Decimal
) -> None:
    """The identity is the same number, exactly."""
    found = read(BODY, facts(request=f'{{"user": {{"id": {number}}}}}'.encode()))
    assert isinstance(found, str)
    assert Decimal(found) == number
    assert "E" not in found
