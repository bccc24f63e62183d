"""What the engine reads: the facts of one exchange.

Declares the shape only; the edge fills it. Knows no policy and keeps nothing.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Protocol

from usageflow._types import JSON, Headers
from usageflow.policies.body import Body
from usageflow.policies.interpreter import Budget
from usageflow.policies.reason import Reason
from usageflow.policies.tally import Tally

REQUEST_BODY: Final = "request body"
RESPONSE_BODY: Final = "response body"


class Facts(Protocol):
    """One request and its response, as far as it came."""

    method: str
    path: str
    query_string: bytes
    started_at_s: float
    """When the request began, Unix time: what a token's validity is judged by."""
    request_headers: Headers
    request_body: Body
    status: int | None
    """Status of the response; None if none was started."""
    response_headers: Headers
    response_body: Body
    duration_ms: int
    aborted: str | None
    """None: the response was completed; else why it was not."""
    tallies: Mapping[Any, Tally]
    """Of an event stream or a WebSocket: what each compiled policy that reads it has so far."""

    recorded: Mapping[Any, Decimal]
    """What has been recorded in parts, by compiled policy."""
    budget: Budget | None
    """What expressions may still cost in this evaluation; None until one asks, see `budget_of`."""

    def metadata(self, name: str) -> object:
        """What the app knows under this name about the request; None if nothing."""

    @property
    def websocket(self) -> Mapping[str, JSON]:
        """The counters of a WebSocket; empty for other requests."""


def request_json(facts: Facts) -> JSON | Reason:
    """The request's body as a document, or why it cannot be read as such."""
    return facts.request_body.document(facts.request_headers, REQUEST_BODY)


def response_json(facts: Facts) -> JSON | Reason:
    """The response's body as a document, or why it cannot be read as such."""
    return facts.response_body.document(facts.response_headers, RESPONSE_BODY)


def budget_of(facts: Facts) -> Budget:
    """The one budget that all expressions of an evaluation share."""
    if facts.budget is None:
        facts.budget = Budget()
    return facts.budget
