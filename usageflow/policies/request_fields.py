"""One value of a request by its name: a header, a query parameter, a cookie.

A field that occurs with different values has no value: whoever chose would choose the payer.
"""

from collections.abc import Callable
from typing import TypeAlias

from usageflow.policies.facts import Facts
from usageflow.policies.query import query_pairs
from usageflow.policies.reason import Reason

Finder: TypeAlias = Callable[[Facts], str | Reason]
"""The text that was sent, not yet judged, or why there is none."""


def header(name: str) -> Finder:
    """The value of a request header, as it was sent."""
    wanted = name.encode()
    absent, different = _reasons(f"header {name}")

    def find(facts: Facts) -> str | Reason:
        found: bytes | None = None
        for key, value in facts.request_headers:
            if key == wanted:
                if found is not None and value != found:
                    return different
                found = value
        return absent if found is None else _decoded(found)

    return find


def query(name: str) -> Finder:
    """The value of a query parameter, decoded as forms are."""
    absent, different = _reasons(f"query {name}")

    def find(facts: Facts) -> str | Reason:
        pairs = query_pairs(facts.query_string)
        if isinstance(pairs, Reason):
            return pairs
        found = {value for key, value in pairs if key == name}
        if not found:
            return absent
        return found.pop() if len(found) == 1 else different

    return find


def cookie(name: str) -> Finder:
    """The value of a cookie, without the quotes it may stand in. RFC 6265, section 4.2.

    Over HTTP/2 a client may send each cookie in a header of its own (RFC 9113, section 8.2.3).
    """
    wanted = name.encode()
    absent, different = _reasons(f"cookie {name}")

    def find(facts: Facts) -> str | Reason:
        found = {
            _unquoted(value.strip(b" \t"))
            for key, line in facts.request_headers
            if key == b"cookie" and wanted in line
            for pair, equals, value in (item.partition(b"=") for item in line.split(b";"))
            if equals and pair.strip(b" \t") == wanted
        }
        if not found:
            return absent
        return _decoded(found.pop()) if len(found) == 1 else different

    return find


def _reasons(label: str) -> tuple[Reason, Reason]:
    return Reason(f"{label} is absent"), Reason(f"{label} occurs with different values")


def _unquoted(value: bytes) -> bytes:
    quoted = len(value) > 1 and value[:1] == value[-1:] == b'"'
    return value[1:-1] if quoted else value


def _decoded(value: bytes) -> str:
    """RFC 9110, section 5.5: bytes beyond ASCII are opaque; most clients mean UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
