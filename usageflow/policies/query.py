"""The query string as pairs, the same for conditions, identities and quantities."""

from typing import Final
from urllib.parse import parse_qsl

from usageflow.policies.reason import Reason

QUERY_BYTES_MAX: Final = 16_384
"""Longest query string that is read: twice what nginx and Apache take as a whole request line.
Splitting and decoding the worst one takes 7 ms, during which nothing else is served."""
TOO_LONG: Final = Reason(f"the query has more than {QUERY_BYTES_MAX} bytes")


def query_pairs(query_string: bytes) -> list[tuple[str, str]] | Reason:
    """The query's parameters in order, unless it is longer than QUERY_BYTES_MAX.

    Bytes that are not UTF-8 become lone surrogates.
    """
    if not query_string:
        return []
    if len(query_string) > QUERY_BYTES_MAX:
        return TOO_LONG
    text = query_string.decode(errors="surrogateescape")
    return parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
