"""One connection to the upstream: an HTTP/1.1 client protocol that carries one exchange at a time.

Bytes in, one response out, with bounded memory in both directions. It opens nothing, retries
nothing and keeps no pool; it only knows whether it may be used again.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

import httptools

from usageflow._types import Headers
from usageflow.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.headers import ResponseHead, response_head
from usageflow.proxy.last_words import LastWords

READ_AHEAD_BYTES_MAX: Final = 65_536
"""Body bytes kept for a slow client before reading stops; one more read of the loop may follow."""

_INTERIM: Final = frozenset({100, *range(102, 200)})
"""Answers that precede the real one. 101 is none: no upgrade was asked for."""

_TOO_LARGE: Final = "has a head, or what is between parts of its body, that is too large"


class UpstreamConnection(asyncio.Protocol):
    """A client connection. `start`, then `head`, then `read` until its second value is False.

    The body of the request goes through `write_body` and `end_body`, at the same time. After any
    error, and after bytes that belong to no exchange, the connection is never `reusable`.
    """

    __slots__ = (
        "_active_at",
        "_answered",
        "_barren_bytes",
        "_chunked",
        "_complete",
        "_error",
        "_exchange",
        "_exchanges",
        "_fields",
        "_head",
        "_header_bytes_max",
        "_keep_alive",
        "_last_words",
        "_loop",
        "_on_lost",
        "_parser",
        "_parts",
        "_parts_bytes",
        "_read_paused",
        "_reader",
        "_to_head",
        "_transport",
        "_uploading",
        "_write_paused",
        "_writer",
        "idle_since",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        header_bytes_max: int,
        on_lost: Callable[["UpstreamConnection"], None],
    ) -> None:
        self._loop = loop
        self._header_bytes_max = header_bytes_max
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._read_paused = self._write_paused = False
        self._last_words: LastWords | None = None
        self._exchanges = 0
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._exchange = self._complete = self._keep_alive = False
        self._to_head = self._chunked = self._uploading = False
        self._error: UpstreamError | None = None
        self._head: ResponseHead | None = None
        self._fields: Headers = []
        self._parts: list[bytes] = []
        self._parts_bytes = self._barren_bytes = 0
        self._active_at = 0.0
        self._answered = False

    # The exchange

    def start(self, data: bytes, *, to_head: bool, body_follows: bool, chunked: bool) -> None:
        """Send the head of a request and the part of its body that is already there."""
        self._reset()
        self._exchange = True
        self._to_head = to_head
        self._uploading = body_follows
        self._chunked = chunked
        self._active_at = self._loop.time()
        self._exchanges += 1
        if self._transport.is_closing():
            self._end(None)
            return
        self._transport.write(data)
        if body_follows:
            self._last_words = LastWords.of(self._transport)

    async def write_body(self, part: bytes) -> None:
        """Send a part of the body; return when there is room for more, or the connection ends."""
        if not part or self._transport.is_closing():
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(part), part) if self._chunked else part)
        self._active_at = self._loop.time()
        if self._write_paused:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def end_body(self) -> None:
        """The body is complete; from now on the upstream owes an answer."""
        self._uploading = False
        self._forget_last_words()
        self._active_at = self._loop.time()
        if self._chunked and not self._transport.is_closing():
            self._transport.write(b"0\r\n\r\n")

    async def head(self) -> ResponseHead:
        """Wait for the final head. Raises UpstreamError."""
        while self._head is None:
            await self._news()
        return self._head

    async def read(self) -> tuple[bytes, bool]:
        """Wait for bytes of the body: (bytes, whether more may come). Raises UpstreamError.

        What arrived before a failure is given out before the failure is raised.
        """
        while not self._parts and not self._complete:
            await self._news()
        parts, self._parts, self._parts_bytes = self._parts, [], 0
        if self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._active_at = self._loop.time()
            self._transport.resume_reading()
        return (parts[0] if len(parts) == 1 else b"".join(parts)), not self._complete

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    @property
    def reusable(self) -> bool:
        """An exchange may start: none has, or one ended well on both sides, nothing left over."""
        ended_well = self._complete and self._keep_alive and not self._uploading
        return (ended_well or not self._exchange) and not self._transport.is_closing()

    @property
    def stale(self) -> bool:
        """It was kept alive, and found closed when it was used again: not a byte came back."""
        return self._exchanges > 1 and not self._answered and self._transport.is_closing()

    @property
    def open(self) -> bool:
        """No end of this connection is known yet."""
        return not self._transport.is_closing()

    def silence_s(self, now: float) -> float:
        """How long the upstream has kept us waiting; 0 while it waits for us or for the client."""
        waits_for_client = self._uploading and not self._write_paused
        if not self._exchange or self._complete or self._read_paused or waits_for_client:
            return 0.0
        return now - self._active_at

    def rest(self, now: float) -> None:
        """The exchange is over; the connection is idle from now on."""
        self._reset()
        self.idle_since = now

    def time_out(self) -> None:
        """The upstream was silent for too long."""
        self.fail(UpstreamTimeout("The upstream did not answer in time."))

    def fail(self, error: UpstreamError) -> None:
        """End the exchange with `error`, unless its answer is complete, and the connection."""
        if self._error is None and not self._complete:
            self._error = error
        self._keep_alive = False
        self._transport.abort()
        self._wake()

    def close(self) -> None:
        """End the connection; nothing is expected of it any more."""
        self._exchange = False
        self._transport.abort()

    @property
    def _owed(self) -> bool:
        return self._exchange and not self._complete and self._error is None

    def _forget_last_words(self) -> None:
        if self._last_words is not None:
            self._last_words.close()
            self._last_words = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._transport.is_closing():
            self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; bytes that nobody asked for end the connection."""
        if not self._exchange:
            self.close()
            return
        self._answered = True
        self._active_at = self._loop.time()
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse("is not valid HTTP/1.1")
        if self._barren_bytes > self._header_bytes_max and not self._complete:
            self._refuse(_TOO_LARGE)
        if self._to_head and self._complete and self._error is None:
            # The parser cannot be told that this answer has no body: start with a fresh one.
            self._parser = httptools.HttpResponseParser(self)
        if self._parts_bytes > READ_AHEAD_BYTES_MAX and self._transport.is_reading():
            self._read_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """The upstream will send no more: the end of the answer, or an answer cut short."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; whoever waits is told."""
        if self._last_words is not None and self._owed:
            for data in self._last_words.read():
                self.data_received(data)
        self._forget_last_words()
        self._end(exc)
        del self._parser  # it holds this object, which holds it
        self._on_lost(self)

    def _end(self, exc: Exception | None) -> None:
        self._keep_alive = False
        if self._owed:
            if self._head is not None and self._head.until_close and exc is None:
                self._complete = True
            else:
                self._error = UpstreamUnreachable(
                    "The upstream broke the connection before its answer was complete."
                )
        self._wake()

    def pause_writing(self) -> None:
        """The upstream reads more slowly than the client sends."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._write_paused = False
        self._active_at = self._loop.time()
        self._wake_writer()

    # The parser calls these

    def on_message_begin(self) -> None:
        """A second answer to one request means that the two sides disagree about framing."""
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head; trailers come here too and are dropped, ASGI cannot carry them."""
        if self._head is None:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the final head; interim answers (1xx) are skipped."""
        status = self._parser.get_status_code()
        fields, self._fields = self._fields, []
        if self._head is not None or status in _INTERIM:
            return
        head = response_head(status, fields, to_head=self._to_head)
        if isinstance(head, str):
            self._refuse(f"has {head}")
        elif self._barren_bytes > self._header_bytes_max < _head_bytes(fields):
            self._refuse(_TOO_LARGE)
        else:
            self._head = head
            self._barren_bytes = 0
            self._keep_alive = self._parser.should_keep_alive()
            self._complete = self._to_head

    def on_body(self, part: bytes) -> None:
        """Bytes of the body; a body after a HEAD is nobody's."""
        self._barren_bytes = 0
        if self._complete:
            self._keep_alive = False
        elif self._head is not None:
            self._parts.append(part)
            self._parts_bytes += len(part)

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was an interim one."""
        if self._head is not None:
            self._complete = True

    def _refuse(self, what: str) -> None:
        """The answer cannot be understood; if it is already complete, only what follows it."""
        self.fail(UpstreamError(f"The answer of the upstream {what}."))


def _head_bytes(fields: Headers) -> int:
    return sum(len(name) + len(value) + len(b": \r\n") for name, value in fields)
