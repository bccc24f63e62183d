"""The bytes of one message body, kept as far as a policy needs them.

Counts every byte; keeps a bounded number, decoded where the message is encoded; hands an event
stream on to its reader instead. Knows no policy and never says what a body contained.
"""

from typing import Final, Protocol

from usageflow._types import JSON, Headers
from usageflow.policies.media import read_document
from usageflow.policies.reason import Reason

_UNREAD: Final = object()


class Decoder(Protocol):
    """Undoes content encodings; see `decoding`."""

    problem: str | None

    def feed(self, chunk: bytes) -> bytes:
        """What these bytes decode to; bounded."""

    def end(self) -> None:
        """All bytes were fed."""


class StreamReader(Protocol):
    """Reads a stream of events as it passes; see `streams`."""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""

    def end(self) -> None:
        """No more bytes come."""


class Body:
    """The bytes of one message body: all are counted, at most `bytes_max` are kept.

    `bytes_max=None` keeps nothing. `problem` says why the content cannot be used; `unfinished`,
    which the edge sets, why it has not all been seen; `cut` that an encoded stream breaks off: what
    came before was read. `bytes_total` counts the bytes on the wire.
    """

    __slots__ = (
        "_bytes_max",
        "_chunks",
        "_decoder",
        "_document",
        "_stream",
        "bytes_total",
        "cut",
        "problem",
        "unfinished",
    )

    def __init__(self, bytes_max: int | None) -> None:
        self.bytes_total = 0
        self.problem: str | None = None
        self.unfinished: str | None = None
        self.cut: str | None = None
        self._bytes_max = bytes_max
        self._chunks: list[bytes] = []
        self._decoder: Decoder | None = None
        self._stream: StreamReader | None = None
        self._document: JSON = _UNREAD

    @property
    def wanted(self) -> bool:
        """Whether some policy needs the content."""
        return self._bytes_max is not None

    def read_as(self, decoder: Decoder | Reason | None, stream: StreamReader | None) -> None:
        """How to read what comes, before it comes. The decoder bounds what it makes."""
        if isinstance(decoder, Reason):
            self.problem = decoder.text
            self._bytes_max = None
        else:
            self._decoder, self._stream = decoder, stream

    def add(self, chunk: bytes) -> None:
        """The next bytes. A body that outgrows the limit is let go of as a whole. Never raises."""
        if type(chunk) is not bytes:
            chunk = bytes(chunk)  # a view or a buffer may change after it was sent
        self.bytes_total += len(chunk)
        if self._bytes_max is None:
            return
        if self._decoder is not None or self._stream is not None:
            self._read(chunk)
        elif self.bytes_total > self._bytes_max:
            self._chunks.clear()
            self.problem = f"larger than body_bytes_max ({self._bytes_max} bytes)"
        elif chunk:
            self._chunks.append(chunk)

    def _read(self, chunk: bytes) -> None:
        try:
            if self._decoder is not None:
                chunk = self._decoder.feed(chunk)
            if self._stream is not None:
                self._stream.feed(chunk)
            elif chunk:
                self._chunks.append(chunk)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not reach the app
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.problem = f"internal error: {type(error).__name__}"
        self._bytes_max = self._decoder = self._stream = None
        self._chunks.clear()

    def end(self, unfinished: str | None = None) -> None:
        """No more bytes come; `unfinished` says why some are missing."""
        self.unfinished = unfinished
        try:
            if self._decoder is not None and unfinished is None:
                self._end(self._decoder)
            if self._stream is not None:
                self._stream.end()
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)
        if self._decoder is not None and self._decoder.problem is not None and not self.cut:
            self.problem = self._decoder.problem
            self._chunks.clear()

    def _end(self, decoder: Decoder) -> None:
        complete_until_now = decoder.problem is None
        decoder.end()
        if self._stream is not None and complete_until_now:
            self.cut = decoder.problem

    @property
    def data(self) -> bytes:
        """The content that was kept; without a copy if it came in one piece."""
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0] if self._chunks else b""

    def unusable(self, label: str) -> Reason | None:
        """Why there is no content to look into."""
        problem = self.problem or self.unfinished
        if problem is not None:
            return Reason(f"{label}: {problem}")
        return None if self._chunks else Reason(f"{label} is empty")

    def document(self, headers: Headers, label: str) -> JSON | Reason:
        """The content as a document, numbers exact, or why it is none; read once for all policies.

        `headers` are those of the same message: they say what the bytes mean.
        """
        problem = self.unusable(label)  # which may change until the body has ended
        if problem is not None:
            return problem
        if self._document is _UNREAD:
            self._document = read_document(self.data, headers, label)
        return self._document
