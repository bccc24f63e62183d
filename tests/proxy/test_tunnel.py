"""A tunnel by hand, and between real WebSocket ends: every byte passes, what passed is recorded."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode

from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware.conversation import METHOD
from usageflow.middleware.limits import Limits
from usageflow.middleware.parts import Pace
from usageflow.middleware.settlement import Settlement
from usageflow.policies import PolicySet, parse_file
from usageflow.proxy.tunnel import Overheard, Tap, Tunnel, keep_alive
from usageflow.recorder import Hold, Recorder

POLICY = """
[[policy]]
name = "{name}"
match = "WEBSOCKET /live"
identify = [ {{ from = "header", name = "x-account" }} ]
field = "account_id"
metric = "{name}"
quantity = {quantity}
"""
SCOPE = {
    "type": "websocket",
    "path": "/live",
    "headers": [(b"x-account", b"acct_1")],
    "query_string": b"",
}
COUNTERS = {
    "messages": '"websocket.messages"',
    "ins": '"websocket.messages_in"',
    "outs": '"websocket.messages_out"',
    "bytes": '"websocket.bytes"',
    "bytes_in": '"websocket.bytes_in"',
    "bytes_out": '"websocket.bytes_out"',
    "connections": "1",
}
TOKENS = {"asked": '"websocket.received.tokens"', "told": '"websocket.sent.tokens"'}
ALL = COUNTERS | TOKENS
SELDOM = Pace(1_000.0, 1_000)
AT_THE_END = Pace(1_000.0, 1_000_000)
PATIENCE_S = 20.0

pytestmark = pytest.mark.anyio


class Ledger:
    """A recorder whose disk obeys the test."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.events: list[UsageEvent] = []
        self.holds: list[Hold] = []

    def record(
        self, events: Sequence[UsageEvent], loop: asyncio.AbstractEventLoop | None = None
    ) -> Hold:
        """See Recorder.record."""
        assert loop is not None
        self.events += events
        hold = Hold(loop, PATIENCE_S)
        self.holds.append(hold)
        if self.at_once:
            hold.release(durable=True)
        return hold

    def sync(self) -> None:
        """The disk is done."""
        for hold in self.holds:
            hold.release(durable=True)

    @property
    def counted(self) -> dict[str, int]:
        """What was counted, by metric."""
        found: dict[str, Decimal] = {}
        for event in self.events:
            if event.state == "counted":
                assert event.quantity is not None
                found[event.metric] = found.get(event.metric, Decimal()) + event.quantity
        return {metric: int(quantity) for metric, quantity in found.items()}

    @property
    def inbox(self) -> dict[str, str]:
        """What a human must look at, and why, by metric; each is told once."""
        rows = [event for event in self.events if event.state == "inbox"]
        told = {event.metric: event.reason or "" for event in rows}
        assert len(told) == len(rows)
        return told


class End:
    """One side of a tunnel, which keeps what it is told."""

    def __init__(self) -> None:
        self.written = b""
        self.paused = self.ended = False

    def write(self, data: bytes) -> None:
        """See Side."""
        if not self.ended:
            self.written += data

    def pause(self) -> None:
        """See Side."""
        self.paused = True

    def resume(self) -> None:
        """See Side."""
        self.paused = False

    def end_pipe(self) -> None:
        """See Side."""
        self.ended = True


def tap_of(
    ledger: Ledger,
    quantities: dict[str, str],
    *,
    extensions: bytes | None = None,
    pace: Pace = SELDOM,
    **settings: Any,
) -> Tap:
    """A tap under a policy for each quantity."""
    text = "".join(POLICY.format(name=name, quantity=q) for name, q in quantities.items())
    parsed = parse_file(text, "t")
    assert parsed.problems == ()
    match = PolicySet.build(parsed.policies).match(METHOD, "/live")
    assert match is not None
    talk = Overheard(match, SCOPE, "/live", started_at_s=time.time(), providers={})
    settlement = Settlement(cast("Recorder", ledger), durable=True)
    fields = [(b"Sec-WebSocket-Accept", b"...")]
    if extensions is not None:
        fields.append((b"Sec-WebSocket-Extensions", extensions))
    return Tap(
        talk,
        partial(settlement.settle_part, match, talk),
        pace=pace,
        fields=fields,
        limits=Limits.of(Settings(**settings)),
    )


