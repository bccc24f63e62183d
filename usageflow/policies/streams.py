"""Event streams, cut into events as their chunks pass: server-sent events and JSON in sequence.

Keeps at most one unfinished event, bounded; a chunk that cannot hold a value is not even cut. What
an event is worth is a tally's to say. Pure: no clock, no I/O.

Sources: the WHATWG's HTML standard, section 9.2.6 (text/event-stream); RFC 7464 (JSON text
sequences).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from usageflow.policies.content_type import EVENT_STREAM, JSON_LINES, JSON_SEQUENCE, parsed
from usageflow.policies.interpreter import Budget
from usageflow.policies.reason import Reason
from usageflow.policies.tally import TOO_LARGE, TOO_MUCH_AT_ONCE, Tally, may_hold

STEPS_PER_CHUNK: Final = 30_000
"""Work of all tallies for one chunk: about 10 ms. Enough for 3,000 short events."""
EVENT_LINES_MAX: Final = 10_000
"""Lines of one server-sent event; as many take 3 ms."""

LINES_PER_CHUNK_MAX: Final = 65_536
"""Lines of one chunk, with or without an event: cutting so many takes about 15 ms."""

_BOM: Final = b"\xef\xbb\xbf"


class Splitter:
    """Cuts a stream wherever `mark` is; what is between two marks is an event.

    `too_large` counts the events of more than `event_bytes_max`, which are let go of.
    """

    __slots__ = ("_event_bytes_max", "_held", "_letting_go", "_mark", "too_large")

    def __init__(self, mark: bytes, event_bytes_max: int) -> None:
        self.too_large = 0
        self._mark = mark
        self._event_bytes_max = event_bytes_max
        self._held = bytearray()
        self._letting_go = False

    def complete(self, chunk: bytes) -> bytes:
        """The events that are whole with this chunk, uncut; the others stay here."""
        end = self._end(chunk)
        if not end:
            self._hold(chunk)
            return b""
        whole = bytes(self._held) + chunk[:end] if self._held else chunk[:end]
        if self._letting_go:
            self._let_go()
            whole = whole.split(self._mark, 1)[1]
        self._held.clear()
        self._hold(chunk[end:])
        return whole

    def rest(self) -> bytes:
        """What is left where the stream ends: an event without its mark."""
        if self._letting_go:
            self._let_go()
            return b""
        return bytes(self._held)

    def events(self, whole: bytes) -> list[bytes | None]:
        """The data of each of these events; None for one that is too large."""
        return [self._fitting(event) for event in whole.split(self._mark) if event]

    def fits(self, whole: bytes) -> bool:
        """Whether no event in here can be too large."""
        return len(whole) <= self._event_bytes_max

    def _end(self, chunk: bytes) -> int:
        """Where the last mark in this chunk ends; 0 if there is none."""
        return chunk.rfind(self._mark) + 1

    def _fitting(self, event: bytes) -> bytes | None:
        if len(event) > self._event_bytes_max and len(event.strip(b"\n")) > self._event_bytes_max:
            self.too_large += 1
            return None
        return event

    def _hold(self, text: bytes) -> None:
        held = self._held
        held += text if held else text.lstrip(b"\n")
        if self._letting_go or len(held) - held.endswith(b"\n") > self._event_bytes_max:
            self._letting_go = True
            del held[:-1]  # of a mark of two bytes the first may have come

    def _let_go(self) -> None:
        self._letting_go = False
        self.too_large += 1


class EventStreamSplitter(Splitter):
    """Cuts text/event-stream: an empty line ends an event; a line ends in CR LF, LF or CR."""

    __slots__ = ("_after_cr",)

    def __init__(self, event_bytes_max: int) -> None:
        super().__init__(b"\n\n", event_bytes_max)
        self._after_cr = False

    def complete(self, chunk: bytes) -> bytes:
        """See Splitter."""
        if chunk.endswith(b"\n\n") and not (self._held or self._after_cr or b"\r" in chunk):
            return chunk  # as nearly all are
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return super().complete(chunk)

    def events(self, whole: bytes) -> list[bytes | None]:
        """See Splitter; an event without data is none."""
        return [
            data
            for event in whole.split(self._mark)
            if event and (data := self._data(event)) != b""
        ]

    def fits(self, whole: bytes) -> bool:
        """See Splitter; an event of too many lines is too large."""
        few = len(whole) <= EVENT_LINES_MAX or whole.count(b"\n") <= EVENT_LINES_MAX
        return few and super().fits(whole)

    def _end(self, chunk: bytes) -> int:
        last = chunk.rfind(self._mark)
        if last < 0 and self._held.endswith(b"\n") and chunk.startswith(b"\n"):
            return 1
        return last + len(self._mark) if last >= 0 else 0

    def _data(self, event: bytes) -> bytes | None:
        lines = event.count(b"\n") + 1
        if lines == 1 and event.startswith(b"data: ") and len(event) <= self._event_bytes_max:
            return event[6:]  # as nearly all are
        if lines > EVENT_LINES_MAX:
            self.too_large += 1
            return None
        if self._fitting(event) is None:
            return None
        return b"\n".join(
            line[6:] if line.startswith(b"data: ") else line[5:]
            for line in event.removeprefix(_BOM).split(b"\n")
            if line.startswith(b"data:") or line == b"data"
        )


def open_splitter(content_type: bytes, event_bytes_max: int) -> Splitter | None:
    """The splitter for a body of this Content-Type; None if that is no stream of events."""
    media_type = parsed(content_type).media_type
    if media_type == EVENT_STREAM:
        return EventStreamSplitter(event_bytes_max)
    if media_type in JSON_LINES:
        return Splitter(b"\n", event_bytes_max)
    return Splitter(b"\x1e", event_bytes_max) if media_type == JSON_SEQUENCE else None


class Stream:
    """Tells tallies of the events in a stream, as its chunks pass."""

    __slots__ = ("_needles", "_splitter", "_tallies")

    def __init__(self, splitter: Splitter, tallies: Iterable[Tally]) -> None:
        self._splitter = splitter
        self._tallies = tuple(tallies)
        self._needles = _shared_needles(self._tallies)

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the stream. Never raises."""
        if len(chunk) > LINES_PER_CHUNK_MAX and _has_too_many_lines(chunk):
            self._spoil(TOO_MUCH_AT_ONCE)
            return
        lost = self._splitter.too_large
        whole = self._splitter.complete(chunk)
        if self._splitter.too_large > lost:
            self._spoil(TOO_LARGE)
        if whole:
            self._tell(whole)

    def end(self) -> None:
        """The stream is over, perhaps in the middle of an event: what it says is still said."""
        lost = self._splitter.too_large
        rest = self._splitter.rest()
        if self._splitter.too_large > lost:
            self._spoil(TOO_LARGE)
        self._tell(rest)

    def _tell(self, whole: bytes) -> None:
        if not self._may_matter(whole):
            return
        budget = Budget(STEPS_PER_CHUNK)
        for data in self._splitter.events(whole):
            if data is None:
                self._spoil(TOO_LARGE)
                continue
            for tally in self._tallies:
                tally.add(data, "body", budget)
            if budget.steps < 0:
                self._spoil(TOO_MUCH_AT_ONCE)
                return

    def _may_matter(self, whole: bytes) -> bool:
        return (
            self._needles is None
            or not self._splitter.fits(whole)
            or may_hold(whole, self._needles)
        )

    def _spoil(self, reason: Reason) -> None:
        """There was an event that nobody could look into; it may have had a value."""
        for tally in self._tallies:
            tally.put(reason)


def _shared_needles(tallies: Sequence[Tally]) -> frozenset[bytes] | None:
    """Needles of which one is in every event that any of these tallies counts."""
    each = [tally.needles for tally in tallies]
    return None if None in each else frozenset[bytes]().union(*filter(None, each))


def _has_too_many_lines(chunk: bytes) -> bool:
    """Looks no further than at the first lines that are too many."""
    few = LINES_PER_CHUNK_MAX
    return any(len(chunk.split(mark, few)) > few for mark in (b"\n", b"\r", b"\x1e"))
