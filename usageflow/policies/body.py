"""The bytes of one message body, kept as far as a policy needs them.

Counts every byte; keeps a bounded number, decoded where the message is encoded; hands an event
stream on to its reader instead. Knows no policy and never says what a body contained.
"""

from collections.abc import Callable
from typing import Final

from usageflow._types import JSON, Headers
from usageflow.policies.json_text import decode_json
from usageflow.policies.reason import Reason

_UNREAD: Final = object()


class Body:
    """The bytes of one message body: all are counted, at most `bytes_max` are kept.

    `bytes_max=None` keeps nothing. `problem` says why the content cannot be used; the edge may set
    it. `bytes_total` counts what was on the wire, encoded or not.
    """

    __slots__ = ("_bytes_max", "_chunks", "_document", "_tap", "bytes_total", "problem")

    def __init__(self, bytes_max: int | None) -> None:
        self.bytes_total = 0
        self.problem: str | None = None
        self._bytes_max = bytes_max
        self._chunks: list[bytes] = []
        self._tap: Callable[[bytes], bytes] | None = None
        self._document: JSON = _UNREAD

    @property
    def kept(self) -> bool:
        """Whether some policy needs the content."""
        return self._bytes_max is not None

    def tap(self, through: Callable[[bytes], bytes]) -> None:
        """Keep what `through` makes of each chunk; it bounds that itself."""
        self._tap = through

    def add(self, chunk: bytes) -> None:
        """The next bytes. A body that outgrows the limit is let go of as a whole."""
        self.bytes_total += len(chunk)
        if self._bytes_max is None:
            return
        if self._tap is not None:
            chunk = self._tap(chunk)
        elif self.bytes_total > self._bytes_max:
            self._chunks.clear()
            self.problem = f"larger than body_bytes_max ({self._bytes_max} bytes)"
            return
        if chunk:
            self._chunks.append(chunk)

    @property
    def data(self) -> bytes:
        """The content that was kept; without a copy if it came in one piece."""
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0] if self._chunks else b""

    def unusable(self, label: str) -> Reason | None:
        """Why there is no content to look into."""
        if self.problem is not None:
            return Reason(f"{label}: {self.problem}")
        return None if self._chunks else Reason(f"{label} is empty")

    def document(self, headers: Headers, label: str) -> JSON | Reason:
        """The content as a document, numbers exact, or why it is none; read once for all policies.

        `headers` are those of the same message: they say what the bytes mean.
        """
        if self._document is _UNREAD:
            self._document = self.unusable(label) or decode_json(self.data, label)
        return self._document
