"""The pool: reuse, limit, waiting in line, idle expiry; on real connections."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.errors import UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.connection import UpstreamConnection
from usageflow.proxy.pool import ConnectionPool
from usageflow.proxy.upstream import Upstream

Start = Callable[..., Awaitable[int]]
Open = Callable[..., Awaitable[ConnectionPool]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio


async def answers(wire: Any) -> None:
    """Answer every request with an empty 200."""
    while True:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def use(connection: UpstreamConnection) -> None:
    """One complete exchange."""
    connection.start(b"GET / HTTP/1.1\r\n\r\n", to_head=False, body_follows=False, chunked=False)
    await connection.head()
    assert await connection.read() == (b"", False)


@pytest.fixture
def pool(upstream: Start, stack: AsyncExitStack) -> Open:
    """Open a pool to an upstream of this script, with these settings."""

    async def start(script: Any = answers, **settings: Any) -> ConnectionPool:
        chosen = Settings(**settings)
        address = Upstream.parse(f"http://127.0.0.1:{await upstream(script)}")
        opened = ConnectionPool(partial(address.connect, settings=chosen), chosen)
        stack.push_async_callback(opened.aclose)
        return opened

    return start


async def test_last_used_is_first_reused(pool: Open) -> None:
    """Connections are reused last in, first out; unfinished ones are closed instead."""
    connections = await pool()
    first, second = await connections.acquire(), await connections.acquire()
    await use(first)
    await use(second)
    connections.release(first)
    connections.release(second)
    assert await connections.acquire() is second
    assert await connections.acquire() is first
    first.start(b"GET / HTTP/1.1\r\n\r\n", to_head=False, body_follows=False, chunked=False)
    connections.release(first)
    assert not first.open
    assert await connections.acquire() not in (first, second)


async def test_the_limit_makes_requests_wait(pool: Open) -> None:
    """Beyond the limit one waits for a release and gets that very connection, in order."""
    connections = await pool(upstream_connections_max=1)
    held = await connections.acquire()
    await use(held)
    waiting = [asyncio.ensure_future(connections.acquire()) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(turn.done() for turn in waiting)
    connections.release(held)
    assert await waiting[0] is held
    assert not waiting[1].done()
    held.close()
    assert await waiting[1] is not held


async def test_waiting_too_long_is_a_timeout(pool: Open) -> None:
    """After the pool timeout the request fails, and whoever waits on is not disturbed."""
    connections = await pool(upstream_connections_max=1, upstream_pool_timeout_s=0.05)
    held = await connections.acquire()
    with pytest.raises(UpstreamTimeout):
        await connections.acquire()
    connections.release(held)
    assert await connections.acquire() is held


async def test_a_turn_that_is_not_wanted_goes_to_the_next(pool: Open) -> None:
    """A request cancelled while it waits, or just after it was served, loses no connection."""
    connections = await pool(upstream_connections_max=1)
    held = await connections.acquire()
    leaver, served, slotted, last = (asyncio.ensure_future(connections.acquire()) for _ in range(4))
    await asyncio.sleep(0.01)
    leaver.cancel()
    await asyncio.sleep(0)
    await use(held)
    connections.release(held)
    served.cancel()  # it has been given the connection but has not run yet
    await asyncio.sleep(0)
    assert await slotted is held
    held.close()
    assert await last is not held
    assert leaver.cancelled()
    assert served.cancelled()


async def test_a_slot_that_is_not_wanted_goes_to_the_next(pool: Open) -> None:
    """The same for the permission to open a connection, and for a turn that has timed out."""
    connections = await pool(upstream_connections_max=1, upstream_pool_timeout_s=0.1)
    held = await connections.acquire()
    slotted, last = (asyncio.ensure_future(connections.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    connections._forget(held)
    slotted.cancel()  # it has been given the slot but has not run yet
    assert (await last).open
    late = asyncio.ensure_future(connections.acquire())
    await asyncio.sleep(0)
    connections._give_up(connections._waiting[0])
    late.cancel()
    await asyncio.wait([late])
    assert not connections._waiting


async def test_failing_to_connect_frees_the_slot(pool: Open) -> None:
    """The next in line gets to try, and fails for itself."""
    connections = await pool(upstream_connections_max=1)
    release = asyncio.Event()

    async def refuse(_on_lost: object) -> UpstreamConnection:
        await release.wait()
        raise UpstreamUnreachable

    connections._connect = refuse
    tries = [asyncio.ensure_future(connections.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamUnreachable] * 3
    assert connections.empty


async def test_idle_connections_are_closed(pool: Open) -> None:
    """A sweep closes what was idle for too long, and nothing else."""
    connections = await pool(upstream_keepalive_s=10)
    old, young = await connections.acquire(), await connections.acquire()
    connections.release(old)
    connections.release(young)
    old.idle_since -= 11
    connections.sweep(asyncio.get_running_loop().time())
    assert not old.open
    assert await connections.acquire() is young


async def test_a_connection_closed_by_the_peer_is_forgotten(
    pool: Open, eventually: Eventually
) -> None:
    """An idle connection that the upstream ends, or speaks on unasked, is not given out again."""

    async def rude(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await wire.head()
        await wire.send(b"HTTP/1.1 408 Too Slow\r\n\r\n")
        await wire.gone()

    connections = await pool(rude)
    connection = await connections.acquire()
    await use(connection)
    connections.release(connection)
    connection._transport.write(b"\r\n\r\n")
    await eventually(lambda: connections.empty)
    assert connections.take_idle() is None
    assert not connection.open


async def test_lost_while_opening(pool: Open, upstream: Start) -> None:
    """A connection that is gone before it is given out occupies no slot."""
    connections = await pool()
    connect = connections._connect

    async def short_lived(on_lost: Any) -> UpstreamConnection:
        connection = await connect(on_lost)
        connection.close()
        return connection

    connections._connect = short_lived
    connection = await connections.acquire()
    assert connections.empty
    connection.start(b"GET / HTTP/1.1\r\n\r\n", to_head=False, body_follows=False, chunked=False)
    with pytest.raises(UpstreamUnreachable):
        await connection.head()


async def test_closing_fails_what_is_in_flight(pool: Open) -> None:
    """Closing ends idle and busy connections; whoever waits for an answer is told."""

    async def mute(wire: Any) -> None:
        await wire.gone()

    connections = await pool(mute)
    connection = await connections.acquire()
    connections.release(await connections.acquire())
    connection.start(b"GET / HTTP/1.1\r\n\r\n", to_head=False, body_follows=False, chunked=False)
    await connections.aclose()
    assert connections.empty
    with pytest.raises(UpstreamUnreachable, match="shutting down"):
        await connection.head()
