"""Chunked bodies (RFC 9112, section 7.1), read strictly and written. Pure: bytes in, bytes out.

It keeps no body: what a piece holds of it is given out at once. Limits of bodies are not its own.
"""

import re
from collections.abc import Iterable
from typing import Final

from usageflow.proxy.heads import TEXT, TOKEN, Fields, read_fields
from usageflow.proxy.refusals import Refusal

_QUOTED: Final = (
    rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'  # RFC 9110, 5.6.4
)
# A size line is read together with the line end of the chunk before it.
_SIZE: Final = re.compile(
    rb"\r\n([0-9A-Fa-f]{1,15})(?:;%b++(?:=(?:%b++|%b))?)*+\r\n" % (TOKEN, TOKEN, _QUOTED)
)
_SIZE_BEGUN: Final = re.compile(
    rb"(?:\r(?:\n(?:[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e\x80-\xff]*+)?\r?)?)?)?"
)

_TRAILERS_BEGUN: Final = re.compile(
    rb"\r\n(?:%b++:%b*+\r\n)*+(?:\r|%b++(?::%b*+\r?)?)?" % (TOKEN, TEXT, TOKEN, TEXT)
)

_LINE_ENDS: Final = b"\r\n\r\n"
"""What surrounds a size line or trailers, and does not count in their limits."""

_DROPPED: Final = frozenset(
    {
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields with a meaning for framing, routing or trust: never taken from a trailer section
(RFC 9110, section 6.5.1)."""


class ChunkedReader:
    """Reads one chunked body, piece by piece, however it was cut.

    When `complete`, `rest` is what followed the body and `trailers` are the fields at its end.
    A `problem` says in words what is wrong; nothing is read after it. `line_bytes_max` limits a
    size line with its extensions, which are dropped; `trailers_bytes_max` limits the trailers.
    """

    __slots__ = (
        "_in_trailers",
        "_left",
        "_line_bytes_max",
        "_pending",
        "_trailers_bytes_max",
        "complete",
        "problem",
        "rest",
        "trailers",
    )

    def __init__(self, *, line_bytes_max: int, trailers_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._trailers_bytes_max = trailers_bytes_max
        self._left = 0
        self._pending = b"\r\n"  # as if a chunk had just ended
        self._in_trailers = False
        self.complete = False
        self.rest = b""
        self.trailers: Fields = []
        self.problem: str | None = None

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in `data`; the same object if it lies within one chunk."""
        if self._left >= len(data):
            self._left -= len(data)
            return data
        if self.complete:
            self.rest += data
        if self.complete or self.problem:
            return b""
        parts = [data[: self._left]] if self._left else []
        at = self._left
        self._left = 0
        if self._pending:
            data = self._pending + data
            self._pending = b""
        if not self._in_trailers:
            at = self._read_chunks(data, at, parts)
        if self._in_trailers:
            self._read_trailers(data[at:])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_chunks(self, data: bytes, at: int, parts: list[bytes]) -> int:
        """Read from the end of a chunk on; returns where the trailers begin, if it comes to them.

        The line end before the trailers is given to them: it may be half of what ends them.
        """
        while size_line := _SIZE.match(data, at):
            start = size_line.end()
            if start - at > self._line_bytes_max + len(_LINE_ENDS):
                break
            size = int(size_line[1], 16)
            if not size:
                self._in_trailers = True
                return start - len(b"\r\n")
            at = start + size
            parts.append(data[start:at])
            if at > len(data):
                self._left = at - len(data)
                return at
        if not self._waits(data[at:], _SIZE_BEGUN, self._line_bytes_max):
            self._fail("A chunk does not begin with a valid size.")
        return at

    def _read_trailers(self, data: bytes) -> None:
        section, blank_line, rest = data.partition(_LINE_ENDS)
        if not blank_line and self._waits(data, _TRAILERS_BEGUN, self._trailers_bytes_max):
            return
        fields = read_fields(section + blank_line, len(b"\r\n"))
        if isinstance(fields, Refusal) or len(section) > self._trailers_bytes_max:
            self._fail("The trailers are not valid, or too large.")
            return
        self.trailers = [field for field in fields if field[0].lower() not in _DROPPED]
        self.rest = rest
        self.complete = True

    def _waits(self, begun: bytes, shape: re.Pattern[bytes], bytes_max: int) -> bool:
        """Keep the beginning of something for the next piece, if it can still become right."""
        self._pending = begun
        return len(begun) <= bytes_max + len(_LINE_ENDS) and shape.fullmatch(begun) is not None

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self._pending = b""


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % field for field in trailers)