class Conversed:
    """A tunnel between two ends by hand, and what it recorded."""

    def __init__(
        self, quantities: dict[str, str] = ALL, *, at_once: bool = True, **options: Any
    ) -> None:
        self.ledger = Ledger(at_once=at_once)
        self.client, self.upstream = End(), End()
        self.tunnel = Tunnel(self.client, self.upstream, tap_of(self.ledger, quantities, **options))


def up(content: bytes, first: int = 0x81) -> bytes:
    """A frame of the client."""
    return bytes(Frame(Opcode(first & 15), content, first > 127).serialize(mask=True))


def down(content: bytes, first: int = 0x81) -> bytes:
    """A frame of the upstream."""
    return bytes(Frame(Opcode(first & 15), content, first > 127).serialize(mask=False))


BYE = down(b"\x0f\xa0as asked", 0x88)
"""A close frame with the code 4000."""


async def test_what_passes_is_counted_and_not_touched() -> None:
    """Bytes both ways as they are; messages, sizes and values are recorded at the end."""
    seen = Conversed()
    asked = [up(b'{"tokens": 3}'), up(b"", 0x89), up(b"no json", 0x82)]
    told = [down(b'{"tokens": 5}'), down(b"half ", 0x01) + down(b"and half", 0x80), down(b"", 0x8A)]
    for question, answer in zip(asked, told, strict=True):
        seen.tunnel.from_client(question)
        seen.tunnel.from_upstream(answer)
    assert (seen.upstream.written, seen.client.written) == (b"".join(asked), b"".join(told))
    seen.tunnel.upstream_ended()
    assert seen.ledger.counted == {
        "connections": 1,
        "messages": 4,
        "ins": 2,
        "outs": 2,
        "bytes": 46,
        "bytes_in": 20,
        "bytes_out": 26,
        "asked": 3,
        "told": 5,
    }
    assert seen.ledger.inbox == {}
    assert (seen.client.ended, seen.upstream.ended) == (True, True)


@given(cuts=st.lists(st.integers(0, 400), max_size=8), kinds=st.lists(st.booleans(), max_size=8))
def test_however_the_bytes_come_the_record_is_the_same(cuts: list[int], kinds: list[bool]) -> None:
    """And the bytes that come out are those that went in, the close frame included."""

    async def run() -> None:
        seen = Conversed(at_once=False)
        wire = b"".join(down(b'{"tokens": 2}') if kind else down(b"", 0x89) for kind in kinds) + BYE
        places = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
        for start, end in pairwise(places):
            seen.tunnel.from_upstream(wire[start:end])
        before_close = len(wire) - len(BYE)
        assert before_close <= len(seen.client.written) < before_close + 2
        seen.ledger.sync()
        assert seen.client.written == wire
        assert seen.ledger.counted.get("told", 0) == 2 * sum(kinds)
        assert seen.ledger.counted.get("outs", 0) == sum(kinds)

    asyncio.run(run())


async def test_the_close_waits_for_the_disk() -> None:
    """What goes before it flows at once; what comes after it waits too, in its place."""
    seen = Conversed(at_once=False)
    data = down(b"last words")
    seen.tunnel.from_upstream(data + BYE[:5])
    assert (seen.client.written, seen.upstream.paused) == (data, True)
    seen.tunnel.from_upstream(BYE[5:])
    seen.tunnel.upstream_ended()
    assert (seen.client.written, seen.client.ended) == (data, False)
    assert seen.ledger.counted["outs"] == 1
    seen.ledger.sync()
    assert (seen.client.written, seen.client.ended) == (data + BYE, True)


