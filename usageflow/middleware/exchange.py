"""One request and its response as facts: ASGI messages in, facts out. Sans I/O.

An Exchange is told every message that passes and answers one question: does this message complete
the response? It keeps body bytes only where a matched policy needs them, at most `body_bytes_max`,
and never changes a message. It satisfies the `Facts` the policy engine reads. No clock, no I/O.

Source for completion: RFC 9112, section 6.3 (message body length), ASGI 3.0 HTTP messages.
"""

from typing import Final

from usageflow._types import Headers, Message, Scope
from usageflow.policies import Body, Match

NOT_READ: Final = "the app did not read the request body"
_BODILESS: Final = frozenset((204, 304))
_CONTENT_LENGTH_CHARS: Final = len(b"content-length")


class Exchange:
    """The facts of one exchange, growing as its messages pass."""

    __slots__ = (
        "_content_length",
        "_trailers",
        "aborted",
        "complete",
        "disconnected",
        "duration_ms",
        "method",
        "path",
        "query_string",
        "request_body",
        "request_headers",
        "response_body",
        "response_headers",
        "settled",
        "status",
    )

    def __init__(self, match: Match, scope: Scope, path: str, body_bytes_max: int) -> None:
        self.method: str = scope["method"]
        self.path = path
        self.query_string: bytes = scope.get("query_string", b"")
        self.request_headers: Headers = scope["headers"]
        self.request_body = Body(body_bytes_max if match.needs_request_body else None)
        self.request_body.problem = NOT_READ
        self.status: int | None = None
        self.response_headers: Headers = []
        self.response_body = Body(body_bytes_max if match.needs_response_body else None)
        self.duration_ms = 0
        self.aborted: str | None = None
        self.complete = False
        self.disconnected = False
        self.settled = False
        self._content_length: int | None = None
        self._trailers = False

    def received(self, message: Message) -> None:
        """The app was given this message."""
        if message["type"] == "http.request":
            body = self.request_body
            if not message.get("more_body", False):
                body.problem = None
            body.add(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self.complete:
            self.disconnected = True

    def sends(self, message: Message) -> bool:
        """The app sends this message; True if the client has the whole response with it."""
        if self.complete:
            return False
        kind = message["type"]
        if kind == "http.response.start":
            self.complete = self._start(message)
        elif kind == "http.response.body":
            self.complete = self._body(message)
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            self.response_body.problem = "the app sent a file by its path; its bytes were not seen"
            self.complete = not message.get("more_body", False)
        elif kind == "http.response.trailers":
            self.complete = not message.get("more_trailers", False)
        return self.complete

    def fail(self, error: BaseException) -> None:
        """The app raised. Without a response of its own the client gets a 500 from the server."""
        self.aborted = f"the app raised {type(error).__name__}"
        if self.status is None and isinstance(error, Exception):
            self.status = 500
        self._cut()

    def abandon(self) -> None:
        """The app returned without completing its response."""
        self.aborted = (
            "the client disconnected"
            if self.disconnected
            else "the app ended without completing its response"
        )
        self._cut()

    def _cut(self) -> None:
        body = self.response_body
        if self.status is not None and body.problem is None:
            body.problem = f"the response is incomplete: {self.aborted}"

    def _start(self, message: Message) -> bool:
        self.status = message["status"]
        headers = message.get("headers", ())
        if not isinstance(headers, list | tuple):
            headers = message["headers"] = list(headers)  # an iterator can be read only once
        self.response_headers = headers
        self._trailers = message.get("trailers", False)
        if self.method == "HEAD" or self.status in _BODILESS:
            self.response_body.problem = "the response has no body"
            return not self._trailers
        for name, value in headers:
            if len(name) == _CONTENT_LENGTH_CHARS and name.lower() == b"content-length":
                self._content_length = int(value) if value.isdigit() else None
        return self._content_length == 0

    def _body(self, message: Message) -> bool:
        body = self.response_body
        body.add(message.get("body", b""))
        if self._content_length is not None:
            # With a length the client is done at its last byte, not at the message that says so;
            # a final message that leaves bytes owing completes nothing.
            return body.bytes_total >= self._content_length
        return not (message.get("more_body", False) or self._trailers)
