"""One unmatched request that is looked at while it passes: its status, and a little of its bodies.

Changes no message and decides nothing: who asked for it is told when the app is done.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from usageflow._types import ASGIApp, Headers, Message, Receive, Scope, Send
from usageflow.middleware.sketch import STREAMS, Look, media_type

BODY_BYTES_MAX: Final = 65_536
"""Bytes kept of a body while it passes: of a stream the last ones, of any other all or none."""
FAILED: Final = 500
"""What a client gets whose request made the app raise."""
OK_BELOW: Final = 400
"""Statuses of answers whose body is the endpoint's own, and no description of an error."""


class Observation:
    """One request that is looked at: the app is called through it."""

    __slots__ = (
        "_finish",
        "_request_body",
        "_response_body",
        "_response_headers",
        "closely",
        "path",
        "scope",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        path: str,
        *,
        closely: bool,
        finish: Callable[["Observation"], None],
    ) -> None:
        """`closely`: bodies too, not only how it is answered. `finish` must not raise."""
        self.scope = scope
        self.path = path
        self.closely = closely
        self.status: int | None = None
        self._finish = finish
        self._request_body = _Kept()
        self._response_body = _Kept()
        self._response_headers: Headers = []

    async def through(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        """Serve the request; every message passes as it is."""

        async def receive_observed() -> Message:
            message = await receive()
            self.note(message)
            return message

        async def send_observed(message: Message) -> None:
            self.note(message)
            await send(message)

        try:
            await app(self.scope, receive_observed if self.closely else receive, send_observed)
        except Exception:
            self.status = self.status or FAILED
            raise
        finally:
            self.finish()

    def finish(self) -> None:
        """The request is over; once."""
        self._finish(self)

    def look(self, status: int) -> Look:
        """What was seen, under the status it was answered with."""
        return Look(
            request_headers=self.scope["headers"],
            query_string=self.scope.get("query_string", b""),
            request_body=bytes(self._request_body.data),
            status=status,
            response_headers=self._response_headers,
            response_body=bytes(self._response_body.data) if status < OK_BELOW else b"",
        )

    def note(self, message: Message) -> None:
        """A message passes. Never raises."""
        with suppress(Exception):  # what is malformed is the server's to refuse, not ours
            kind = message["type"]
            if kind == "http.response.start":
                self._start(message)
            elif kind == "http.response.body" and self.closely:
                self._response_body.add(message.get("body", b""))
            elif kind == "http.request":
                self._request_body.add(message.get("body", b""))

    def _start(self, message: Message) -> None:
        self.status = message["status"]
        headers = message.get("headers", ())
        if isinstance(headers, list | tuple):  # an iterator is the server's to read
            self._response_headers = list(headers)
            self._response_body.stream = media_type(self._response_headers) in STREAMS


class _Kept:
    """The bytes of one body: all of them if they are few, or the last ones of a stream."""

    __slots__ = ("bytes_total", "data", "stream")

    def __init__(self) -> None:
        self.data = bytearray()
        self.bytes_total = 0
        self.stream = False

    def add(self, chunk: bytes) -> None:
        """The next bytes."""
        self.bytes_total += len(chunk)
        if self.stream:
            self.data += chunk[-BODY_BYTES_MAX:]
            del self.data[:-BODY_BYTES_MAX]
        elif self.bytes_total <= BODY_BYTES_MAX:
            self.data += chunk
        else:
            self.data.clear()