async def test_the_clients_close_and_its_answer_pass() -> None:
    """A close of the client is not held; messages that cross it still count."""
    seen = Conversed(COUNTERS, at_once=False)
    goodbye = up(b"\x03\xe8", 0x88)
    seen.tunnel.from_client(up(b"a") + goodbye)
    assert seen.upstream.written.endswith(goodbye)
    seen.tunnel.from_upstream(down(b"crossing"))
    seen.tunnel.from_upstream(down(b"\x03\xe8", 0x88))
    assert seen.client.written == down(b"crossing")
    seen.ledger.sync()
    assert seen.client.written == down(b"crossing") + down(b"\x03\xe8", 0x88)
    assert (seen.ledger.counted["ins"], seen.ledger.counted["outs"]) == (1, 1)
    assert seen.ledger.inbox == {}
    assert not seen.upstream.paused
    late = up(b"\x03\xe8", 0x88)
    seen.tunnel.from_client(late)
    assert seen.upstream.written.endswith(late)


@pytest.mark.parametrize("who", ["client_ended", "upstream_ended", "drain"])
async def test_an_end_without_a_close_is_recorded(who: str) -> None:
    """Both sides end, the client's only once what passed is on disk; a second end is none."""
    seen = Conversed(at_once=False)
    seen.tunnel.from_client(up(b'{"tokens": 7}'))
    getattr(seen.tunnel, who)()
    assert (seen.upstream.ended, seen.client.ended) == (True, False)
    assert (seen.ledger.counted["asked"], seen.ledger.counted["connections"]) == (7, 1)
    events = len(seen.ledger.events)
    seen.tunnel.upstream_ended()
    seen.tunnel.client_ended()
    seen.ledger.sync()
    assert (seen.client.ended, len(seen.ledger.events)) == (True, events)


async def test_usage_is_recorded_as_it_goes() -> None:
    """After so many messages, within one read too, and after some time."""
    seen = Conversed({"messages": ALL["messages"]}, pace=Pace(0.01, 3))
    seen.tunnel.from_client(up(b"a") * 7)
    assert [event.quantity for event in seen.ledger.events] == [3, 3]
    async with asyncio.timeout(PATIENCE_S):
        while len(seen.ledger.events) < 3:  # noqa: ASYNC110 - a timer is waited for
            await asyncio.sleep(0.001)
    assert seen.ledger.counted == {"messages": 7}
    seen.tunnel.drain()


async def test_the_slower_side_stops_the_faster() -> None:
    """Each side is read only while the other takes bytes, and while no close is held."""
    seen = Conversed(at_once=False)
    tunnel = seen.tunnel
    tunnel.upstream_full()
    assert (seen.client.paused, seen.upstream.paused) == (True, False)
    tunnel.upstream_ready()
    tunnel.client_full()
    assert (seen.client.paused, seen.upstream.paused) == (False, True)
    tunnel.from_upstream(BYE)
    tunnel.client_ready()
    assert seen.upstream.paused
    seen.ledger.sync()
    assert not seen.upstream.paused


async def test_without_a_policy_it_is_a_pipe() -> None:
    """Nothing is read, nothing is held."""
    client, upstream = End(), End()
    tunnel = Tunnel(client, upstream)
    tunnel.from_client(b"anything")
    tunnel.from_upstream(BYE)
    tunnel.from_upstream(b"at all")
    assert (upstream.written, client.written) == (b"anything", BYE + b"at all")
    tunnel.upstream_ended()
    assert (client.ended, upstream.ended) == (True, True)


UNMASKED = "the WebSocket frames of the client cannot be read: a frame is not masked"


