"""The frames of a WebSocket, read as they pass by: bytes in, complete messages out. Pure.

For measuring only: it changes nothing, answers nothing and keeps nothing beyond its bounds. What
breaks the rules is not mended but named, and from then on not read. Two things are read as every
receiver reads them although the RFC forbids them to senders: a length written with more bytes than
it needs, and a text that is no UTF-8.

Sources: RFC 6455, section 5 (frames); RFC 7692, section 7 (permessage-deflate).
"""

import zlib
from typing import Final, Literal, NamedTuple, TypeAlias

from usageflow._types import Headers
from usageflow.policies.reason import Reason

Look: TypeAlias = Literal["count", "size", "content"]
"""What is asked of messages: how many they are, also how large, also what they say."""

INFLATE_SLICE_BYTES: Final = 65_536
"""Inflated at once, so that a message that inflates to too much is noticed in time."""

_DEFLATE: Final = b"permessage-deflate"
_SYNC: Final = b"\x00\x00\xff\xff"
"""What a sender cuts off the end of a compressed message (RFC 7692, section 7.2.1)."""
_WINDOW_BITS: Final = {str(bits).encode(): bits for bits in range(8, 16)}
_EXTENSIONS_UNKNOWN: Final = Reason("the extensions of the WebSocket are not known here")

_FIN: Final = 0x80
_COMPRESSED: Final = 0x40
_RESERVED: Final = 0x70
_CONTROL: Final = 0x08
_CLOSE: Final = 0x88
_CONTROLS: Final = frozenset({_CLOSE, 0x89, 0x8A})
"""First bytes of close, ping and pong: never in fragments, no reserved bit."""
_CONTROL_BYTES_MAX: Final = 125
_MASKED: Final = 0x80
_LENGTH_BYTES: Final = {126: 2, 127: 8}
_LENGTH_MAX: Final = 2**63 - 1


class Deflate(NamedTuple):
    """How one side compresses its messages: its window, and whether it outlives a message."""

    window_bits: int = zlib.MAX_WBITS
    takeover: bool = True


class Compression(NamedTuple):
    """What the client's and the upstream's messages are compressed with, if they are."""

    client: Deflate | None = None
    upstream: Deflate | None = None


class Message(NamedTuple):
    """A complete message: the bytes of its content, and the content if it is asked for and fits.

    Without a `size` it is one of those that are only counted.
    """

    size: int | None
    content: bytes | None


_COUNTED: Final = Message(None, None)


def agreed_compression(fields: Headers) -> Compression | Reason:
    """What the answer to a handshake says, names in lower case; a Reason for other extensions."""
    value = b",".join(value for name, value in fields if name == b"sec-websocket-extensions")
    if not value.strip():
        return Compression()
    name, *parameters = [part.strip() for part in value.split(b";")]
    given: dict[bytes, bytes] = {}
    for parameter in parameters:
        key, _, text = parameter.partition(b"=")
        given[key.strip()] = text.strip().strip(b'"')
    client, upstream = _taken(given, b"client"), _taken(given, b"server")
    if name != _DEFLATE or given or client is None or upstream is None:
        return _EXTENSIONS_UNKNOWN
    return Compression(client, upstream)


def _taken(given: dict[bytes, bytes], side: bytes) -> Deflate | None:
    """The parameters of one side, taken out of those given; None if a value is none."""
    alone = given.pop(side + b"_no_context_takeover", None)
    bits = _WINDOW_BITS.get(given.pop(side + b"_max_window_bits", b"15"))
    return None if alone or bits is None else Deflate(bits, takeover=alone is None)


