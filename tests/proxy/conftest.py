"""Real TCP on both sides of the proxy: scripted upstreams, a served gateway, raw clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.middleware.feed import FixedFeed
from usageflow.middleware.meter import Meter
from usageflow.policies import PolicySet
from usageflow.proxy.gateway import Gateway

PATIENCE_S = 10.0
"""Longest wait for anything in a conversation; reached only when something is broken."""


class Wire:
    """One end of a TCP connection, spoken to in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), PATIENCE_S)

    async def head(self) -> bytes:
        """Everything to the empty line, and that."""
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        return await asyncio.wait_for(self.reader.readexactly(count), PATIENCE_S)

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; the last one is empty."""
        size = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), PATIENCE_S)
        data = await self.exactly(int(size, 16) + 2)
        return data[:-2]

    async def chunks(self) -> bytes:
        """All chunks, joined."""
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)

    async def rest(self) -> bytes:
        """Everything until the other end closes."""
        return await asyncio.wait_for(self.reader.read(-1), PATIENCE_S)

    async def gone(self) -> None:
        """Return when the other end has closed or reset the connection."""
        with suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(65_536), PATIENCE_S):
                pass

    def reset(self) -> None:
        """End the connection without a word."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """End the connection in good order."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


Script = Callable[[Any], Awaitable[None]]
"""What an upstream does with each connection; it is given a Wire."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that the proxy runs on in production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until a condition holds."""
    return until


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opened, last first."""
    async with AsyncExitStack() as closing:
        yield closing


@pytest.fixture
def upstream(stack: AsyncExitStack) -> Callable[[Script], Awaitable[int]]:
    """Start an upstream that plays `script` on every connection; gives its port."""

    async def start(script: Script, **options: Any) -> int:
        wires: list[Wire] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            wire = Wire(reader, writer)
            wires.append(wire)
            try:
                await script(wire)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass  # the proxy has gone away
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)

        async def stop() -> None:
            server.close()
            for wire in wires:
                wire.reset()
            await asyncio.sleep(0.01)  # their scripts end

        stack.push_async_callback(stop)
        port: int = server.sockets[0].getsockname()[1]
        return port

    return start


@pytest.fixture
def gateway(stack: AsyncExitStack) -> Callable[..., Awaitable[Gateway]]:
    """A started Gateway to the upstream on a port; unmetered, unless `policies` are among the
    settings.
    """

    async def start(upstream_port: int, **given: Any) -> Gateway:
        settings = Settings(**{"upstream": f"http://127.0.0.1:{upstream_port}"} | given)
        meter = None
        if settings.policies is None and settings.server is None:
            meter = Meter(settings, feed=FixedFeed(PolicySet.EMPTY), app=False)
        made = Gateway(settings, meter=meter)
        await made.start()
        stack.push_async_callback(made.aclose)
        return made

    return start


@pytest.fixture
def proxy(
    stack: AsyncExitStack, gateway: Callable[..., Awaitable[Gateway]], tmp_path: Path
) -> Callable[..., Awaitable[int]]:
    """Serve a Gateway to the upstream on a port of this machine; gives its own port."""

    async def start(upstream_port: int, **given: Any) -> int:
        made = await gateway(upstream_port, **{"spool_dir": str(tmp_path / "spool")} | given)
        server = await asyncio.get_running_loop().create_server(made.connection, "127.0.0.1", 0)

        async def stop() -> None:
            server.close()

        stack.push_async_callback(stop)
        port: int = server.sockets[0].getsockname()[1]
        return port

    return start


@pytest.fixture
def dial(stack: AsyncExitStack) -> Callable[[int], Awaitable[Wire]]:
    """Open a connection to a port of this machine."""

    async def open_wire(port: int) -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port, limit=1_048_576))
        stack.push_async_callback(wire.close)
        return wire

    return open_wire
