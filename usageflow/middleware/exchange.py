"""One request and its response as facts: ASGI messages in, facts out. Sans I/O.

An Exchange is told every message that passes and answers one question: does this message complete
the response? It keeps body bytes only where a matched policy needs them, bounded by its limits,
and never changes a message. It satisfies the `Facts` the policy engine reads. No clock, no I/O.

Source for completion: RFC 9112, section 6.3 (message body length), ASGI 3.0 HTTP messages.
"""

from collections.abc import Awaitable, Mapping
from decimal import Decimal
from typing import Final

from usageflow._types import JSON, Headers, Message, Scope
from usageflow.middleware.limits import Limits
from usageflow.middleware.metadata import Provider, read_metadata
from usageflow.policies import Body, CompiledPolicy, Match
from usageflow.policies.body import Decoder
from usageflow.policies.decoding import open_decoder
from usageflow.policies.interpreter import Budget
from usageflow.policies.reason import Reason
from usageflow.policies.streams import Stream, open_splitter
from usageflow.policies.tally import Tally

NOT_READ: Final = "the app did not read the request body"
NO_BODY: Final = "the response has no body"
BY_PATH: Final = "the app sent a file by its path; its bytes were not seen"
NO_PROVIDERS: Final[Mapping[str, Provider]] = {}

_BODILESS: Final = frozenset((204, 304))
_TOLD: Final = frozenset((b"content-length", b"content-type", b"content-encoding"))
_LENGTH_DIGITS_MAX: Final = 19
"""More digits than any body has; `int` of a long text takes long."""
_NOTHING: Final[Mapping[str, JSON]] = {}
_NOTHING_RECORDED: Final[Mapping[CompiledPolicy, Decimal]] = {}
_NO_TALLIES: Final[Mapping[CompiledPolicy, Tally]] = {}


class Exchange:
    """The facts of one exchange, growing as its messages pass.

    `held` is what the response's end must wait for because a part of its usage was recorded.
    """

    __slots__ = (
        "__weakref__",
        "_content_length",
        "_limits",
        "_match",
        "_providers",
        "_trailers",
        "aborted",
        "budget",
        "complete",
        "disconnected",
        "duration_ms",
        "held",
        "method",
        "path",
        "query_string",
        "recorded",
        "request_body",
        "request_headers",
        "response_body",
        "response_headers",
        "scope",
        "settled",
        "started_at_s",
        "status",
        "tallies",
    )

    def __init__(
        self,
        match: Match,
        scope: Scope,
        path: str,
        limits: Limits,
        *,
        started_at_s: float,
        providers: Mapping[str, Provider] = NO_PROVIDERS,
    ) -> None:
        """`started_at_s` is Unix time; `providers` are the middleware's sources of metadata."""
        self.method: str = scope["method"]
        self.path = path
        self.query_string: bytes = scope.get("query_string", b"")
        self.started_at_s = started_at_s
        self.request_headers: Headers = scope["headers"]
        self.request_body = Body(limits.body_bytes_max if match.needs_request_body else None)
        self.request_body.unfinished = NOT_READ
        self.status: int | None = None
        self.response_headers: Headers = []
        self.response_body = Body(limits.body_bytes_max if match.needs_response_body else None)
        self.duration_ms = 0
        self.aborted: str | None = None
        self.complete = False
        self.disconnected = False
        self.settled = False
        self.tallies: Mapping[CompiledPolicy, Tally] = _NO_TALLIES
        self.recorded: Mapping[CompiledPolicy, Decimal] = _NOTHING_RECORDED
        self.budget: Budget | None = None
        self.held: Awaitable[object] | None = None
        self._match = match
        self.scope = scope
        self._limits = limits
        self._providers = providers
        self._content_length: int | None = None
        self._trailers = False
        if match.needs_request_body:
            self._read_request()

    @property
    def websocket(self) -> Mapping[str, JSON]:
        """See Facts: this is no WebSocket."""
        return _NOTHING

    def metadata(self, name: str) -> object:
        """See Facts."""
        return read_metadata(name, self.scope, self._providers)

    def received(self, message: Message) -> None:
        """The app was given this message."""
        if message["type"] == "http.request":
            self.request_body.add(message.get("body", b""))
            if not message.get("more_body", False):
                self.request_body.end()
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
            self.response_body.problem = BY_PATH
            self.complete = not message.get("more_body", False)
        elif kind == "http.response.trailers":
            self.complete = not message.get("more_trailers", False)
        if self.complete:
            self.response_body.end(self.response_body.unfinished)
            if self.response_body.cut is not None:
                self.aborted = f"the response {self.response_body.cut}"
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

    def break_off(self, reason: str) -> None:
        """The rest of the response will not reach the client, for this reason."""
        self.aborted = reason
        self._cut()

    def _cut(self) -> None:
        body = self.response_body
        if self.status is not None and body.problem is None and body.unfinished is None:
            body.end(f"the response is incomplete: {self.aborted}")

    def _read_request(self) -> None:
        if any(name == b"content-encoding" for name, _ in self.request_headers):
            self.request_body.read_as(self._decoder(self.request_headers, whole=True), None)

    def _decoder(self, headers: Headers, *, whole: bool) -> Decoder | Reason | None:
        return open_decoder(
            headers,
            bytes_max=self._limits.decoded_bytes_max,
            cpu_s_max=self._limits.decode_cpu_s_max,
            total=whole,
        )

    def _start(self, message: Message) -> bool:
        self.status = message["status"]
        headers = message.get("headers", ())
        if not isinstance(headers, list | tuple):
            headers = message["headers"] = list(headers)  # an iterator can be read only once
        self.response_headers = headers
        self._trailers = message.get("trailers", False)
        if self.method == "HEAD" or self.status in _BODILESS:
            self.response_body.unfinished = NO_BODY
            return not self._trailers
        try:
            content_type, encoded = self._headers_tell(headers)
        except Exception as error:  # noqa: BLE001 - what is no header is the server's to refuse
            self.response_body.problem = f"its headers cannot be read: {type(error).__name__}"
        else:
            if self.response_body.wanted:
                self._read_response(content_type, encoded=encoded)
        return self._content_length == 0

    def _headers_tell(self, headers: Headers) -> tuple[bytes, bool]:
        """The Content-Type, and whether there is an encoding; the length is noted."""
        content_type, encoded = b"", False
        for name, value in headers:
            told = name.lower()
            if told not in _TOLD:
                continue
            if told == b"content-length":
                digits = len(value) <= _LENGTH_DIGITS_MAX and value.isdigit()
                self._content_length = int(value) if digits else None
            elif told == b"content-type":
                content_type = value
            else:
                encoded = True
        return content_type, encoded

    def _read_response(self, content_type: bytes, *, encoded: bool) -> None:
        if content_type == b"application/json" and not encoded:
            return  # as nearly all are
        splitter = open_splitter(content_type, self._limits.stream_event_bytes_max)
        if splitter is None and not encoded:
            return
        stream = None
        if splitter is not None:
            self.tallies = self._match.tallies(self, "body")
            stream = Stream(splitter, self.tallies.values())
        decoder = self._decoder(self.response_headers, whole=stream is None) if encoded else None
        self.response_body.read_as(decoder, stream)

    def _body(self, message: Message) -> bool:
        body = self.response_body
        body.add(message.get("body", b""))
        if self._content_length is not None:
            # With a length the client is done at its last byte, not at the message that says so;
            # a final message that leaves bytes owing completes nothing.
            return body.bytes_total >= self._content_length
        return not (message.get("more_body", False) or self._trailers)
