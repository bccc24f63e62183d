"""Content encodings undone for measuring: a body decoded as it comes, bounded in bytes and time.

Looks at the clock between the small steps of the codings, so that a bomb ends within its limits
however it is nested. Does not change what passes, and does not know what the decoded bytes mean.

Source: RFC 9110, section 8.4.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from usageflow._types import Headers
from usageflow.policies.content_codings import CODECS, Codec
from usageflow.policies.reason import Reason

ENCODINGS_MAX: Final = 3
"""Encodings on top of each other: a second one is rare, more are there to cost."""
HEADER_BYTES_MAX: Final = 100
"""Longest Content-Encoding that is looked into; the longest useful one has a third of it."""
FEED_CPU_S_MAX: Final = 0.02
"""Processor time for one chunk: the app's other requests wait for it."""

_HEADER: Final = b"content-encoding"
_HEADER_CHARS: Final = len(_HEADER)
_TOO_MANY: Final = Reason(f"has more than {ENCODINGS_MAX} content encodings")


class Decoder:
    """Decodes the body of one message as it comes; see `open_decoder`.

    `problem` says why the content cannot be used; from then on nothing is decoded.
    """

    __slots__ = (
        "_begun",
        "_bytes_max",
        "_codecs",
        "_cpu_s",
        "_cpu_s_max",
        "_left_s",
        "_made",
        "_total",
        "problem",
    )

    def __init__(
        self,
        codecs: Sequence[Codec],
        *,
        bytes_max: int,
        cpu_s_max: float,
        total: bool,
        cpu_s: Callable[[], float],
    ) -> None:
        """`codecs` in the order in which they are to undo."""
        self.problem: str | None = None
        self._codecs = codecs
        self._bytes_max = bytes_max
        self._cpu_s_max = cpu_s_max
        self._total = total
        self._cpu_s = cpu_s
        self._begun = False
        self._made = 0
        self._left_s = cpu_s_max

    def feed(self, chunk: bytes) -> bytes:
        """What these bytes decode to; at a problem, what came before it."""
        if self.problem is not None or not chunk:
            return b""
        self._begun = True
        if not self._total:
            self._made = 0
        decoded: list[bytes] = []
        try:
            self._decode(chunk, decoded)
        except tuple(codec.error for codec in self._codecs):
            self._stop("cannot be decoded as its content encoding says")
        return b"".join(decoded)

    def end(self) -> None:
        """All bytes were fed; an encoding that has not ended is a problem."""
        if self._begun and not all(codec.complete for codec in self._codecs):
            self._stop("ends before its content encoding does")

    def _decode(self, chunk: bytes, decoded: list[bytes]) -> None:
        pieces: Iterator[bytes] = iter((chunk,))
        for codec in self._codecs:
            pieces = chain.from_iterable(map(codec.slices, pieces))
        began_s = self._cpu_s()
        for piece in pieces:
            spent_s = self._cpu_s() - began_s
            self._made += len(piece)
            if self._made > self._bytes_max:
                self._stop(f"decodes to more than decoded_bytes_max ({self._bytes_max} bytes)")
                return
            if spent_s > self._left_s:
                self._stop(f"takes more than decode_cpu_s_max ({self._cpu_s_max:g} s) to decode")
                return
            if spent_s > FEED_CPU_S_MAX:
                self._stop(f"takes more than {FEED_CPU_S_MAX:g} s to decode in one piece")
                return
            decoded.append(piece)
        if self._total:
            self._left_s -= self._cpu_s() - began_s

    def _stop(self, problem: str) -> None:
        self.problem = problem
        self._codecs = ()  # a window of some megabytes each


def open_decoder(
    headers: Headers,
    *,
    bytes_max: int,
    cpu_s_max: float,
    total: bool = True,
    cpu_s: Callable[[], float] = time.thread_time,
) -> Decoder | Reason | None:
    """What undoes the encodings these headers tell of: None if there are none, or why it cannot.

    It stops at `bytes_max` decoded bytes, and after `cpu_s_max` of the clock `cpu_s`: of the whole
    body, or with `total=False` of each chunk, because a stream of events may go on for hours.
    """
    value = b",".join(
        value for name, value in headers if len(name) == _HEADER_CHARS and name.lower() == _HEADER
    )
    if not value:
        return None
    if len(value) > HEADER_BYTES_MAX:
        return _TOO_MANY
    names = [name.strip().lower() for name in value.split(b",")]
    names = [name for name in names if name not in (b"", b"identity")]
    if len(names) > ENCODINGS_MAX:
        return _TOO_MANY
    codecs: list[Codec] = []
    for name in reversed(names):
        if name not in CODECS:
            return Reason("its content encoding is none of gzip, deflate, br and zstd")
        codec = CODECS[name]()
        if codec is None:
            return Reason('needs a package to be decoded: pip install "usageflow[encodings]"')
        codecs.append(codec)
    if not codecs:
        return None
    return Decoder(codecs, bytes_max=bytes_max, cpu_s_max=cpu_s_max, total=total, cpu_s=cpu_s)
