"""The answers that are the proxy's own. They name what happened, never an internal address."""

import json
from typing import Final, NamedTuple

from usageflow._types import Send


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
    417: b"Expectation Failed",
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


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer with the refusal's status and body."""
    body = refusal_body(refusal)
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
