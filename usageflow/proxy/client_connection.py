"""One connection of a client: the server's side of HTTP/1.1, one request at a time.

Reads heads strictly, carries bodies, keeps the limits of size and time, and closes in ways that
lose no answer. What becomes of a request is its Transit's business.
"""

import asyncio
import fcntl
import math
import socket
import struct
import termios
from typing import TYPE_CHECKING, Final, cast

from usageflow.proxy.chunked import ChunkedReader
from usageflow.proxy.heads import LONE_LINE_FEED, Fields, RequestHead, parse_request
from usageflow.proxy.refusals import Refusal, refusal_bytes
from usageflow.proxy.transit import Transit
from usageflow.proxy.tunnel import Tunnel, keep_alive
from usageflow.proxy.upstream_connection import CHUNK_LINE_BYTES_MAX

if TYPE_CHECKING:
    from usageflow.proxy.gateway import Gateway

TRAILERS_BYTES_MAX: Final = 4_096
"""Largest trailers of a request. They are dropped, and looked at again with each piece of them."""
_HEAD_END: Final = b"\r\n\r\n"
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time: closing resets, so that the client sees no orderly end."""
_COUNT: Final = struct.Struct("i")
_NEVER: Final = math.inf

_TOO_LONG: Final = Refusal(414, "request_line_too_long", "The request line is too long.")
_TOO_LARGE: Final = Refusal(431, "header_too_large", "The header fields are too large.")
_LINE_FEED: Final = Refusal(400, "bare_line_feed", "A line must end with CR and LF.")
_SLOW_HEAD: Final = Refusal(408, "header_timeout", "The head of the request took too long.")
_SLOW_BODY: Final = Refusal(408, "body_timeout", "The body of the request stopped coming.")
_SLOW: Final = Refusal(504, "request_timeout", "The request and its answer took too long.")
_BODY_TOO_LARGE: Final = Refusal(413, "body_too_large", "The body of the request is too large.")
_STOPPED: Final = Refusal(502, "upstream_unreachable", "The proxy is shutting down.")


class ClientConnection(asyncio.Protocol):
    """The protocol that a listening socket makes for each connection."""

    __slots__ = (
        "_body_bytes",
        "_buffer",
        "_carried",
        "_chunks",
        "_closing",
        "_deadline_s",
        "_full",
        "_gateway",
        "_left",
        "_opening",
        "_paused",
        "_reading_body",
        "_request_deadline_s",
        "_scanned",
        "_transit",
        "_transport",
        "_tunnel",
        "_unsent_bytes",
        "_write_deadline_s",
        "admitted",
        "forwarded",
        "keep",
        "peer",
        "secure",
        "trusted",
    )

    _transport: asyncio.Transport

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._buffer = b""
        self._transit: Transit | None = None
        self._tunnel: Tunnel | None = None
        self._carried: Transit | None = None
        self._chunks: ChunkedReader | None = None
        self._opening: RequestHead | None = None
        self._left = self._body_bytes = self._unsent_bytes = self._scanned = 0
        self._reading_body = self._paused = self._full = self._closing = False
        self._deadline_s = self._request_deadline_s = self._write_deadline_s = _NEVER
        self.keep = True
        self.peer = ""
        self.admitted = self.secure = self.trusted = False
        self.forwarded: tuple[bytes, Fields, Fields] | None = None

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be admitted, or be told why not."""
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else "unix"
        self.secure = transport.get_extra_info("sslcontext") is not None
        self._gateway.join(self)
        refusal = None if self.admitted else self._gateway.admit(self)
        if refusal is not None:
            self._turn_away(refusal)
            return
        self._deadline_s = self._gateway.first_head_until()

    def data_received(self, data: bytes) -> None:
        """Read the next part of whatever is due."""
        if self._tunnel is not None and self._carried is not None:
            self._carried.bytes_in += len(data)
            self._tunnel.from_client(data)
        elif self._reading_body:
            self._read_body(data)
        elif self._closing:
            return
        elif self._transit is not None:
            self._buffer += data
            if len(self._buffer) > self._gateway.settings.request_header_bytes_max:
                self.pause()
        else:
            self._read_head(self._buffer + data if self._buffer else data)

    def eof_received(self) -> None:
        """A client that sends no more has left: nothing tells it from one that only stopped
        sending, and its answer is work that nobody may be waiting for.
        """
        if self._transit is not None:
            transit, self._transit = self._transit, None
            transit.client_left()
        elif self._tunnel is not None:
            self._tunnel.client_ended()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is gone."""
        self.eof_received()
        if self._carried is not None:
            self._gateway.journal.tunnel_ended(self._carried, self.peer)
        self._gateway.forget(self)

    def pause_writing(self) -> None:
        """The client reads more slowly than the upstream answers."""
        self._full = True
        self._unsent_bytes = _unsent_bytes(self._transport)
        self._write_deadline_s = self._gateway.now() + self._gateway.settings.client_write_timeout_s
        if self._transit is not None:
            self._transit.client_full()
        elif self._tunnel is not None:
            self._tunnel.client_full()

    def resume_writing(self) -> None:
        """There is room again."""
        self._full = False
        self._write_deadline_s = _NEVER
        if self._transit is not None:
            self._transit.client_ready()
        elif self._tunnel is not None:
            self._tunnel.client_ready()
        elif not self._reading_body and not self._closing:
            self._go_on()

    # The gateway calls these

    def check(self, now: float) -> None:
        """See whether a time has run out."""
        if now >= self._deadline_s:
            self._expire(now)
        elif now >= self._request_deadline_s:
            self._request_deadline_s = _NEVER
            if self._transit is not None:
                self._transit.refuse(_SLOW)
        elif now >= self._write_deadline_s:
            self._look_at_reader(now)

    def retire(self, deadline_s: float) -> None:
        """The proxy stops: the connection ends after the request it has, or the next one."""
        idle = self._transit is None and self._tunnel is None
        if idle and not self._closing and not self._buffer:
            self._deadline_s = min(self._deadline_s, deadline_s)

    def end(self) -> None:
        """The proxy stops and waits no longer: a request is answered by it, or its answer cut."""
        if self._tunnel is not None and self._carried is not None:
            self._carried.aborted = _STOPPED.message
            self._tunnel.drain()
        elif self._transit is not None:
            self._closing = True
            self._transit.refuse(_STOPPED)
        else:
            self._close()

    def abort(self) -> None:
        """The proxy has stopped."""
        self._transport.abort()

    # The transit calls these

    def write(self, data: bytes) -> None:
        """See transit.Client."""
        if data and not self._transport.is_closing():
            if self._tunnel is not None and self._carried is not None:
                self._carried.bytes_out += len(data)
            self._transport.write(data)

    def pause(self) -> None:
        """See transit.Client."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._deadline_s = _NEVER
            self._transport.pause_reading()

    def resume(self) -> None:
        """See transit.Client."""
        if self._paused:
            self._paused = False
            if self._reading_body:
                self._deadline_s = self._gateway.now() + self._body_timeout_s
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def carry(self, tunnel: Tunnel, transit: Transit) -> None:
        """See transit.Client."""
        self._tunnel, self._carried = tunnel, transit
        self._transit = None
        keep_alive(self._transport)
        self._request_deadline_s = _NEVER
        self._gateway.journal.tunnel_began()
        if self._full:
            tunnel.client_full()
        self.resume()
        data, self._buffer = self._buffer, b""
        if data:
            self.data_received(data)

    def end_pipe(self) -> None:
        """See tunnel.Side."""
        self._close()

    def done(self, *, keep: bool) -> None:
        """See transit.Client."""
        self._transit = None
        self.keep = keep
        self._request_deadline_s = _NEVER
        if self._reading_body:
            self._linger()
        else:
            self._go_on()

    def cut(self, *, reset: bool) -> None:
        """See transit.Client."""
        self._transit = None
        self._closing = True
        if not reset:
            self._close()
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # Reading

    def _read_head(self, data: bytes) -> None:
        if data[:2] == b"\r\n" and not self._scanned:  # RFC 9112, section 2.2: it is nothing
            data = data[2:]
        end = data.find(_HEAD_END, self._scanned) + len(_HEAD_END)
        if end < len(_HEAD_END):
            self._await_head(data)
            return
        self._scanned = 0
        settings = self._gateway.settings
        if end > settings.request_header_bytes_max:
            self._turn_away(_TOO_LARGE)
            return
        head = parse_request(
            data[:end],
            line_bytes_max=settings.request_line_bytes_max,
            fields_max=settings.request_headers_max,
        )
        if isinstance(head, Refusal):
            self._turn_away(head)
        else:
            self._begin(head, data[end:])

    def _await_head(self, data: bytes) -> None:
        """Keep an incomplete head, unless it can never become a good one.

        What was looked at is not looked at again: one that comes byte by byte costs no more.
        """
        settings = self._gateway.settings
        if not self._buffer and data:
            self._deadline_s = self._gateway.now() + settings.client_header_timeout_s
        self._buffer = data
        scanned, self._scanned = self._scanned, max(len(data) - len(_HEAD_END), 0)
        if LONE_LINE_FEED.search(data, scanned):
            self._turn_away(_LINE_FEED)
        elif len(data) > settings.request_line_bytes_max and b"\r\n" not in data:
            self._turn_away(_TOO_LONG)
        elif len(data) > settings.request_header_bytes_max:
            self._turn_away(_TOO_LARGE)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        gateway = self._gateway
        length = head.body_bytes
        self._body_bytes = 0
        self._deadline_s = _NEVER
        if gateway.settings.request_timeout_s is not None:
            self._request_deadline_s = gateway.now() + gateway.settings.request_timeout_s
        bytes_max = gateway.settings.request_body_bytes_max
        if length is not None and bytes_max is not None and length > bytes_max:
            self._turn_away(_BODY_TOO_LARGE, head)
            return
        if length == 0:
            self._buffer = rest
            self._transit = gateway.transit(self, head)
            self._transit.begin(b"", more=False)
            return
        self._buffer = b""
        self._reading_body = True
        self._deadline_s = gateway.now() + self._body_timeout_s
        self._left = length or 0
        self._chunks = None if length is not None else self._chunked_reader()
        self._opening = head
        part = self._take(rest)
        self._opening = None
        if not self._closing:
            self._transit = gateway.transit(self, head)
            self._transit.begin(part, more=self._reading_body)

    def _read_body(self, data: bytes) -> None:
        transit = self._transit
        if transit is not None:
            self._deadline_s = self._gateway.now() + self._body_timeout_s
        part = self._take(data)
        if self._closing:
            return
        if transit is None:
            if not self._reading_body:
                self._go_on()  # the rest of an upload that was answered early has come after all
        elif part or not self._reading_body:
            transit.upload(part, more=self._reading_body)

    def _take(self, data: bytes) -> bytes:
        """What of `data` is body; the rest is kept, and the end of the body noted."""
        if self._chunks is None:
            left = self._left
            if len(data) < left:
                self._left = left - len(data)
                return data
            self._end_body(data[left:])
            return data if len(data) == left else data[:left]
        return self._take_chunks(self._chunks, data)

    def _take_chunks(self, reader: ChunkedReader, data: bytes) -> bytes:
        part = reader.feed(data)
        self._body_bytes += len(part)
        bytes_max = self._gateway.settings.request_body_bytes_max
        if reader.problem is not None:
            self._spoil(Refusal(400, "invalid_chunk", reader.problem))
        elif bytes_max is not None and self._body_bytes > bytes_max:
            self._spoil(_BODY_TOO_LARGE)
        elif reader.complete:
            self._end_body(reader.rest)
        return part

    def _end_body(self, rest: bytes) -> None:
        self._reading_body = False
        self._chunks = None
        self._deadline_s = _NEVER
        self._buffer = rest

    def _spoil(self, refusal: Refusal) -> None:
        """The body cannot be carried on; nothing after it can be understood."""
        self._reading_body = False
        self._closing = True
        if self._transit is not None:
            self._transit.refuse(refusal)
        elif self._opening is not None:  # the upstream has not heard of it, nor have the policies
            self._turn_away(refusal, self._opening)
        else:
            self._shut()

    def _chunked_reader(self) -> ChunkedReader:
        return ChunkedReader(
            line_bytes_max=CHUNK_LINE_BYTES_MAX,
            trailers_bytes_max=TRAILERS_BYTES_MAX,
        )

    @property
    def _body_timeout_s(self) -> float:
        return self._gateway.settings.client_body_timeout_s

    # Ending

    def _go_on(self) -> None:
        """The request is over on both sides. The next one has to wait until its answer is read, or
        answers would pile up.
        """
        if not self.keep or self._closing:
            self._shut()
            return
        if self._full:
            self.pause()
            return
        self._deadline_s = self._gateway.idle_until()
        self.resume()
        if self._buffer:
            # Not called at once: answers that need no upstream would recurse.
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._transit is None and not self._closing and not self._transport.is_closing():
            data, self._buffer = self._buffer, b""
            self._read_head(data)

    def _linger(self) -> None:
        """The answer is complete, the upload is not: read the rest away, for a while.

        Closing at once would reset the connection, and the client might lose the answer.
        """
        if not self.keep:
            self._shut()
            return
        self.resume()
        self._limit_end()

    def _turn_away(self, refusal: Refusal, head: RequestHead | None = None) -> None:
        """Answer what never became a request, and close."""
        self._gateway.journal.turned_away(self.peer, refusal, head)
        self.write(refusal_bytes(refusal))
        self._closing = True
        self._shut()

    def _shut(self) -> None:
        """Close so that the client can read what was written: stop sending, then wait for its end.

        Closing at once would reset the connection if more were to come, and the answer might be
        lost. TLS cannot be half closed: it is closed at once only if the request was whole.
        """
        unread = self._reading_body or self._closing
        self._closing = True
        self._reading_body = False
        self._buffer = b""
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        elif not unread:
            self._close()
            return
        self.resume()
        self._limit_end()

    def _close(self) -> None:
        """Close once what was written has left."""
        self._transport.close()
        self._limit_end()

    def _limit_end(self) -> None:
        self._deadline_s = self._gateway.now() + self._gateway.settings.client_linger_s

    def _expire(self, now: float) -> None:
        self._deadline_s = _NEVER
        transit = self._transit
        if transit is not None:
            self._reading_body = False
            self._closing = True
            transit.refuse(_SLOW_BODY)
        elif self._buffer and not self._closing and not self._reading_body:
            self._turn_away(_SLOW_HEAD)
        elif self._full or self._reads():  # not idle: it has not got all of its answer yet
            self._deadline_s = now + self._gateway.settings.client_write_timeout_s
        else:
            self._transport.abort()

    def _look_at_reader(self, now: float) -> None:
        if self._reads():
            self._write_deadline_s = now + self._gateway.settings.client_write_timeout_s
            return
        self._write_deadline_s = _NEVER
        self._transport.abort()

    def _reads(self) -> bool:
        """Whether the client took some of what is left for it since this was asked last.

        One that takes a little now and then is slow, not gone.
        """
        before, self._unsent_bytes = self._unsent_bytes, _unsent_bytes(self._transport)
        return self._unsent_bytes not in (0, before)


def _unsent_bytes(transport: asyncio.Transport) -> int:
    """What was written and has not arrived yet.

    The kernel holds most of it, and takes more only when much of that has left.
    """
    handle = transport.get_extra_info("socket").fileno()
    queued = fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(_COUNT.size))
    return transport.get_write_buffer_size() + int(_COUNT.unpack(queued)[0])
