"""What the engine reads: the facts of one exchange, and why one of them cannot be used.

Declares the shape only; the edge fills it. Knows no policy, keeps no bytes that it was not asked
for, and never says what a body contained.
"""

from decimal import Decimal
from typing import Final, Protocol

import msgspec

from usageflow._types import JSON, Headers
from usageflow.policies.reason import Reason


class Body:
    """The bytes of one message body: all are counted, at most `bytes_max` are kept.

    `bytes_max=None` keeps nothing. `problem` says why `data` cannot be used; the edge may set it.
    """

    __slots__ = ("_bytes_max", "_chunks", "_json", "bytes_total", "problem")

    def __init__(self, bytes_max: int | None) -> None:
        self.bytes_total = 0
        self.problem: str | None = None
        self._bytes_max = bytes_max
        self._chunks: list[bytes] = []
        self._json: JSON = None

    def add(self, chunk: bytes) -> None:
        """The next bytes. A body that outgrows the limit is let go of as a whole."""
        self.bytes_total += len(chunk)
        if self._bytes_max is None:
            return
        if self.bytes_total > self._bytes_max:
            self._chunks.clear()
            self.problem = f"larger than body_bytes_max ({self._bytes_max} bytes)"
        elif chunk:
            self._chunks.append(chunk)

    @property
    def data(self) -> bytes:
        """The bytes that were kept; without a copy if they came in one piece."""
        return b"".join(self._chunks)

    def json(self, label: str) -> JSON | Reason:
        """The parsed body, numbers exact, or why it cannot be; parsed once for all policies."""
        if self._json is None:
            self._json = decode_json(self.data, label)
        return self._json


class Facts(Protocol):
    """One request and its response, as far as it came."""

    method: str
    path: str
    query_string: bytes
    request_headers: Headers
    request_body: Body
    status: int | None
    """Status of the response; None if none was started."""
    response_headers: Headers
    response_body: Body
    duration_ms: int
    aborted: str | None
    """None: the response was completed; else why it was not."""


REQUEST_BODY: Final = "request body"
RESPONSE_BODY: Final = "response body"

_decoder = msgspec.json.Decoder(float_hook=Decimal)


def decode_json(data: bytes | msgspec.Raw, label: str) -> JSON | Reason:
    """Parse JSON; every number is an int or a Decimal, exactly as written. Never raises."""
    try:
        return _decoder.decode(data)
    except RecursionError:
        return Reason(f"{label} is nested too deeply")
    except (msgspec.ValidationError, ArithmeticError):
        return Reason(f"{label} holds a number with too many digits")
    except UnicodeDecodeError:
        return Reason(f"{label} is not JSON: it is not UTF-8")
    except msgspec.DecodeError as error:
        return Reason(f"{label} is not JSON: {error}")


def request_json(facts: Facts) -> JSON | Reason:
    """The request's body as JSON, or why it cannot be read as such."""
    problem = body_problem(facts.request_body, facts.request_headers, REQUEST_BODY)
    return problem or facts.request_body.json(REQUEST_BODY)


def response_json(facts: Facts) -> JSON | Reason:
    """The response's body as JSON, or why it cannot be read as such."""
    problem = body_problem(facts.response_body, facts.response_headers, RESPONSE_BODY)
    return problem or facts.response_body.json(RESPONSE_BODY)


def body_problem(body: Body, headers: Headers, label: str) -> Reason | None:
    """Why this body cannot be one JSON text, before looking into it."""
    if body.problem is not None:
        return Reason(f"{label}: {body.problem}")
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return Reason(f"{label} has a content encoding; only identity can be measured")
        if name == b"content-type" and value.strip().lower().startswith(b"text/event-stream"):
            return Reason(f"{label} is an event stream, not one JSON text")
    if not body.bytes_total:
        return Reason(f"{label} is empty")
    return None
