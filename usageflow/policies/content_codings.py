"""The content codings gzip, deflate, br and zstd, undone in small steps.

The packages for br and zstd are optional and loaded when a message needs them. Bounds each step,
not their sum; see `decoding`.

Sources: RFC 1950 to 1952 (gzip, deflate); RFC 7932 (br); RFC 8878, RFC 9659 (zstd).
"""

import importlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, Final, Protocol

INPUT_SLICE_BYTES: Final = 16_384
"""Bytes given to a codec at once: input can take time without making output."""
OUTPUT_SLICE_BYTES: Final = 32_000
"""Bytes taken from a codec at once; a little less than brotli's first buffer, which is 32 KiB."""
ZSTD_WINDOW_LOG_MAX: Final = 23
"""A window of 8 MiB, the largest one that RFC 9659 allows in HTTP."""


class Codec(Protocol):
    """Undoes one encoding."""

    error: type[Exception]
    """What `slices` raises for data that is not in this encoding."""

    @property
    def complete(self) -> bool:
        """Whether the data may end here."""

    def slices(self, data: bytes) -> Iterator[bytes]:
        """What this data decodes to: a piece, perhaps empty, after each small step of work."""


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


CODECS: Final[Mapping[bytes, Callable[[], Codec | None]]] = {
    b"gzip": lambda: Zlib(_gzip_wbits),
    b"x-gzip": lambda: Zlib(_gzip_wbits),
    b"deflate": lambda: Zlib(_deflate_wbits),
    b"br": _brotli,
    b"zstd": _zstd,
}
"""How to begin with each coding; None without its package."""
