"""The one shape of every error answer: `{"error": {"code", "message"}}`.

A problem is a value, so that a decision can return it; the endpoint turns it into a response. It
never carries a traceback, a statement or a secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from starlette.responses import Response

JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was not done: HTTP status, a code for machines, a sentence for people."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The HTTP response that says so."""
        error = {"error": {"code": self.code, "message": self.message}}
        return json_response(error, status=self.status, headers=self.headers)


def json_response(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as JSON; a Decimal becomes a number with every digit it has."""
    body = msgspec.json.Encoder(decimal_format="number").encode(content)
    return Response(body, status, headers, JSON_TYPE)