async def test_frames_that_cannot_be_read_pass_and_are_told() -> None:
    """What was counted before them counts; the rest is in the inbox, never a silent 0."""
    seen = Conversed()
    wire = up(b'{"tokens": 3}') + down(b"unmasked") + up(b'{"tokens": 4}')
    seen.tunnel.from_client(wire)
    seen.tunnel.from_client(wire)
    seen.tunnel.from_upstream(down(b'{"tokens": 5}') + BYE)
    assert (seen.upstream.written, seen.client.written) == (wire * 2, down(b'{"tokens": 5}') + BYE)
    assert seen.ledger.counted == {
        "connections": 1,
        "messages": 1,
        "ins": 1,
        "bytes": 13,
        "bytes_in": 13,
        "asked": 3,
        "outs": 1,
        "bytes_out": 13,
        "told": 5,
    }
    told = dict.fromkeys(["messages", "ins", "bytes", "bytes_in"], UNMASKED)
    assert seen.ledger.inbox == told | {"asked": UNMASKED}


async def test_a_client_that_goes_on_after_its_close_is_told() -> None:
    """Some servers read on: what they were given is not counted, but not passed over either."""
    seen = Conversed({"ins": ALL["ins"]})
    seen.tunnel.from_client(up(b"\x03\xe8", 0x88) + up(b"still here"))
    seen.tunnel.from_upstream(BYE)
    assert "something follows the close frame" in seen.ledger.inbox["ins"]


async def test_unknown_extensions_are_told() -> None:
    """What they do to frames is not known: connections are counted, messages are not."""
    seen = Conversed(extensions=b"x-mystery")
    seen.tunnel.from_client(up(b'{"tokens": 3}'))
    seen.tunnel.from_upstream(BYE)
    assert seen.client.written == BYE  # nobody can tell that it is one
    seen.tunnel.upstream_ended()
    assert seen.ledger.counted == {"connections": 1}
    reason = "the extensions of the WebSocket are not known here"
    assert seen.ledger.inbox == dict.fromkeys(ALL.keys() - {"connections"}, reason)


BOMB = (
    "the WebSocket messages of the client cannot be measured: "
    "more was inflated at once than decoded_bytes_max allows"
)


def squeezed(content: bytes) -> bytes:
    """A compressed message of the client."""
    sender = PerMessageDeflate(False, False, 15, 15)
    return bytes(Frame(Opcode.TEXT, content).serialize(mask=True, extensions=[sender]))


async def test_a_bomb_is_counted_as_a_message_and_told() -> None:
    """Its size and content are not known; how many messages there were is."""
    seen = Conversed(extensions=b"permessage-deflate", decoded_bytes_max=100_000)
    wire = squeezed(b'{"tokens": 3}') + squeezed(bytes(1_000_000))
    seen.tunnel.from_client(wire)
    seen.tunnel.from_client(up(b'{"tokens": 9}'))
    seen.tunnel.from_upstream(down(b'{"tokens": 5}') + BYE)
    assert seen.ledger.counted == {
        "connections": 1,
        "messages": 4,
        "ins": 3,
        "outs": 1,
        "bytes": 13,
        "bytes_in": 13,
        "bytes_out": 13,
        "asked": 3,
        "told": 5,
    }
    assert seen.ledger.inbox.keys() == {"bytes", "bytes_in", "asked"}
    assert set(seen.ledger.inbox.values()) == {BOMB}


async def test_a_message_too_large_to_keep_passes() -> None:
    """It is counted with its size; what it says is not known, and that is told."""
    seen = Conversed(stream_event_bytes_max=20)
    large = json.dumps({"tokens": 3, "text": "x" * 50}).encode()
    seen.tunnel.from_client(up(large) + up(b'{"tokens": 4}'))
    seen.tunnel.client_ended()
    assert (seen.ledger.counted["ins"], seen.ledger.counted["bytes_in"]) == (2, len(large) + 13)
    assert seen.ledger.inbox["asked"] == "a message of the WebSocket is too large to be measured"


async def test_expressions_over_one_read_are_bounded() -> None:
    """Ten thousand messages at once under an expression: told, not worked through."""
    seen = Conversed({"sums": '"sum(websocket.received.list[*].a)"'}, pace=AT_THE_END)
    seen.tunnel.from_client(up(b'{"list": [{"a": 1}, {"a": 2}, {"a": 3}]}') * 10_000)
    seen.tunnel.client_ended()
    assert set(seen.ledger.inbox.values()) == {"more came at once than can be measured"}


