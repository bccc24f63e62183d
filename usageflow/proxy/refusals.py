"""The answers that are the proxy's own. They name what happened, never an internal address."""

import json
from typing import Final, NamedTuple

from usageflow._types import Headers


class Refusal(NamedTuple):
    """A request that is not served: the status to answer with, a code to look up, and why."""

    status: int
    code: str
    message: str


REASONS: Final = {
    400: b"Bad Request",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
"""Phrases of RFC 9110 and RFC 6585 for the statuses that are answered here."""


def refusal_body(refusal: Refusal) -> bytes:
    """`{"error": {"code": ..., "message": ...}}`."""
    error = {"code": refusal.code, "message": refusal.message}
    return json.dumps({"error": error}).encode()


RETRY_AFTER_S: Final = 5
"""What a client is asked to wait when a later try may succeed."""
_UNAVAILABLE: Final = 503


def refusal_fields(refusal: Refusal) -> tuple[Headers, bytes]:
    """The fields and the body of the answer."""
    body = refusal_body(refusal)
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.status == _UNAVAILABLE:
        fields.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return fields, body


def refusal_bytes(refusal: Refusal) -> bytes:
    """The whole answer to what never became a request; the connection ends with it."""
    fields, body = refusal_fields(refusal)
    lines = [b"HTTP/1.1 %d %b" % (refusal.status, REASONS[refusal.status])]
    lines += [b"%b: %b" % field for field in fields]
    lines += [b"connection: close", b"", body]
    return b"\r\n".join(lines)
