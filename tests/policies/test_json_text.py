"""JSON text: exact numbers, bounded work, and reasons for what is none."""

import json
import tracemalloc
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.json_text import (
    SAFE_BYTES,
    SKIM_BYTES_MAX,
    can_be_skimmed,
    decode_json,
    is_json,
    skim_json,
)
from usageflow.policies.reason import Reason

MIB = 1_048_576


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
        (b"\xef\xbb\xbf\xef\xbb\xbf1", "is not JSON: JSON is malformed"),
        (b"1" * 128, "holds a number with too many digits"),
        (b"[0, -%b]" % (b"1" * 128), "holds a number with too many digits"),
        (b'{"a":%b}' % (b"1" * 5_000), "holds a number with too many digits"),
        (b"1e" + b"9" * 30, "holds a number with too many digits"),
        (b"[" * 10_000, "is nested too deeply"),
        (b"[" * 10_000 + b"]" * 10_000, "is nested too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "is nested too deeply"),
        (b"[" * 100_000, "holds too many values to be measured"),
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
        (b"0.%b" % (b"1" * 1_000), Decimal("0." + "1" * 1_000)),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"1" * 127, int("1" * 127)),
        (b'["%b"]' % (b"1" * 500), ["1" * 500]),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'{"a": 1, "a": {"b": 2}, "a": 3}', {"a": 3}),
    ],
)
def test_numbers_are_read_exactly(data: bytes, value: object) -> None:
    """No number of a body ever is a binary float; the last of equal names counts."""
    assert repr(decode_json(data, "body")) == repr(value)


HOSTILE = [b"[]", b"{}", b"0.1", b"1e5", b"[[[]]]", b'{"a":{}}', b'{"a":1}', b"[[],[]]", b"-1.5E-3"]


@pytest.mark.parametrize("item", HOSTILE)
def test_what_would_take_too_long_is_refused_at_once(item: bytes) -> None:
    """A megabyte of small values is not parsed: that its end is missing is not even noticed."""
    data = b"[" + b",".join([item] * (MIB // (len(item) + 1)))
    assert decode_json(data, "body") == Reason("body holds too many values to be measured")


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [{"text": "Lorem ipsum, dolor sit amet: 3.14. " * 25_000}]},
        [{"id": n, "name": f"item {n}", "price": 0.25, "tags": ["a"]} for n in range(6_000)],
        [[0.0123456789 * n for n in range(1_536)] for _ in range(20)],
        {"data": "A" * 8 * MIB},
        list(range(100_000)),
    ],
)
def test_usual_large_documents_are_read(document: object) -> None:
    """Prose, rows, vectors and files of the size that APIs answer with are measured."""
    data = json.dumps(document).encode()
    assert len(data) > SAFE_BYTES
    assert not isinstance(decode_json(data, "body"), Reason)


