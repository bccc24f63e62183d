"""WebSockets through a whole proxy: real servers and clients, and what is recorded of them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from usageflow.events import UsageEvent, decode
from usageflow.proxy.gateway import Gateway
from usageflow.recorder import read_spool

Begin = Callable[..., Awaitable[Gateway]]
Handler = Callable[[ServerConnection], Awaitable[None]]

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET /live/x?y HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\nX-Account: acct_1\r\n\r\n"
    % KEY.encode()
)
ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
POLICY = """
[[policy]]
name = "{name}"
match = "{match}"
identify = [ {{ from = "header", name = "x-account" }}, {{ from = "metadata", value = "nobody" }} ]
field = "account_id"
metric = "{metric}"
quantity = {quantity}
when = "response"
"""
QUANTITIES = {
    "CONNECTION": "1",
    "MESSAGE": '"websocket.messages"',
    "BYTE_IN": '"websocket.bytes_in"',
    "BYTE_OUT": '"websocket.bytes_out"',
    "SECOND": '"websocket.seconds"',
    "TOKEN": '"websocket.sent.usage.total"',
}
POLICIES = "".join(
    POLICY.format(
        name=metric, match="WEBSOCKET /live/{rest:path}", metric=metric, quantity=quantity
    )
    for metric, quantity in QUANTITIES.items()
)
PATIENCE_S = 10.0


class Edge:
    """A served gateway, where it is and what it records."""

    def __init__(self, gateway: Gateway, port: int, spool: Path) -> None:
        self.gateway = gateway
        self.port = port
        self._spool = spool

    def connect(self, path: str = "/live/x", **options: Any) -> connect:
        """A WebSocket through the proxy."""
        uri = f"ws://127.0.0.1:{self.port}{path}"
        headers = {"X-Account": "acct_1"}
        return connect(uri, additional_headers=headers, proxy=None, max_size=None, **options)

    async def events(self) -> list[UsageEvent]:
        """All of them, when every tunnel is over and it has stopped."""
        async with asyncio.timeout(PATIENCE_S):
            while self.gateway.figures.tunnels_open or self.gateway.figures.in_flight:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.001)
        await self.gateway.aclose()
        return list(map(decode, read_spool(self._spool)))

    async def counted(self) -> dict[str, Decimal]:
        """The quantities by metric."""
        found: dict[str, Decimal] = {}
        for event in await self.events():
            assert event.identity.value == "acct_1"
            if event.metric == "TOKEN" and event.state == "inbox":
                continue  # no message had any
            assert event.state == "counted", event
            found[event.metric] = found.get(event.metric, Decimal()) + (event.quantity or 0)
        return found


@pytest.fixture
def edge(gateway: Begin, stack: AsyncExitStack, tmp_path: Path) -> Callable[..., Awaitable[Edge]]:
    """Start a metering proxy before the upstream on a port."""
    (tmp_path / "policies.toml").write_text(POLICIES)

    async def start(upstream_port: int, **given: Any) -> Edge:
        chosen = {"policies": str(tmp_path / "policies.toml"), "spool_dir": str(tmp_path / "spool")}
        made = await gateway(upstream_port, **chosen | given)
        server = await asyncio.get_running_loop().create_server(made.connection, "127.0.0.1", 0)
        stack.callback(server.close)
        return Edge(made, server.sockets[0].getsockname()[1], tmp_path / "spool")

    return start


@pytest.fixture
def websocket_server(stack: AsyncExitStack) -> Callable[..., Awaitable[int]]:
    """Start a server that hands each WebSocket to `handler`; gives its port."""

    async def start(handler: Handler, **options: Any) -> int:
        serving = serve_websockets(handler, "127.0.0.1", 0, max_size=None, **options)
        server = await stack.enter_async_context(serving)
        port: int = next(iter(server.sockets)).getsockname()[1]
        return port

    return start


@pytest.fixture
def policies() -> str:
    """The policies of `edge`, one for each quantity, all of WebSockets under /live/."""
    return POLICIES


@pytest.fixture
def handshake() -> bytes:
    """A good one."""
    return HANDSHAKE


@pytest.fixture
def accept() -> bytes:
    """The answer that accepts it, as an upstream writes it."""
    return ACCEPT


@pytest.fixture
def echo() -> Handler:
    """A handler that sends everything back."""

    async def handler(websocket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for message in websocket:
                await websocket.send(message)

    return handler
