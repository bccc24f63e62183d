"""Content encodings undone for measuring: gzip, deflate, br and zstd, bounded in bytes and time.

Works in small slices and looks at the clock between them, so that a bomb ends within its limits
however it is nested. The packages for br and zstd are optional, loaded when a message needs them.
Does not change what passes, and does not know what the decoded bytes mean.

Sources: RFC 9110, section 8.4 (content encodings); RFC 1950 to 1952; RFC 7932; RFC 8878, RFC 9659.
"""

import importlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from types import ModuleType
from typing import Any, Final, Protocol

from usageflow._types import Headers
from usageflow.policies.reason import Reason

ENCODINGS_MAX: Final = 3
"""Encodings on top of each other: a second one is rare, more are there to cost."""
HEADER_BYTES_MAX: Final = 100
"""Longest Content-Encoding that is looked into; the longest useful one has a third of it."""
INPUT_SLICE_BYTES: Final = 16_384
"""Bytes given to a codec at once: input can take time without making output."""
OUTPUT_SLICE_BYTES: Final = 32_000
"""Bytes taken from a codec at once; a little less than brotli's first buffer, which is 32 KiB."""
FEED_CPU_S_MAX: Final = 0.02
"""Processor time for one chunk: the app's other requests wait for it."""
ZSTD_WINDOW_LOG_MAX: Final = 23
"""A window of 8 MiB, the largest one that RFC 9659 allows in HTTP."""

_HEADER: Final = b"content-encoding"
_HEADER_CHARS: Final = len(_HEADER)


class Codec(Protocol):
    """Undoes one encoding."""

    error: type[Exception]
    """What `slices` raises for data that is not in this encoding."""

    @property
    def complete(self) -> bool:
        """Whether the data may end here."""

    def slices(self, data: bytes) -> Iterator[bytes]:
        """What this data decodes to: a piece, perhaps empty, after each small step of work."""


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


class Zlib:
    """gzip and deflate: one member after another, until something else follows, which is ignored.

    `wbits_of` is given two bytes and whether they begin the first member, and answers with zlib's
    `wbits` to read a member with; None if they begin none.
    """

    error: type[Exception] = zlib.error

    def __init__(self, wbits_of: Callable[[bytes, bool], int | None]) -> None:
        self._wbits_of = wbits_of
        self._member: Any = None  # zlib's type of it has no public name
        self._members = 0
        self._head = b""
        self._over = False

    @property
    def complete(self) -> bool:
        """See Codec."""
        return self._member is None and self._members > 0

    def slices(self, data: bytes) -> Iterator[bytes]:
        """See Codec."""
        for cut in _cuts(data):
            rest = cut
            while True:
                rest = rest if self._member is not None else self._open(rest)
                if self._member is None:
                    yield b""
                    break
                made = self._member.decompress(rest, OUTPUT_SLICE_BYTES)
                yield made
                if self._member.eof:
                    rest, self._member = self._member.unused_data, None
                else:
                    rest = self._member.unconsumed_tail
                if not rest and len(made) < OUTPUT_SLICE_BYTES:
                    break

    def _open(self, data: bytes) -> bytes:
        """Begin a member if these bytes do; what to give to it."""
        if self._over:
            return b""
        self._head += data
        if len(self._head) < 2:  # noqa: PLR2004 - the bytes that tell what follows
            return b""
        data, self._head = self._head, b""
        wbits = self._wbits_of(data[:2], self._members == 0)
        if wbits is None:
            self._over = True
            return b""
        self._member = zlib.decompressobj(wbits)
        self._members += 1
        return data


class Brotli:
    """br: one stream, and nothing after it.

    It gives nothing until its window, of at most 16 MiB, is full: the step that costs most.
    """

    def __init__(self, brotli: Any) -> None:
        self.error: type[Exception] = brotli.error
        self._stream = brotli.Decompressor()

    @property
    def complete(self) -> bool:
        """See Codec."""
        return bool(self._stream.is_finished())

    def slices(self, data: bytes) -> Iterator[bytes]:
        """See Codec."""
        for cut in _cuts(data):
            made = self._stream.process(cut, output_buffer_limit=OUTPUT_SLICE_BYTES)
            yield made
            # It may hold output without holding input.
            while len(made) >= OUTPUT_SLICE_BYTES or not self._stream.can_accept_more_data():
                made = self._stream.process(b"", output_buffer_limit=OUTPUT_SLICE_BYTES)
                yield made


class Zstd:
    """zstd: one frame after another, and nothing after them."""

    def __init__(self, zstd: Any) -> None:
        self.error: type[Exception] = zstd.ZstdError
        self._options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}
        self._new = zstd.ZstdDecompressor
        self._frame: Any = None

    @property
    def complete(self) -> bool:
        """See Codec."""
        return self._frame is None

    def slices(self, data: bytes) -> Iterator[bytes]:
        """See Codec."""
        for cut in _cuts(data):
            rest = cut
            while rest or self._frame is not None:
                frame = self._frame = self._frame or self._new(options=self._options)
                yield frame.decompress(rest, OUTPUT_SLICE_BYTES)
                if frame.eof:
                    rest, self._frame = frame.unused_data, None
                elif frame.needs_input:
                    break
                else:
                    rest = b""
            yield b""


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
        if name not in _CODECS:
            return Reason("its content encoding is none of gzip, deflate, br and zstd")
        codec = _CODECS[name]()
        if codec is None:
            return Reason('needs a package to be decoded: pip install "usageflow[encodings]"')
        codecs.append(codec)
    if not codecs:
        return None
    return Decoder(codecs, bytes_max=bytes_max, cpu_s_max=cpu_s_max, total=total, cpu_s=cpu_s)


def _cuts(data: bytes) -> Iterator[bytes]:
    """The data in slices; one that is empty if there is none, as each must take a step."""
    return (data[at : at + INPUT_SLICE_BYTES] for at in range(0, len(data) or 1, INPUT_SLICE_BYTES))


def _gzip_wbits(head: bytes, first: bool) -> int | None:  # noqa: FBT001 - see Zlib
    """Another member begins with the magic number; browsers ignore padding and the like."""
    return zlib.MAX_WBITS | 16 if first or head == b"\x1f\x8b" else None


def _deflate_wbits(head: bytes, first: bool) -> int | None:  # noqa: FBT001 - see Zlib
    """With the header of RFC 1950 or, against RFC 9110, without: servers send both."""
    if not first:
        return None
    method, check = head[0] & 0x0F, int.from_bytes(head) % 31
    return zlib.MAX_WBITS if (method, check) == (8, 0) else -zlib.MAX_WBITS


def _brotli() -> Codec | None:
    brotli = _loaded("brotli")
    # Other packages of this name, and versions before 1.2, cannot be told to stop.
    bounded = hasattr(getattr(brotli, "Decompressor", None), "can_accept_more_data")
    return Brotli(brotli) if bounded else None


def _zstd() -> Codec | None:
    zstd = _loaded("compression.zstd") or _loaded("backports.zstd")
    return None if zstd is None else Zstd(zstd)


@cache
def _loaded(name: str) -> ModuleType | None:
    """An optional package; looked for once."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_TOO_MANY: Final = Reason(f"has more than {ENCODINGS_MAX} content encodings")
_CODECS: Final[Mapping[bytes, Callable[[], Codec | None]]] = {
    b"gzip": lambda: Zlib(_gzip_wbits),
    b"x-gzip": lambda: Zlib(_gzip_wbits),
    b"deflate": lambda: Zlib(_deflate_wbits),
    b"br": _brotli,
    b"zstd": _zstd,
}