async def test_a_full_read_of_small_messages_is_measured() -> None:
    """As many numbers at a fixed place as a read can hold."""
    seen = Conversed({"asked": ALL["asked"]})
    wire = up(b'{"tokens":1}')
    count = 256_000 // len(wire)
    seen.tunnel.from_client(wire * count)
    seen.tunnel.client_ended()
    assert seen.ledger.counted == {"asked": count}


async def test_what_comes_at_once_is_bounded() -> None:
    """More messages than one read of a socket can hold are not all looked into."""
    seen = Conversed({"asked": ALL["asked"], "ins": ALL["ins"]}, pace=AT_THE_END)
    seen.tunnel.from_client(up(b'{"tokens":1}') * 30_000)
    seen.tunnel.client_ended()
    assert seen.ledger.inbox == {"asked": "more came at once than can be measured"}
    assert seen.ledger.counted == {"ins": 30_000}


async def test_a_mistake_of_ours_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes pass, and the policies are told that something went wrong."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Overheard, "heard", fail)
    seen = Conversed()
    wire = up(b"a")
    seen.tunnel.from_client(wire)
    seen.tunnel.client_ended()
    assert seen.upstream.written == wire
    assert seen.ledger.inbox["ins"] == "internal error: ZeroDivisionError"
    assert seen.ledger.counted == {"connections": 1, "outs": 0, "bytes_out": 0}


# Between real ends


class Leg(asyncio.Protocol):
    """One connection of a small proxy: carries the handshake, then is a side of a tunnel."""

    _transport: asyncio.Transport

    def __init__(self, wire: "Wire", *, is_client: bool) -> None:
        self._wire = wire
        self._is_client = is_client
        self.waiting_max = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the other connection, if this is the first."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(65_536)
        if self._is_client:
            self._wire.begin()

    def data_received(self, data: bytes) -> None:
        """Pass them on."""
        self._wire.carry(data, from_client=self._is_client)

    def write(self, data: bytes) -> None:
        """See Side."""
        if not self._transport.is_closing():
            self._transport.write(data)
            self.waiting_max = max(self.waiting_max, self._transport.get_write_buffer_size())

    def pause(self) -> None:
        """See Side."""
        if not self._transport.is_closing() and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        """See Side."""
        if not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def end_pipe(self) -> None:
        """See Side."""
        self._transport.close()

    def reset(self) -> None:
        """Cut it off."""
        self._transport.abort()

    def pause_writing(self) -> None:
        """Tell the tunnel."""
        tunnel = self._wire.tunnel
        if tunnel is not None:
            (tunnel.client_full if self._is_client else tunnel.upstream_full)()

    def resume_writing(self) -> None:
        """Tell the tunnel."""
        tunnel = self._wire.tunnel
        if tunnel is not None:
            (tunnel.client_ready if self._is_client else tunnel.upstream_ready)()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the tunnel."""
        tunnel = self._wire.tunnel
        if tunnel is not None:
            (tunnel.client_ended if self._is_client else tunnel.upstream_ended)()


class Wire:
    """A small proxy's two connections and the tunnel between them."""

    def __init__(self, upstream_port: int, ledger: Ledger) -> None:
        self.client = Leg(self, is_client=True)
        self.upstream = Leg(self, is_client=False)
        self.tunnel: Tunnel | None = None
        self._port = upstream_port
        self._ledger = ledger
        self._request = self._answer = b""
        self._connecting: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        """The client is here."""
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.upstream, "127.0.0.1", self._port)
        self.upstream.write(self._request)

    def carry(self, data: bytes, *, from_client: bool) -> None:
        """Bytes of one side."""
        if self.tunnel is not None:
            (self.tunnel.from_client if from_client else self.tunnel.from_upstream)(data)
        elif from_client:
            self._request += data
            if self._connecting is not None and self._connecting.done():
                self.upstream.write(data)
        else:
            self._answer += data
            head, end, rest = self._answer.partition(b"\r\n\r\n")
            if end:
                self.client.write(head + end)
                self._open(head)
                self.carry(rest, from_client=False)

    def _open(self, head: bytes) -> None:
        lines = head.split(b"\r\n")[1:]
        fields = [(name, value.strip()) for name, _, value in (x.partition(b":") for x in lines)]
        extensions = dict(fields).get(b"Sec-WebSocket-Extensions")
        tap = tap_of(self._ledger, ALL, extensions=extensions, pace=Pace(1_000.0, 10))
        self.tunnel = Tunnel(self.client, self.upstream, tap)


