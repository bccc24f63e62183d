"""The proxy as a process: listening, draining, and its memory under large bodies."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from usageflow.errors import ConfigurationError
from usageflow.proxy.serve import bound_socket, run

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]
Process = asyncio.subprocess.Process
Spawn = Callable[[int], Awaitable[tuple[Process, int]]]

MIB = 1_048_576
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """Run a proxy to an upstream on a port in a process of its own; gives it and its port."""
    started: list[Process] = []

    async def start(upstream_port: int) -> tuple[Process, int]:
        with bound_socket("127.0.0.1:0") as probe:
            port: int = probe.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("served.py")),
            f"http://127.0.0.1:{upstream_port}",
            f"127.0.0.1:{port}",
        )
        started.append(process)
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        return process, port

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


def peak_bytes(process: Process) -> int:
    """The most memory that the process ever held."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize("listen", ["", "8080", ":8080", "127.0.0.1:", "a:b", "127.0.0.1:65536"])
def test_listen_must_be_host_and_port(listen: str) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:8080"):
        bound_socket(listen)


def test_a_taken_port_is_named() -> None:
    """The message names the port and says what to do."""

    async def never(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError

    with bound_socket("127.0.0.1:0") as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port}.*choose another"):
            run(never, listen=f"127.0.0.1:{port}", drain_timeout_s=1)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_is_written_in_brackets() -> None:
    """`[::1]:0` is an address of this machine."""
    with bound_socket("[::1]:0") as listener:
        assert listener.family == socket.AF_INET6


def test_run_serves_until_it_is_told_to_stop() -> None:
    """The lifespan of the app is run, an interrupt ends it, and `run` returns."""
    seen: list[str] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            seen.append((await receive())["type"])
            await send({"type": f"{seen[-1]}.complete"})
            if len(seen) == 1:
                asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)

    run(app, listen="127.0.0.1:0", drain_timeout_s=1)
    assert seen == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.anyio
async def test_sigterm_drains(upstream: Start, dial: Dial, spawn: Spawn) -> None:
    """A request in flight is answered after SIGTERM, new ones are not taken, the process ends."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(wire: Any) -> None:
        await wire.head()
        asked.set()
        await go.wait()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await wire.gone()

    process, port = await spawn(await upstream(slow))
    wire = await dial(port)
    await wire.send(GET)
    await asked.wait()
    process.terminate()
    await asyncio.sleep(0.3)
    with pytest.raises(OSError, match=r"refused|reset"):
        await (await dial(port)).send(GET)
    go.set()
    assert b"200 OK" in await wire.head()
    assert await wire.exactly(2) == b"ok"
    assert await asyncio.wait_for(process.wait(), 5) == -signal.SIGTERM


@pytest.mark.anyio
async def test_streams_of_any_size_need_little_memory(
    upstream: Start, dial: Dial, spawn: Spawn
) -> None:
    """100 MiB down and 100 MiB up, each to a slow reader, add at most 16 MiB."""
    part = bytes(MIB)

    async def both_ways(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MIB))
        for _ in range(100):
            await wire.send(part)
        assert (await wire.head()).startswith(b"POST")
        await asyncio.sleep(0.2)
        for _ in range(100):
            await wire.exactly(MIB)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    process, port = await spawn(await upstream(both_ways, limit=MIB))
    before = peak_bytes(process)
    down = await dial(port)
    await down.send(GET)
    await down.head()
    await asyncio.sleep(0.2)
    for _ in range(100):
        await down.exactly(MIB)
    up = await dial(port)
    await up.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (100 * MIB))
    for _ in range(100):
        await up.send(part)
    assert b"200 OK" in await up.head()
    assert peak_bytes(process) - before <= 16 * MIB
