"""What passes through a WebSocket: every byte as it was, and counted."""

import asyncio
import itertools
import os
import struct
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]
Open = Callable[..., Awaitable[Any]]

PATIENCE_S = 10.0

pytestmark = pytest.mark.anyio


def frame(first: int, payload: bytes, *, mask: bytes = b"") -> bytes:
    """A frame, however odd its first byte is."""
    size, masked = len(payload), 0x80 * bool(mask)
    if size < 126:
        head = bytes([first, masked | size])
    else:
        head = bytes([first, masked | 126]) + struct.pack("!H", size)
    if mask:
        payload = bytes(
            byte ^ key for byte, key in zip(payload, itertools.cycle(mask), strict=False)
        )
    return head + mask + payload


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_pass_and_are_counted(
    edge: Open, websocket_server: Start, compression: str | None
) -> None:
    """Sub-protocol, extension, texts, bytes, fragments and pings work as without a proxy; messages,
    their sizes, values and the time are recorded.
    """

    async def answer(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.send(message)
        assert websocket.subprotocol == "second"

    protocols = [Subprotocol("first"), Subprotocol("second")]
    port = await websocket_server(answer, subprotocols=protocols[1:], compression=compression)
    made = await edge(port)
    async with made.connect(subprotocols=protocols, compression=compression) as websocket:
        assert websocket.subprotocol == "second"
        extensions = websocket.response.headers.get("Sec-WebSocket-Extensions")
        assert (extensions is not None) == (compression == "deflate")
        for message in ('{"usage": {"total": 7}}', b"\x00\xff", "", '{"usage": {"total": 0.5}}'):
            await websocket.send(message)
            assert await websocket.recv() == message
        await websocket.send(["in ", "three ", "parts"])
        assert await websocket.recv() == "in three parts"
        await asyncio.wait_for(await websocket.ping(b"are you there"), PATIENCE_S)
    counted = await made.counted()
    assert counted.pop("SECOND") > 0
    size = 23 + 2 + 25 + 14
    assert counted == {
        "CONNECTION": 1,
        "MESSAGE": 10,
        "BYTE_IN": size,
        "BYTE_OUT": size,
        "TOKEN": Decimal("7.5"),
    }


async def test_a_large_message(edge: Open, websocket_server: Start, echo: Any) -> None:
    """10 MiB arrive as they were, both ways, and are counted."""
    made = await edge(await websocket_server(echo, compression=None))
    message = os.urandom(1_048_576) * 10
    async with made.connect(compression=None) as websocket:
        await websocket.send(message)
        assert await websocket.recv() == message
    counted = {event.metric: event for event in await made.events()}
    assert counted["BYTE_IN"].quantity == counted["BYTE_OUT"].quantity == len(message)
    assert counted["TOKEN"].state == "inbox"  # too large to be looked into


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_close_codes(edge: Open, websocket_server: Start, code: int) -> None:
    """Code and reason of whoever closes are what the other one sees."""
    told: list[tuple[int | None, str | None]] = []

    async def handler(websocket: ServerConnection) -> None:
        if websocket.request.path.endswith("server"):  # type: ignore[union-attr]
            await websocket.close(code, "für heute")
        else:
            await websocket.wait_closed()
        told.append((websocket.close_code, websocket.close_reason))

    made = await edge(await websocket_server(handler))
    async with made.connect("/live/client") as websocket:
        await websocket.close(code, "für heute")
    async with made.connect("/live/server") as websocket:
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert (websocket.close_code, websocket.close_reason) == (code, "für heute")
    assert (await made.counted())["CONNECTION"] == 2
    assert told == [(code, "für heute")] * 2


FROM_CLIENT = [
    frame(0xF1, b"reserved bits", mask=b"abcd"),
    frame(0x81, b"\xff\xfe no UTF-8", mask=b"\0\0\0\0"),
    frame(0x09, b"a ping in fragments", mask=b"1234"),
    frame(0x83, b"an unknown kind", mask=b"wxyz"),
    frame(0x89, b"a ping that is too long" * 9, mask=b"abcd"),
    frame(0x81, b"not masked"),
    frame(0x80, b"continues nothing", mask=b"abcd"),
    frame(0x88, b"\x00", mask=b"abcd") + frame(0x81, b"after the close", mask=b"abcd"),
    b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff a length beyond all",
    b"no frame at all \x00\x01\x02",
]


@pytest.mark.parametrize("odd", FROM_CLIENT)
async def test_odd_frames_pass_untouched(
    edge: Open, upstream: Start, dial: Dial, *, odd: bytes, handshake: bytes, accept: bytes
) -> None:
    """Every byte arrives as it was, both ways. What cannot be counted is told, never left out."""
    arrived = bytearray()
    data = frame(0x81, b"before", mask=b"abcd") + odd + frame(0x82, b"after", mask=b"abcd")

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(accept)
        arrived.extend(await wire.exactly(len(data)))
        await wire.send(data)
        await wire.gone()

    made = await edge(await upstream(script))
    wire = await dial(made.port)
    await wire.send(handshake)
    assert await wire.head() == accept.replace(
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    )
    for start in range(0, len(data), 7):
        await wire.send(data[start : start + 7])
    assert await wire.exactly(len(data)) == data
    await wire.close()
    events = await made.events()
    assert bytes(arrived) == data
    of_messages = [event for event in events if event.metric == "MESSAGE"]
    assert sum(event.quantity or 0 for event in of_messages) >= 1
    assert "inbox" in {event.state for event in of_messages}  # masked frames from a server
    assert [event.metric for event in events].count("CONNECTION") == 1