class Served:
    """Two real ends and the tunnel between them."""

    def __init__(self, client: ClientConnection, wire: Wire, ledger: Ledger) -> None:
        self.client = client
        self.wire = wire
        self.ledger = ledger

    async def recorded(self) -> dict[str, int]:
        """What was counted, once both ends are gone."""
        async with asyncio.timeout(PATIENCE_S):
            await self.client.wait_closed()
        return self.ledger.counted


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: their transports differ in what they permit."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opened, last first."""
    async with AsyncExitStack() as closing:
        yield closing


Handler = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture
def joined(stack: AsyncExitStack) -> Callable[..., Awaitable[Served]]:
    """A client, through a tunnel, at a server that does what `handler` says."""

    async def start(
        handler: Handler,
        *,
        server: dict[str, Any] | None = None,
        **client: Any,
    ) -> Served:
        options: dict[str, Any] = {"max_size": None, "compression": None, "ping_interval": None}
        upstream = await stack.enter_async_context(
            serve_websockets(handler, "127.0.0.1", 0, **options | (server or {}))
        )
        ledger = Ledger()
        wires: list[Wire] = []

        def leg() -> Leg:
            wires.append(Wire(port_of(upstream), ledger))
            return wires[-1].client

        listener = await asyncio.get_running_loop().create_server(leg, "127.0.0.1", 0)
        stack.callback(listener.close)
        url = f"ws://127.0.0.1:{port_of(listener)}/live"
        connection = await stack.enter_async_context(connect(url, proxy=None, **options | client))
        return Served(connection, wires[0], ledger)

    return start


def port_of(server: Any) -> int:
    """Where a server listens."""
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


async def echo(connection: ServerConnection) -> None:
    """Answers every message with itself."""
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


Joined = Callable[..., Awaitable[Served]]


def deflate(*, takeover: bool, bits: int) -> dict[str, Any]:
    """Both ends' sides of one agreement about compression."""
    theirs = ServerPerMessageDeflateFactory(not takeover, not takeover, bits, bits)
    ours = ClientPerMessageDeflateFactory(not takeover, not takeover, bits, bits)
    return {"server": {"extensions": [theirs]}, "extensions": [ours]}


