"""What the policies' tests share: policies that differ in what matters, and facts to judge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from usageflow._types import Headers
from usageflow.policies import Body, Policy
from usageflow.policies.interpreter import Budget


@dataclass
class Seen:
    """The facts of an exchange, written down."""

    method: str = "POST"
    path: str = "/v1/chat"
    query_string: bytes = b""
    request_headers: Headers = field(default_factory=list)
    request_body: Body = field(default_factory=lambda: Body(None))
    status: int | None = 200
    response_headers: Headers = field(default_factory=list)
    response_body: Body = field(default_factory=lambda: Body(None))
    duration_ms: int = 12
    started_at_s: float = 1_800_000_000.0
    tallies: dict[Any, Any] = field(default_factory=dict)
    recorded: dict[Any, Decimal] = field(default_factory=dict)
    budget: Budget | None = None
    known: dict[str, object] = field(default_factory=dict)
    websocket: dict[str, Any] = field(default_factory=dict)
    aborted: str | None = None

    def metadata(self, name: str) -> object:
        """What the app knows."""
        return self.known.get(name)


def body_of(data: bytes) -> Body:
    """A body that was kept, in one piece."""
    body = Body(1_048_576)
    body.add(data)
    return body


@pytest.fixture(scope="session")
def policy() -> Callable[..., Policy]:
    """Make a policy; untold, POST /v1/chat counts 1 CALL for the header x-account."""

    def make(**changes: Any) -> Policy:
        said: Mapping[str, Any] = {
            "name": "chat",
            "match": "POST /v1/chat",
            "identify": [{"from": "header", "name": "x-account"}],
            "field": "account_id",
            "metric": "CALL",
        }
        return Policy.model_validate({**said, **changes})

    return make


@pytest.fixture(scope="session")
def facts() -> Callable[..., Seen]:
    """Make facts; `request` and `response` are body bytes, the rest are fields."""

    def make(
        *, request: bytes | None = None, response: bytes | None = None, **changes: Any
    ) -> Seen:
        if request is not None:
            changes["request_body"] = body_of(request)
        if response is not None:
            changes["response_body"] = body_of(response)
        return Seen(**changes)

    return make
