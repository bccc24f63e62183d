"""Bodies: what is kept, how they become JSON, and why they cannot."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.events import plain
from usageflow.policies.facts import Body, Facts, decode_json, request_json, response_json
from usageflow.policies.reason import Reason


def test_a_body_keeps_what_fits() -> None:
    """Chunks make one body; one that came whole is not copied."""
    body, chunk = Body(10), b"0123456789"
    body.add(chunk)
    body.add(b"")
    assert body.data is chunk
    assert (body.bytes_total, body.problem) == (10, None)


def test_a_body_that_outgrows_its_limit_is_dropped_and_counted() -> None:
    """Beyond the limit nothing is kept, the bytes still count, and the reason names the setting."""
    body = Body(10)
    for chunk in (b"01234", b"01234", b"01234"):
        body.add(chunk)
    body.problem = None  # the edge takes back its own problem at the end of the request
    body.add(b"")
    assert body.data == b""
    assert body.bytes_total == 15
    assert str(body.problem) == "larger than body_bytes_max (10 bytes)"


def test_a_body_nobody_asked_for_is_only_counted() -> None:
    """Without a limit nothing is kept and nothing is wrong."""
    body = Body(None)
    body.add(b"01234")
    assert (body.bytes_total, body.data, body.problem) == (5, b"", None)


def test_a_body_is_parsed_once() -> None:
    """Several policies read the same parsed document."""
    body = Body(100)
    body.add(b'{"a": 0.1}')
    assert body.json("body") is body.json("body")
    assert body.json("body") == {"a": Decimal("0.1")}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not JSON: Input data was truncated"),
        (b"hello", "is not JSON: JSON is malformed"),
        (b"NaN", "is not JSON: JSON is malformed"),
        (b"-Infinity", "is not JSON: JSON is malformed"),
        (b"01", "is not JSON: JSON is malformed"),
        (b"1 2", "is not JSON: JSON is malformed"),
        (b'"\xff"', "is not JSON: it is not UTF-8"),
        (b"\xff", "is not JSON: JSON is malformed"),
        (b"1" * 5_000, "holds a number with too many digits"),
        (b"1e" + b"9" * 30, "holds a number with too many digits"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "is nested too deeply"),
    ],
)
def test_what_is_not_json_is_a_reason(data: bytes, reason: str) -> None:
    """Every malformed or hostile text ends in words, never in an exception."""
    found = decode_json(data, "body")
    assert isinstance(found, Reason)
    assert found.text.startswith(f"body {reason}")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"0.1", Decimal("0.1")),
        (b"1e400", Decimal("1E+400")),
        (b"-0.0", Decimal("-0.0")),
        (b"1.0000000000000000001", Decimal("1.0000000000000000001")),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"1" * 4_000, int("1" * 4_000)),
    ],
)
def test_numbers_are_read_exactly(data: bytes, value: int | Decimal) -> None:
    """No number of a body ever is a binary float."""
    assert repr(decode_json(data, "body")) == repr(value)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789.eE+-ntf\\u ').map(str.encode))
def test_decoding_never_raises(data: bytes) -> None:
    """Any bytes are JSON or a reason."""
    decode_json(data, "body")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((b"content-encoding", b"gzip"), "has a content encoding"),
        ((b"content-encoding", b"identity, br"), "has a content encoding"),
        ((b"content-type", b"Text/Event-Stream; charset=utf-8"), "is an event stream"),
    ],
)
def test_what_is_not_one_plain_text_is_not_read(
    facts: Callable[..., Facts], header: tuple[bytes, bytes], reason: str
) -> None:
    """Encoded bodies and event streams have their own reason; parsing them would be a guess."""
    seen = facts(response=b'{"n": 1}', response_headers=[(b"x", b"y"), header])
    found = response_json(seen)
    assert isinstance(found, Reason)
    assert found.text.startswith(f"response body {reason}")


@pytest.mark.parametrize("value", [b"", b"identity", b" Identity "])
def test_identity_is_no_encoding(facts: Callable[..., Facts], value: bytes) -> None:
    """`Content-Encoding: identity` changes nothing."""
    seen = facts(request=b'{"n": 1}', request_headers=[(b"content-encoding", value)])
    assert request_json(seen) == {"n": 1}


def test_a_body_with_a_problem_is_not_read(facts: Callable[..., Any]) -> None:
    """What the edge says about a body is the reason."""
    seen = facts(request=b'{"n": 1}')
    seen.request_body.problem = "the app did not read the request body"
    assert request_json(seen) == Reason("request body: the app did not read the request body")


def test_an_empty_body_says_so(facts: Callable[..., Facts]) -> None:
    """No bytes are no JSON, and the reason is simple."""
    assert response_json(facts(response=b"")) == Reason("response body is empty")


@pytest.mark.parametrize(
    ("number", "text"),
    [("1E+3", "1000"), ("-0", "0"), ("0E+5", "0"), ("1.50", "1.50")],
)
def test_plain_has_no_exponent(number: str, text: str) -> None:
    """Plain notation is what people, JSON and databases read alike."""
    assert f"{plain(Decimal(number))}" == text
