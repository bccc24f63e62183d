"""A WebSocket that passes: two connections, every byte carried as it came, its usage recorded.

Speaks no WebSocket itself: it answers no ping, starts no close and has no timeout of its own, so
that sub-protocols, extensions, masks and close codes are between the two ends. A `Tap` listens for
what the policies count; when to record is the middleware's `Session`. The handshake is not here: it
is a request like any other, and a refused one an answer like any other.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final, Protocol, cast

from usageflow._types import JSON, Headers, Scope
from usageflow.middleware.conversation import Conversation
from usageflow.middleware.limits import Limits
from usageflow.middleware.metadata import Provider
from usageflow.middleware.parts import Pace
from usageflow.middleware.websocket import Record, Session
from usageflow.policies import Match
from usageflow.policies.interpreter import Budget
from usageflow.policies.reason import Reason
from usageflow.policies.tally import TOO_MUCH_AT_ONCE, Piece, Tally
from usageflow.proxy.frames import FrameReader, Look, Message, agreed_compression
from usageflow.recorder import Hold

STEPS_PER_READ: Final = 200_000
"""Work of all tallies for one read of a socket: about 70 ms. The 14,000 messages of 12 bytes that a
read may hold take 112,000 where a number is at a fixed place; only expressions can need more."""

TOO_LARGE: Final = Reason("a message of the WebSocket is too large to be measured")

_WAYS: Final[dict[Piece, str]] = {"received": "in", "sent": "out"}


KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", 0), 60),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", 0), 15),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", 0), 4),
)
"""A tunnel may be silent for days. After a minute the kernel asks whether the other end is still
there, so that one that vanished without a word is gone after two."""


class Side(Protocol):
    """One end of a tunnel. A call that changes nothing, or comes after its end, has no effect."""

    def write(self, data: bytes) -> None:
        """Send these bytes."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Go on reading."""

    def end_pipe(self) -> None:
        """Close, once what was written has left."""


class Overheard(Conversation):
    """A conversation known from its frames: some of it may be beyond what can be read.

    A message that was not completed is none, as an app would not have been given it.
    """

    __slots__ = ("_parts", "_unknown")

    def __init__(
        self,
        match: Match,
        scope: Scope,
        path: str,
        *,
        started_at_s: float,
        providers: Mapping[str, Provider],
    ) -> None:
        super().__init__(match, scope, path, started_at_s=started_at_s, providers=providers)
        self._parts = frozenset[tuple[str, str]]().union(
            *(compiled.quantity.parts for compiled in match.policies)
        )
        self._unknown: dict[str, Reason] = {}

    @property
    def websocket(self) -> Mapping[str, JSON]:
        """See Facts; a counter that went wrong is the Reason."""
        return {**super().websocket, **self._unknown}

    def look(self, piece: Piece) -> Look:
        """How closely the policies look at the messages of one direction."""
        if ("websocket", piece) in self._parts:
            return "content"
        sizes = {("websocket", "bytes"), ("websocket", f"bytes_{_WAYS[piece]}")}
        return "count" if self._parts.isdisjoint(sizes) else "size"

    def heard(self, piece: Piece, message: Message, budget: Budget) -> None:
        """A message has passed; spends `budget`."""
        size, content = message
        self.messages_since += 1
        if piece == "received":
            self._messages_in += 1
            self._bytes_in += size or 0
        else:
            self._messages_out += 1
            self._bytes_out += size or 0
        if size is not None:
            for tally in self._tallies_of(piece):
                _add(tally, piece, content, budget)

    def lose(self, piece: Piece, reason: Reason, *, countable: bool) -> None:
        """From here on a direction cannot be measured; its messages can be counted, or not."""
        counters = ["bytes"] if countable else ["bytes", "messages"]
        for counter in counters:
            self._unknown.setdefault(counter, reason)
            self._unknown.setdefault(f"{counter}_{_WAYS[piece]}", reason)
        for tally in self._tallies_of(piece):
            tally.put(reason)

    def _tallies_of(self, piece: Piece) -> list[Tally]:
        return self._received if piece == "received" else self._sent


def _add(tally: Tally, piece: Piece, content: bytes | None, budget: Budget) -> None:
    """A message whose size is known."""
    if content is None:
        tally.put(TOO_LARGE)
    elif budget.steps < 0:
        tally.put(TOO_MUCH_AT_ONCE)
    else:
        tally.add(content, piece, budget)


