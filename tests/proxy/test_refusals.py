"""The proxy's own answers."""

import json

from usageflow.proxy.refusals import REASONS, Refusal, refusal_bytes, refusal_fields


def test_an_answer_of_our_own() -> None:
    """Status, code and message, as JSON of the length it says, and the end of the connection."""
    head, _, body = refusal_bytes(Refusal(400, "odd", "It is odd.")).partition(b"\r\n\r\n")
    assert json.loads(body) == {"error": {"code": "odd", "message": "It is odd."}}
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 400 Bad Request",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]


def test_what_may_succeed_later_says_when() -> None:
    """A 503 asks for a pause, others do not."""
    assert (b"retry-after", b"5") in refusal_fields(Refusal(503, "busy", "Later."))[0]
    assert dict(refusal_fields(Refusal(502, "down", "Gone."))[0]).keys() == {
        b"content-type",
        b"content-length",
    }


def test_every_status_has_its_phrase() -> None:
    """None of those that are answered here is without one."""
    assert all(REASONS.values())
