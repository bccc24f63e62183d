"""One connection to an upstream: an HTTP/1.1 client protocol that carries one exchange at a time.

Bytes in, one answer out to whoever asked. It opens nothing, retries nothing and keeps no pool; it
only knows whether it may be used again. How messages are framed is read in `heads` and `chunked`.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from usageflow.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.chunked import ChunkedReader
from usageflow.proxy.headers import tokens
from usageflow.proxy.heads import (
    LONE_LINE_FEED,
    UNTIL_CLOSE,
    Fields,
    ResponseHead,
    parse_response,
    response_length,
)
from usageflow.proxy.last_words import LastWords
from usageflow.proxy.targets import Target
from usageflow.proxy.tunnel import keep_alive

CHUNK_LINE_BYTES_MAX: Final = 4_096
"""Longest line of a chunk's size and extensions: beyond any that servers write."""
_IN_CHUNKS: Final = -2
"""Beside the bytes that are left of a body and UNTIL_CLOSE."""
_SWITCHING: Final = 101
_FINAL_FROM: Final = 200
_HEAD_END: Final = b"\r\n\r\n"
_TOO_LARGE: Final = "Its head is too large."
_BEGINNING: Final = b"HTTP/1."
_NO_HTTP: Final = "It is not HTTP/1."
_UNASKED: Final = "It switches to a protocol that it was not asked for."
_CUT_OFF: Final = "The upstream broke the connection before its answer was complete."


NO_FIELDS: Final[Fields] = []


class Asker(Protocol):
    """Who is told what the upstream answers, as it comes. `answered` is called once, and first."""

    def interim(self, head: ResponseHead) -> None:
        """An answer that precedes the real one (1xx)."""

    def answered(
        self,
        head: ResponseHead,
        length: int | None,
        body: bytes,
        *,
        complete: bool,
        trailers: Fields,
        raw: bytes,
    ) -> None:
        """The answer's head, how its body is framed, and what of the body came along.

        `raw` is the head as it came.
        """

    def carried(self, body: bytes, *, complete: bool, trailers: Fields) -> None:
        """More of the body; `trailers` come with its end."""

    def upgraded(self, head: ResponseHead, rest: bytes) -> None:
        """101: what follows is no HTTP any more. `rest` came along."""

    def failed(self, error: UpstreamError) -> None:
        """There will be no more of this answer."""

    def upstream_full(self) -> None:
        """The upstream reads more slowly than is written to it."""

    def upstream_ready(self) -> None:
        """There is room again."""


class Pipe(Protocol):
    """Who gets the bytes of a connection that was upgraded."""

    def from_upstream(self, data: bytes) -> None:
        """The next bytes."""

    def upstream_ended(self) -> None:
        """There are no more; the connection is gone or will be."""

    def upstream_full(self) -> None:
        """See Asker."""

    def upstream_ready(self) -> None:
        """See Asker."""