class Tap:
    """Listens to a tunnel and records what passes. It never raises, and never changes a byte.

    `fields` are those of the answer that accepted the handshake. `record` makes events of what the
    conversation has; `Settlement.settle_part` does.
    """

    __slots__ = ("_readers", "_session", "_talk")

    def __init__(
        self, talk: Overheard, record: Record, *, pace: Pace, fields: Headers, limits: Limits
    ) -> None:
        headers = [(name.lower(), value) for name, value in fields]
        talk.sends({"type": "websocket.accept", "headers": headers})
        self._talk = talk
        self._session = Session(talk, record, pace)
        self._session.moved()
        self._readers: dict[Piece, FrameReader] = {}
        compression = agreed_compression(headers)
        if isinstance(compression, Reason):
            for piece in _WAYS:
                talk.lose(piece, compression, countable=False)
            return
        for piece, deflate in zip(_WAYS, compression, strict=True):
            self._readers[piece] = FrameReader(
                masked=piece == "received",
                look=talk.look(piece),
                deflate=deflate,
                message_bytes_max=limits.stream_event_bytes_max,
                inflated_bytes_max=limits.decoded_bytes_max,
            )

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._listen("received", data)

    def sent(self, data: bytes) -> int | None:
        """Bytes from the upstream: where its close frame begins in them, if it does."""
        self._listen("sent", data)
        reader = self._readers.get("sent")
        return None if reader is None else reader.close_at

    def end(self) -> Hold | None:
        """The conversation is over: record what is left. What its end must wait for."""
        return cast("Hold | None", self._session.finish())  # what a recorder gives is one

    def _listen(self, piece: Piece, data: bytes) -> None:
        reader = self._readers.get(piece)
        if reader is None:
            return
        obscured = reader.obscured
        lost: Reason | None
        try:
            self._count(piece, reader.feed(data))
            lost = reader.lost
        except Exception as error:  # noqa: BLE001 - metering must not break what passes
            lost = Reason(f"internal error: {type(error).__name__}")
        if lost is not None:
            del self._readers[piece]
            self._lose(piece, lost, countable=False)
        elif reader.obscured is not None and reader.obscured is not obscured:
            self._lose(piece, reader.obscured, countable=True)

    def _count(self, piece: Piece, messages: list[Message]) -> None:
        budget = Budget(STEPS_PER_READ)
        for message in messages:
            self._talk.heard(piece, message, budget)
            self._session.moved()

    def _lose(self, piece: Piece, reason: Reason, *, countable: bool) -> None:
        """What was understood counts; the rest is told."""
        self._session.part()
        self._talk.lose(piece, reason, countable=countable)


class Tunnel:
    """Two connections after a 101. Without a `tap` it is not metered.

    What the upstream's close frame and the end of the client's connection tell a client is that
    all was delivered: they wait until the usage is on disk. All else flows at once, as fast as the
    slower side takes it: bytes wait in the buffers of the connections, bounded there.
    """

    __slots__ = ("_client", "_client_full", "_held", "_hold", "_tap", "_upstream")

    def __init__(self, client: Side, upstream: Side, tap: Tap | None = None) -> None:
        self._client = client
        self._upstream = upstream
        self._tap = tap
        self._hold: Hold | None = None
        self._held: list[bytes] | None = None  # the close frame and what follows, while it waits
        self._client_full = False

    def from_client(self, data: bytes) -> None:
        """The next bytes of the client."""
        if self._tap is not None:
            self._tap.received(data)
        self._upstream.write(data)

    def from_upstream(self, data: bytes) -> None:
        """The next bytes of the upstream."""
        if self._held is not None:
            self._held.append(data)  # read before it was paused
            return
        close_at = None if self._tap is None else self._tap.sent(data)
        if close_at is None:
            self._client.write(data)
            return
        if close_at:
            self._client.write(data[:close_at])
        self._held = [data[close_at:]]
        self._once_recorded(self._release)
        self._throttle()

    def client_ended(self) -> None:
        """The client sends no more, or is gone."""
        self._end()

    def upstream_ended(self) -> None:
        """The upstream sends no more, or is gone."""
        self._end()

    def drain(self) -> None:
        """The proxy stops and waits no longer: both sides end, the usage so far is recorded.

        No close frame is made up; both ends see a connection that broke (code 1006).
        """
        self._end()

    def client_full(self) -> None:
        """The client takes bytes more slowly than they come."""
        self._client_full = True
        self._throttle()

    def client_ready(self) -> None:
        """There is room again."""
        self._client_full = False
        self._throttle()

    def upstream_full(self) -> None:
        """The upstream takes bytes more slowly than they come."""
        self._client.pause()

    def upstream_ready(self) -> None:
        """There is room again."""
        self._client.resume()

    def _throttle(self) -> None:
        if self._client_full or self._held is not None:
            self._upstream.pause()
        else:
            self._upstream.resume()

    def _once_recorded(self, go_on: Callable[[], object]) -> None:
        """Record what is left, if that was not done, and go on when it is on disk."""
        if self._tap is not None:
            self._hold, self._tap = self._tap.end(), None
        if self._hold is None:
            go_on()
        else:
            self._hold.then(go_on)

    def _release(self) -> None:
        held, self._held = self._held, None
        self._client.write(b"".join(held or ()))
        self._throttle()

    def _end(self) -> None:
        """One end is gone: what it sent still reaches the other."""
        self._upstream.end_pipe()
        self._once_recorded(self._client.end_pipe)


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the kernel find out when the other end has vanished; a unix socket's cannot."""
    raw = transport.get_extra_info("socket")
    if raw is None or raw.family == socket.AF_UNIX:
        return
    for level, option, value in KEEP_ALIVE:
        if option:
            raw.setsockopt(level, option, value)
