"""The query string as pairs, the same for conditions, identities and quantities."""

from urllib.parse import parse_qsl


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """The query's parameters in order. Bytes that are not UTF-8 become lone surrogates."""
    if not query_string:
        return []
    text = query_string.decode(errors="surrogateescape")
    return parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
