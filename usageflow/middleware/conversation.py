"""One WebSocket connection as facts: ASGI messages in, facts out. Sans I/O.

Counts what passes, and reads JSON messages where a policy asks for
them. It satisfies the `Facts` the policy engine reads. No clock: the time of a message comes in.

Source for the messages: ASGI 3.0, WebSocket connection scope; RFC 6455 for the meaning of 101.
"""

from collections.abc import Awaitable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from usageflow._types import JSON, Headers, Message, Scope
from usageflow.middleware.metadata import Provider, read_metadata
from usageflow.policies import Body, CompiledPolicy, Match
from usageflow.policies.engine import UPGRADED
from usageflow.policies.interpreter import Budget
from usageflow.policies.reason import Reason
from usageflow.policies.tally import Piece, Tally

METHOD: Final = "WEBSOCKET"
"""What a policy's `match` calls a WebSocket; its handshake is a GET that no GET route serves."""
_REFUSED: Final = 403
"""What servers answer when an app closes before it accepts (ASGI, WebSocket close)."""
_NOTHING_RECORDED: Final[Mapping[CompiledPolicy, Decimal]] = {}
_MS: Final = Decimal("0.001")


class Conversation:
    """The facts of one WebSocket, growing as its messages pass.

    `messages_since` counts those since usage was last recorded; `held` is what the close must wait
    for because a part was.
    `accepted` tells that usage can be due, `ended` that no more can come.
    """

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_elapsed_ms",
        "_messages_in",
        "_messages_out",
        "_providers",
        "_received",
        "_scope",
        "_sent",
        "aborted",
        "budget",
        "duration_ms",
        "ended",
        "held",
        "messages_since",
        "method",
        "path",
        "query_string",
        "recorded",
        "request_body",
        "request_headers",
        "response_body",
        "response_headers",
        "started_at_s",
        "status",
        "tallies",
    )

    def __init__(
        self,
        match: Match,
        scope: Scope,
        path: str,
        *,
        started_at_s: float,
        providers: Mapping[str, Provider],
    ) -> None:
        """`started_at_s` is Unix time; `providers` are the middleware's sources of metadata."""
        self.method: str = METHOD
        self.path = path
        self.query_string: bytes = scope.get("query_string", b"")
        self.started_at_s = started_at_s
        self.request_headers: Headers = scope["headers"]
        self.request_body = Body(None)
        self.status: int | None = None
        self.response_headers: Headers = []
        self.response_body = Body(None)
        self.duration_ms = 0
        self.aborted: str | None = None
        self.ended = False
        self.recorded: Mapping[CompiledPolicy, Decimal] = _NOTHING_RECORDED
        self.budget: Budget | None = None
        self.held: Awaitable[object] | None = None
        self._scope = scope
        self._providers = providers
        self._messages_in = self._messages_out = self._bytes_in = self._bytes_out = 0
        self.messages_since = 0
        received, sent = match.tallies(self, "received"), match.tallies(self, "sent")
        self.tallies: Mapping[CompiledPolicy, Tally] = {**sent, **received}
        self._received = list(received.values())
        self._sent = [self.tallies[compiled] for compiled in sent]

    @property
    def websocket(self) -> Mapping[str, JSON]:
        """See Facts."""
        return {
            "messages": self._messages_in + self._messages_out,
            "messages_in": self._messages_in,
            "messages_out": self._messages_out,
            "bytes": self._bytes_in + self._bytes_out,
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
            "seconds": self.duration_ms * _MS,
        }

    def metadata(self, name: str) -> object:
        """See Facts."""
        return read_metadata(name, self._scope, self._providers)

    def received(self, message: Message) -> None:
        """The app was given this message."""
        if message["type"] == "websocket.receive":
            data = _content(message)
            self._messages_in += 1
            self.messages_since += 1
            self._bytes_in += len(data)
            _add(self._received, data, "received")
        elif message["type"] == "websocket.disconnect":
            self.ended = True

    def sends(self, message: Message) -> None:
        """The app sends this message."""
        kind = message["type"]
        if kind == "websocket.send":
            data = _content(message)
            self._messages_out += 1
            self.messages_since += 1
            self._bytes_out += len(data)
            _add(self._sent, data, "sent")
        elif kind == "websocket.accept":
            self._answer(UPGRADED, message)
        elif kind == "websocket.http.response.start":
            self._answer(message["status"], message)
        elif kind == "websocket.http.response.body":
            self.ended = self.ended or not message.get("more_body", False)
        elif kind == "websocket.close":
            if self.status is None:
                self._answer(_REFUSED, message)
            self.ended = True

    def _answer(self, status: int, message: Message) -> None:
        self.status = status
        headers = message.get("headers") or []
        if not isinstance(headers, list):
            headers = message["headers"] = list(headers)  # an iterator can be read only once
        self.response_headers = headers


def _add(tallies: Sequence[Tally], data: bytes, piece: Piece) -> None:
    """Read a message; a mistake of ours must not reach the app."""
    for tally in tallies:
        try:
            tally.add(data, piece)
        except Exception as error:  # noqa: BLE001 - see above
            tally.put(Reason(f"internal error: {type(error).__name__}"))


def _content(message: Message) -> bytes:
    """What a message carries; one of `bytes` and `text` may be absent or None (ASGI)."""
    data = message.get("bytes")
    return bytes(data) if data is not None else (message.get("text") or "").encode(errors="replace")
