"""JSON text: exact numbers, and reasons for what is none."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.json_text import decode_json
from usageflow.policies.reason import Reason


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