@pytest.mark.parametrize("item", HOSTILE)
def test_one_value_is_found_in_any_large_document(item: bytes) -> None:
    """No values are made of the rest: of a megabyte, only the found object takes memory."""
    data = b'{"x":[%b],"usage":{"n":7}}' % b",".join([item] * (MIB // (len(item) + 1)))
    skim_json(b"{}", ("usage", "n"), "body")  # makes what is kept for these names
    tracemalloc.start()
    try:
        assert skim_json(data, ("usage", "n"), "body") == b"7"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000


def test_looking_for_one_value_is_bounded_too() -> None:
    """Neither a huge document nor one that is searched again at each of many levels stalls."""
    too_large = Reason("body is too large to be measured")
    assert skim_json(b'{"n":"%b"}' % (b"x" * SKIM_BYTES_MAX), ("n",), "body") == too_large
    deep = b'{"a":' * 20 + b'"%b"' % (b"x" * MIB) + b"}" * 20
    assert skim_json(deep, ("a",) * 20, "body") == too_large


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a": {"b": 5}}', b"5"),
        (b'\xef\xbb\xbf {"a": {"b": [1, 2]}}', b"[1, 2]"),
        (b'{"\\u0061": {"b": 1.50}}', b"1.50"),
        (b'{"a": {"b": 1}, "a": {"b": 2, "b": 3}}', b"3"),
        (b'{"a": {"b": 1}, "a": {}}', None),
        (b'{"a": {}, "a": {"b": 2}}', b"2"),
        (b'{"a": {"b": null}}', b"null"),
        (b'{"a": {"c": 1}}', None),
        (b'{"a": null}', None),
        (b'{"a": [{"b": 1}]}', None),
        (b"[1]", None),
        (b"null", None),
        (b'{"x": %b, "a": {"b": 1}}' % (b"9" * 9_000), b"1"),
    ],
)
def test_a_value_is_found_at_its_place(data: bytes, found: bytes | None) -> None:
    """Exactly as it is written; None where there is nothing."""
    assert skim_json(data, ("a", "b"), "body") == found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"[1",
        b'{"a": {"b": 1}',
        b'{"a": {"b": 1}} x',
        b'{"a": {"b": 1}, "x": "\xff"}',
        b'{"a": {"b": 1}, "x": "\\ud800"}',
        b'{"a": {"b": 1}, "x": nan}',
        b'{"x": %b, "a": {"b": 1}}' % (b"[" * 10_000 + b"]" * 10_000),
    ],
)
def test_a_place_in_what_is_not_json_has_the_same_reason(data: bytes) -> None:
    """The rest of the document is checked, though it is not read."""
    found = skim_json(data, ("a", "b"), "body")
    assert isinstance(found, Reason)
    full = decode_json(data, "body")
    assert isinstance(full, Reason)
    assert found.text.split(" (byte")[0][:14] == full.text.split(" (byte")[0][:14]


@pytest.mark.parametrize(
    ("name", "known"),
    [("a", True), ("naïve key.$", True), ('a"b', False), ("a\\b", False), ("a\nb", False)],
)
def test_names_that_can_be_skimmed_for(name: str, known: bool) -> None:  # noqa: FBT001 - a table
    """Whatever JSON can write in one way only."""
    assert can_be_skimmed((name,)) == known
    if known:
        assert skim_json(json.dumps({name: 5}).encode(), (name,), "body") == b"5"


@pytest.mark.parametrize(
    ("data", "whether"),
    [
        (b"{}", True),
        (b"1" * 9_000, True),
        (b"[" * 5_000, True),
        (b"[DONE]", False),
        (b"", False),
        (b'{"a', False),
    ],
)
def test_whether_something_is_json(data: bytes, whether: bool) -> None:  # noqa: FBT001 - a table
    """Numbers and nesting beyond our limits included."""
    assert is_json(data) == whether


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), inner), max_size=4)
    ),
    max_leaves=12,
)


def written(value: object, *, escaped: bool) -> str:
    """As JSON; a list of pairs is an object that may have equal names."""
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        members = [
            f"{json.dumps(name)}: {written(inner, escaped=escaped)}" for name, inner in value
        ]
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(item, escaped=escaped) for item in value) + "]"
    return json.dumps(value, ensure_ascii=escaped)


def walked(document: object) -> object:
    """What is under a.b, or None."""
    for key in ("a", "b"):
        document = document.get(key) if isinstance(document, dict) else None
    return document


@given(json_values, st.booleans(), st.binary(max_size=2))
def test_both_ways_agree(value: object, escaped: bool, after: bytes) -> None:  # noqa: FBT001
    """A value is found exactly where the whole document has one, duplicates and broken text too."""
    data = written(value, escaped=escaped).encode(errors="replace") + after
    full, found = decode_json(data, "body"), skim_json(data, ("a", "b"), "body")
    if isinstance(full, Reason):
        assert isinstance(found, Reason)
    elif found is None:
        assert walked(full) is None
    else:
        assert isinstance(found, bytes)
        assert repr(decode_json(found, "body")) == repr(walked(full))


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789.eE+-ntf\\u ').map(str.encode))
def test_decoding_never_raises(data: bytes) -> None:
    """Any bytes are JSON or a reason, and what is no JSON is none on both ways."""
    full, found = decode_json(data, "body"), skim_json(data, ("a",), "body")
    assert isinstance(full, Reason) or not isinstance(found, Reason)
