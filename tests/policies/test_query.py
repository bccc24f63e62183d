"""The query string as pairs."""

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.policies.query import QUERY_BYTES_MAX, query_pairs
from usageflow.policies.reason import Reason


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        (b"", []),
        (b"a=1&a=2&b", [("a", "1"), ("a", "2"), ("b", "")]),
        (b"a+b=%20c&&=", [("a b", " c"), ("", "")]),
        (b"a=1;b=2", [("a", "1;b=2")]),
        (b"\xff=%fe", [("\udcff", "\udcfe")]),
    ],
)
def test_pairs_are_in_order_and_decoded(query: bytes, pairs: list[tuple[str, str]]) -> None:
    """Repeated, empty and undecodable parameters are all there."""
    assert query_pairs(query) == pairs


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=20))
def test_what_was_encoded_is_read(pairs: list[tuple[str, str]]) -> None:
    """Any text comes back as it was."""
    assert query_pairs(urlencode(pairs).encode()) == pairs


@given(st.binary(max_size=100))
def test_no_bytes_are_too_strange(query: bytes) -> None:
    """Whatever a client sends is read without an error."""
    assert isinstance(query_pairs(query), list)


def test_a_query_that_is_too_long_is_not_read() -> None:
    """One of the longest is read whole, whatever is in it; with one byte more it says so."""
    worst = b"%61&" * (QUERY_BYTES_MAX // 4)
    assert query_pairs(worst) == [("a", "")] * (QUERY_BYTES_MAX // 4)
    assert query_pairs(worst + b"&") == Reason("the query has more than 16384 bytes")