class FrameReader:
    """Reads one direction of a WebSocket.

    `masked` says that it is the client's. `close_at` is where the close frame begins in the bytes
    fed last, once there is one; it ends the direction. `lost` says why frames cannot be read any
    more, and `obscured` why what compressed messages hold cannot be: they are still counted then.
    Memory: a window of at most 32 KiB, and `message_bytes_max` if contents are asked for. One call
    of `feed` inflates at most `inflated_bytes_max`.
    """

    __slots__ = (
        "_allowed",
        "_carried",
        "_completes",
        "_deflate",
        "_fragmented",
        "_head",
        "_inflatable",
        "_inflated_bytes_max",
        "_inflater",
        "_is_data",
        "_is_deflated",
        "_kept",
        "_left",
        "_look",
        "_mask",
        "_masked",
        "_message_bytes_max",
        "_over",
        "_size",
        "close_at",
        "lost",
        "obscured",
    )

    def __init__(
        self,
        *,
        masked: bool,
        look: Look,
        deflate: Deflate | None,
        message_bytes_max: int,
        inflated_bytes_max: int,
    ) -> None:
        self.close_at: int | None = None
        self.lost: Reason | None = None
        self.obscured: Reason | None = None
        self._masked = masked
        self._look = look
        self._deflate = deflate
        self._allowed = _COMPRESSED if deflate else 0
        self._message_bytes_max = message_bytes_max
        self._inflatable = self._inflated_bytes_max = inflated_bytes_max
        self._over = False
        self._head = b""  # of a frame, as far as it came
        self._carried = 0  # bytes of that head in the last data
        self._mask = b""
        self._left = 0  # bytes of the frame's payload that are still to come
        self._is_data = self._completes = False  # what the frame is, and whether it is the last
        self._fragmented = False  # a message has begun and not ended
        self._is_deflated = False
        self._inflater: zlib._Decompress | None = None
        self._size = 0
        self._kept = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with these bytes."""
        messages: list[Message] = []
        self._inflatable = self._inflated_bytes_max
        self._carried = len(self._head)
        if self._carried:
            data, self._head = self._head + data, b""
        at, end = 0, len(data)
        while at < end and not self._over:
            if not self._left:
                begin, at = at, self._open(data, at)
                if not at:
                    self._head = data[begin:]
                    break
            size = min(self._left, end - at)
            if size:
                if self._is_data:
                    self._take(data, at, size)
                at += size
                self._left -= size
            if self._completes and not self._left:
                messages.append(self._complete())
        return messages

    def _open(self, data: bytes, at: int) -> int:
        """Read the head of a frame. Where its payload begins; 0 if it is not whole."""
        if len(data) - at < 2:  # noqa: PLR2004 - what every frame begins with
            return 0
        first, length = data[at], data[at + 1] & ~_MASKED
        wrong = self._wrong(first, data[at + 1])
        if wrong is not None:
            return self._lose(wrong, data)
        wide = _LENGTH_BYTES.get(length, 0)
        begin = at + 2 + wide + 4 * self._masked
        if len(data) < begin:
            return 0
        if wide:
            length = int.from_bytes(data[at + 2 : at + 2 + wide])
            if length > _LENGTH_MAX:
                return self._lose("a length is above 2^63 - 1", data)
        self._left = length
        self._mask = data[begin - 4 : begin] if self._masked else b""
        self._begin(first, at)
        return begin

    def _wrong(self, first: int, second: int) -> str | None:
        """What is wrong with a frame that begins with these bytes."""
        if self.close_at is not None:
            return "something follows the close frame"
        if bool(second & _MASKED) != self._masked:
            return "a frame is not masked" if self._masked else "a frame is masked"
        if first & _CONTROL:
            if first not in _CONTROLS:
                return "a control frame is unknown, in fragments or has a reserved bit"
            long = second & ~_MASKED > _CONTROL_BYTES_MAX
            return "a control frame is too long" if long else None
        opcode, reserved = first & 0x0F, first & _RESERVED
        if opcode > 2:  # noqa: PLR2004 - continuation, text and binary
            return "a frame is of an unknown kind"
        if bool(opcode) == self._fragmented:
            return "a fragment is missing, or none was to follow"
        if reserved & ~(self._allowed if opcode else 0):
            return "a reserved bit is set"
        return None

    def _begin(self, first: int, at: int) -> None:
        """A frame begins here with this byte."""
        if first & _CONTROL:
            self._is_data = self._completes = False
            if first == _CLOSE:
                self.close_at = max(at - self._carried, 0)
                self._over = not self._masked  # of what a client still sends, some servers read
            return
        if not self._fragmented:
            self._is_deflated = bool(first & _COMPRESSED)
        self._is_data = True
        self._completes = bool(first & _FIN)
        self._fragmented = not self._completes

    def _lose(self, wrong: str, data: bytes) -> int:
        """Read no more, neither the rest of this data nor what follows it."""
        whose = "client" if self._masked else "upstream"
        self.lost = Reason(f"the WebSocket frames of the {whose} cannot be read: {wrong}")
        self._over, self._completes = True, False
        self._kept.clear()
        return len(data)

    def _take(self, data: bytes, at: int, size: int) -> None:
        """Some of a data frame's payload."""
        if self._look == "count":
            return
        too_large = self._size > self._message_bytes_max
        if not self._is_deflated and (too_large or self._look == "size"):
            self._size += size
            return
        part = data[at : at + size]
        if self._masked:
            part = _unmasked(part, self._mask)
            turn = size % 4
            self._mask = self._mask[turn:] + self._mask[:turn]
        if self._is_deflated:
            self._inflate(part)
        else:
            self._keep(part)

    def _keep(self, part: bytes) -> None:
        """Some of a message's content."""
        self._size += len(part)
        if self._look == "content":
            if self._size <= self._message_bytes_max:
                self._kept += part
            else:
                self._kept.clear()

    def _complete(self) -> Message:
        """The message whose last byte has come."""
        if self._is_deflated and self._look != "count":
            self._end_inflating()
        if self._look == "count":
            return _COUNTED
        size, self._size = self._size, 0
        if self._look == "size" or size > self._message_bytes_max:
            return Message(size, None)
        content = bytes(self._kept)
        self._kept.clear()
        return Message(size, content)

    def _inflate(self, part: bytes) -> None:
        """Some of a compressed message; a sender may end in a last block, and then begins anew."""
        assert self._deflate is not None  # noqa: S101 - the bit was allowed
        inflater = self._inflater = self._inflater or zlib.decompressobj(-self._deflate.window_bits)
        try:
            made = inflater.decompress(part, INFLATE_SLICE_BYTES)
            while self._inflatable >= len(made):
                self._inflatable -= len(made)
                self._keep(made)
                if len(made) < INFLATE_SLICE_BYTES and not inflater.unconsumed_tail:
                    break
                made = inflater.decompress(inflater.unconsumed_tail, INFLATE_SLICE_BYTES)
            else:
                self._obscure("more was inflated at once than decoded_bytes_max allows")
        except zlib.error:
            self._obscure("a message cannot be inflated")
        if inflater.eof and part is not _SYNC and inflater.unused_data.strip(b"\0"):
            self._obscure("a message goes on after its last block")

    def _end_inflating(self) -> None:
        assert self._deflate is not None  # noqa: S101 - as above
        if self._inflater is None or not self._inflater.eof:
            self._inflate(_SYNC)
        if self._inflater is not None and (self._inflater.eof or not self._deflate.takeover):
            self._inflater = None

    def _obscure(self, wrong: str) -> None:
        """What compressed messages hold is unknown from here on: each may need those before it."""
        whose = "client" if self._masked else "upstream"
        self.obscured = Reason(f"the WebSocket messages of the {whose} cannot be measured: {wrong}")
        self._look = "count"
        self._inflater = None
        self._kept.clear()


def _unmasked(data: bytes, mask: bytes) -> bytes:
    """RFC 6455, section 5.3; as one big number, which is the fastest way without a compiler."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
