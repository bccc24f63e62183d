"""How a WebSocket ends: whoever leaves, what passed is recorded, once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Frame, Opcode

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]
Open = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("messages", [0, 1, 5])
async def test_a_disconnect(
    edge: Open,
    upstream: Start,
    dial: Dial,
    handshake: bytes,
    accept: bytes,
    *,
    who: str,
    how: str,
    messages: int,
) -> None:
    """Whoever leaves, the other one is told, and what passed is recorded once."""
    seen = asyncio.Event()
    said = bytes(Frame(Opcode.TEXT, b'{"usage": {"total": 3}}').serialize(mask=False))

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(accept + said * messages)
        await seen.wait()
        if who == "upstream":
            await leave(wire)
        else:
            await wire.gone()

    async def leave(wire: Any) -> None:
        if how == "reset":
            wire.reset()
        else:
            await wire.close()

    made = await edge(await upstream(script))
    wire = await dial(made.port)
    await wire.send(handshake)
    await wire.head()
    assert await wire.exactly(len(said) * messages) == said * messages
    seen.set()
    if who == "client":
        await leave(wire)
    else:
        await wire.gone()
    events = await made.events()
    counted = await made.counted()
    assert [event.metric for event in events].count("CONNECTION") == counted["CONNECTION"] == 1
    assert counted.get("MESSAGE", 0) == messages
    assert counted.get("TOKEN", 0) == 3 * messages
    assert counted.get("BYTE_OUT", 0) == 23 * messages


async def test_a_disconnect_within_a_message(
    edge: Open, upstream: Start, dial: Dial, handshake: bytes, accept: bytes
) -> None:
    """What was not completed is no message."""
    said = bytes(Frame(Opcode.TEXT, b'{"usage": {"total": 3}}').serialize(mask=False))

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(accept + said + said[:-1])
        await asyncio.sleep(0)

    made = await edge(await upstream(script))
    wire = await dial(made.port)
    await wire.send(handshake)
    await wire.head()
    assert await wire.rest() == said + said[:-1]
    counted = await made.counted()
    assert counted["MESSAGE"] == 1
    assert counted["TOKEN"] == 3


async def test_the_proxy_stops(edge: Open, websocket_server: Start, echo: Any) -> None:
    """Both ends see a connection that broke, and the usage so far is recorded."""
    codes: list[int | None] = []

    async def handler(websocket: ServerConnection) -> None:
        await echo(websocket)
        codes.append(websocket.close_code)

    made = await edge(await websocket_server(handler))
    websocket: Any
    async with made.connect() as websocket:
        await websocket.send("one")
        assert await websocket.recv() == "one"
        made.gateway.drain()
        await websocket.send("two")
        assert await websocket.recv() == "two"
        assert not made.gateway.drained
        await made.gateway.aclose()
        with pytest.raises(ConnectionClosedError):
            await websocket.recv()
        assert websocket.close_code == 1006
    counted = await made.counted()
    assert counted["CONNECTION"] == 1
    assert counted["MESSAGE"] == 4
    assert codes == [1006]


async def test_a_slow_reader(
    edge: Open, upstream: Start, dial: Dial, eventually: Until, *, handshake: bytes, accept: bytes
) -> None:
    """Holds the sender back: what waits within the proxy is bounded; nothing is lost."""
    piece = bytes(Frame(Opcode.BINARY, bytes(60_000)).serialize(mask=False))
    pieces, sent = 1_600, 0

    async def script(wire: Any) -> None:
        nonlocal sent
        await wire.head()
        await wire.send(accept)
        for _ in range(pieces):
            wire.writer.write(piece)
            await wire.writer.drain()
            sent += len(piece)
        await wire.gone()

    made = await edge(await upstream(script))
    wire = await dial(made.port)
    await wire.send(handshake)
    await wire.head()
    await eventually(lambda: sent > len(piece))
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.05)
    assert sent < pieces * len(piece) / 2
    for _ in range(pieces):
        assert await wire.exactly(len(piece)) == piece
    await wire.close()
    counted = await made.counted()
    assert counted["BYTE_OUT"] == pieces * 60_000
    assert counted["MESSAGE"] == pieces