@pytest.mark.parametrize(
    ("window", "bits"), [("lasts", 15), ("ends", 15), ("lasts", 9), ("none", 0)]
)
async def test_messages_of_every_size(joined: Joined, window: str, bits: int) -> None:
    """Compressed with and without a lasting window, or plain: they arrive, measured as they are."""
    agreed = {} if window == "none" else deflate(takeover=window == "lasts", bits=bits)
    served = await joined(echo, **agreed)
    sizes = [0, 1, 125, 126, 65_535, 65_536, 300_000]
    texts = [json.dumps({"tokens": 2}), *("ä" * (size // 2) for size in sizes)]
    for text in texts:
        await served.client.send(text)
        assert await served.client.recv() == text
    await served.client.close()
    counted = await served.recorded()
    total = sum(len(text.encode()) for text in texts)
    assert counted == {
        "messages": 16,
        "ins": 8,
        "outs": 8,
        "connections": 1,
        "asked": 2,
        "told": 2,
        "bytes": 2 * total,
        "bytes_in": total,
        "bytes_out": total,
    }
    assert served.ledger.inbox == {}


async def test_fragments_pings_and_a_sub_protocol(joined: Joined) -> None:
    """What the ends agree on is theirs; a message in fragments is one message."""
    chosen: list[str | None] = []

    async def handler(connection: ServerConnection) -> None:
        chosen.append(connection.subprotocol)
        await (await connection.ping(b"to the client"))
        assert await connection.recv() == "in three parts"
        await connection.send([b"in ", b"two"])
        await connection.close(4001, "enough")

    served = await joined(
        handler, server={"subprotocols": ["chat.v2"]}, subprotocols=["chat.v1", "chat.v2"]
    )
    async with asyncio.timeout(PATIENCE_S):
        await (await served.client.ping(b"to the server"))
        await served.client.send(["in ", "three ", "parts"])
        assert await served.client.recv() == b"in two"
        with pytest.raises(ConnectionClosed):
            await served.client.recv()
    assert (served.client.close_code, served.client.close_reason) == (4001, "enough")
    assert (chosen, served.client.subprotocol) == (["chat.v2"], "chat.v2")
    counted = await served.recorded()
    assert (counted["ins"], counted["outs"], counted["bytes"]) == (1, 1, 20)


async def test_the_clients_code_and_reason_reach_the_server(joined: Joined) -> None:
    """Whoever closes, the other hears why."""
    heard: asyncio.Future[tuple[int | None, str | None]] = asyncio.Future()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        heard.set_result((connection.close_code, connection.close_reason))

    served = await joined(handler)
    await served.client.close(4321, "going home")
    assert await asyncio.wait_for(heard, PATIENCE_S) == (4321, "going home")


async def test_ten_mebibytes_through_a_slow_reader(joined: Joined) -> None:
    """A large message passes both ways; bytes wait where they come from, not here."""
    size = 10 * 1_048_576
    go_on = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        message = await connection.recv()
        await go_on.wait()
        await connection.send(message)
        await connection.wait_closed()

    served = await joined(handler, max_queue=1)
    content = bytes(range(256)) * (size // 256)
    async with asyncio.timeout(PATIENCE_S):
        await served.client.send(content)
        served.client.transport.pause_reading()
        go_on.set()
        while served.wire.client.waiting_max <= 65_536:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        served.client.transport.resume_reading()
        assert await served.client.recv() == content
    assert served.wire.client.waiting_max < 1_048_576
    assert served.wire.upstream.waiting_max < 1_048_576
    await served.client.close()
    counted = await served.recorded()
    assert (counted["bytes_in"], counted["bytes_out"], counted["messages"]) == (size, size, 2)
    assert served.ledger.inbox.keys() == {"asked", "told"}


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_reset_ends_both_sides_and_is_recorded(joined: Joined, who: str) -> None:
    """No close frame is made up: the other end sees a connection that broke."""
    gone: asyncio.Future[int | None] = asyncio.Future()

    async def handler(connection: ServerConnection) -> None:
        await echo(connection)
        await connection.wait_closed()
        gone.set_result(connection.close_code)

    served = await joined(handler)
    await served.client.send('{"tokens": 6}')
    await served.client.recv()
    getattr(served.wire, who).reset()
    assert await asyncio.wait_for(gone, PATIENCE_S) == 1006
    async with asyncio.timeout(PATIENCE_S):
        await served.client.wait_closed()
    assert served.client.close_code == 1006
    assert (await served.recorded())["told"] == 6


async def test_the_kernel_is_asked_whether_the_other_end_is_there() -> None:
    """A silent tunnel has no timeout of its own; a unix socket has no such option."""
    local, other = socket.socketpair()
    with socket.socket() as raw, local, other:
        for one in (raw, local):
            keep_alive(asyncio.Transport(extra={"socket": one}))
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert local.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    keep_alive(asyncio.Transport())