class UpstreamConnection(asyncio.Protocol):
    """A client connection. `start` an exchange; its Asker is called from then on.

    After any error, and after bytes that belong to no exchange, it is never `reusable`.
    """

    __slots__ = (
        "_active_at",
        "_answered",
        "_asker",
        "_buffer",
        "_chunks",
        "_exchanges",
        "_head_bytes",
        "_header_bytes_max",
        "_keep_alive",
        "_last_words",
        "_left",
        "_loop",
        "_on_lost",
        "_owed",
        "_pipe",
        "_read_paused",
        "_to_head",
        "_transport",
        "_upgrading",
        "_uploading",
        "_write_paused",
        "idle_since",
        "target",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        target: Target,
        header_bytes_max: int,
        on_lost: Callable[["UpstreamConnection"], None],
    ) -> None:
        self._loop = loop
        self.target = target
        self._header_bytes_max = header_bytes_max
        self._on_lost = on_lost
        self._asker: Asker | None = None
        self._pipe: Pipe | None = None
        self._last_words: LastWords | None = None
        self._exchanges = 0
        self._read_paused = self._write_paused = False
        self._keep_alive = True
        self._uploading = self._owed = self._to_head = self._upgrading = self._answered = False
        self._buffer = b""
        self._head_bytes = self._left = 0
        self._chunks: ChunkedReader | None = None
        self._active_at = self.idle_since = 0.0

    # The exchange

    def start(
        self, asker: Asker, data: bytes, *, to_head: bool, uploading: bool, upgrading: bool = False
    ) -> None:
        """Send the head of a request and the part of its body that is already there.

        `to_head`: it is a HEAD, whose answer has no body. `uploading`: more of the body follows.
        """
        self._asker = asker
        self._owed = self._keep_alive = True
        self._to_head, self._uploading, self._upgrading = to_head, uploading, upgrading
        self._answered = False
        self._left = 0
        self._head_bytes = 0
        self._chunks = None
        self._active_at = self._loop.time()
        self._exchanges += 1
        if self._transport.is_closing():
            self._loop.call_soon(self._break_off, UpstreamUnreachable(_CUT_OFF))
            return
        self._transport.write(data)
        if uploading:
            self._last_words = LastWords.of(self._transport)

    def write(self, data: bytes) -> None:
        """Send more of the body, framed as its head says, or bytes of an upgraded connection."""
        if not self._transport.is_closing():
            self._transport.write(data)
            self._active_at = self._loop.time()

    def end_upload(self) -> None:
        """The body is complete; from now on the upstream owes an answer."""
        self._uploading = False
        self._forget_last_words()
        self._active_at = self._loop.time()

    def pause(self) -> None:
        """Let the upstream wait: its answer is not taken as fast as it comes."""
        if not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._read_paused:
            self._read_paused = False
            self._active_at = self._loop.time()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def carry(self, pipe: Pipe) -> None:
        """From now on every byte goes to `pipe`."""
        self._pipe, self._asker = pipe, None
        keep_alive(self._transport)
        self._owed = self._keep_alive = False
        if self._write_paused:
            pipe.upstream_full()

    def end_pipe(self) -> None:
        """Close an upgraded connection once what was written to it has left.

        It may not be taken: `silence_s` goes on.
        """
        self._active_at = self._loop.time()
        self._transport.close()

    @property
    def reusable(self) -> bool:
        """An exchange may start: none has, or one ended well on both sides, nothing left over."""
        return (
            self._keep_alive
            and not self._owed
            and not self._uploading
            and not self._write_paused
            and not self._transport.is_closing()
        )

    @property
    def stale(self) -> bool:
        """It was kept alive, and found closed when it was used again: not a byte came back."""
        return self._exchanges > 1 and not self._answered

    @property
    def open(self) -> bool:
        """No end of this connection is known yet."""
        return not self._transport.is_closing()

    def silence_s(self, now: float) -> float:
        """How long the upstream has kept us waiting; 0 while it waits for us or for the client."""
        if self._transport.is_closing():
            return now - self._active_at
        waits_for_client = self._uploading and not self._write_paused
        if not self._owed or self._read_paused or waits_for_client:
            return 0.0
        return now - self._active_at

    def rest(self, now: float) -> None:
        """The exchange is over; the connection is idle from now on."""
        self._asker = None
        self.idle_since = now
        if self._read_paused:
            self.resume()

    def time_out(self) -> None:
        """The upstream was silent for too long."""
        self.fail(UpstreamTimeout("The upstream did not answer in time."))

    def fail(self, error: UpstreamError) -> None:
        """End the exchange with `error`, unless its answer is complete, and the connection."""
        self._keep_alive = False
        self._transport.abort()
        self._break_off(error)

    def close(self) -> None:
        """End the connection; nothing is expected of it any more."""
        self._asker = self._pipe = None
        self._owed = self._keep_alive = False
        self._forget_last_words()
        self._transport.abort()

    def _break_off(self, error: UpstreamError) -> None:
        asker = self._asker
        if self._owed and asker is not None:
            self._owed = False
            asker.failed(error)

    def _forget_last_words(self) -> None:
        if self._last_words is not None:
            self._last_words.close()
            self._last_words = None

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read what came; bytes that nobody asked for end the connection."""
        if self._pipe is not None:
            self._pipe.from_upstream(data)
            return
        if not self._owed:
            self._keep_alive = False
            self._transport.abort()
            return
        self._active_at = self._loop.time()
        if self._left == 0:
            self._read_heads(data)
        else:
            self._read_body(data)

    def eof_received(self) -> None:
        """The upstream will send no more: the end of the answer, or an answer cut short."""
        self._end(whole=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; whoever waits is told."""
        if self._last_words is not None and self._owed:
            for data in self._last_words.read():
                self.data_received(data)
        self._forget_last_words()
        self._end(whole=exc is None)
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The upstream reads more slowly than the client sends."""
        self._write_paused = True
        listener = self._pipe or self._asker
        if listener is not None:
            listener.upstream_full()

    def resume_writing(self) -> None:
        """There is room again."""
        self._write_paused = False
        self._active_at = self._loop.time()
        listener = self._pipe or self._asker
        if listener is not None:
            listener.upstream_ready()

    def _end(self, *, whole: bool) -> None:
        self._keep_alive = False
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            pipe.upstream_ended()
        elif self._owed and self._left == UNTIL_CLOSE and whole:
            self._give(b"", complete=True)
        else:
            self._break_off(UpstreamUnreachable(_CUT_OFF))

    # The answer

    def _read_heads(self, data: bytes) -> None:
        """Read heads until the final one is there, and what follows it."""
        asker = self._asker
        assert asker is not None  # noqa: S101 - an answer is owed to somebody
        self._answered = True
        data = self._buffer + data
        while self._owed:
            end = data.find(_HEAD_END) + len(_HEAD_END)
            if end < len(_HEAD_END):
                end = 0
            self._head_bytes += end
            if self._head_bytes + (0 if end else len(data)) > self._header_bytes_max:
                return self._refuse(_TOO_LARGE)
            if not end:
                self._buffer = data
                sound = data.startswith(_BEGINNING[: len(data)]) and not LONE_LINE_FEED.search(data)
                return None if sound else self._refuse(_NO_HTTP)
            self._buffer = b""
            raw = data[:end]
            head = parse_response(raw)
            data = data[end:]
            if isinstance(head, str):
                return self._refuse(head)
            if head.status >= _FINAL_FROM:
                return self._final(asker, head, raw, data)
            if head.status == _SWITCHING:
                return self._switch(asker, head, data)
            asker.interim(head)
        return None

    def _switch(self, asker: Asker, head: ResponseHead, rest: bytes) -> None:
        if not self._upgrading or b"websocket" not in tokens(head, b"upgrade"):
            return self._refuse(_UNASKED)
        return asker.upgraded(head, rest)

    def _final(self, asker: Asker, head: ResponseHead, raw: bytes, data: bytes) -> None:
        length = response_length(head, to_head=self._to_head)
        self._keep_alive = length != UNTIL_CLOSE and _persistent(head)
        self._left = _IN_CHUNKS if length is None else length
        body, complete = self._body(data)
        if complete is None:
            return None
        if complete:
            self._owed = False
        trailers = self._chunks.trailers if self._chunks is not None else NO_FIELDS
        return asker.answered(head, length, body, complete=complete, trailers=trailers, raw=raw)

    def _read_body(self, data: bytes) -> None:
        body, complete = self._body(data)
        if complete is not None and (body or complete):
            self._give(body, complete=complete)

    def _body(self, data: bytes) -> tuple[bytes, bool | None]:
        """What of `data` is body, and whether it is complete; None if it was refused."""
        left = self._left
        if left >= 0:
            if len(data) > left:  # a second answer to one request: the sides disagree
                data, self._keep_alive = data[:left], False
            self._left = left - len(data)
            return data, self._left == 0
        if left == UNTIL_CLOSE:
            return data, False
        reader = self._chunks
        if reader is None:
            reader = self._chunks = ChunkedReader(
                line_bytes_max=CHUNK_LINE_BYTES_MAX, trailers_bytes_max=self._header_bytes_max
            )
        body = reader.feed(data) if data else b""
        if reader.problem is not None:
            self._refuse(reader.problem)
            return b"", None
        if reader.complete and reader.rest:
            self._keep_alive = False
        return body, reader.complete

    def _give(self, body: bytes, *, complete: bool) -> None:
        asker = self._asker
        assert asker is not None  # noqa: S101 - an answer is owed to somebody
        trailers = self._chunks.trailers if self._chunks is not None else NO_FIELDS
        if complete:
            self._owed = False
        asker.carried(body, complete=complete, trailers=trailers)

    def _refuse(self, what: str) -> None:
        """The answer cannot be understood."""
        self.fail(UpstreamError(f"The answer of the upstream cannot be understood. {what}"))


def _persistent(head: ResponseHead) -> bool:
    """Whether the connection outlives this answer (RFC 9112, section 9.3)."""
    if head.minor == 0:
        return False
    return b"connection" not in head.named or b"close" not in tokens(head, b"connection")
