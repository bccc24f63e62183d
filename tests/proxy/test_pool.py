"""The pool: reuse, limit, waiting in line, idle expiry, retirement; on real connections."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.heads import Fields, ResponseHead
from usageflow.proxy.pool import ConnectionPool, OnLost
from usageflow.proxy.targets import Dialer, look_up, parse_targets
from usageflow.proxy.upstream_connection import UpstreamConnection

Start = Callable[..., Awaitable[int]]
Open = Callable[..., Awaitable[ConnectionPool]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio


async def answers(wire: Any) -> None:
    """Answer every request with an empty 200."""
    while True:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def mute(wire: Any) -> None:
    """Answer nothing."""
    await wire.gone()


class Question:
    """A request without a body, asked at once; `over` is done when it is answered or failed."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection.start(self, b"GET / HTTP/1.1\r\n\r\n", to_head=False, uploading=False)

    def answered(
        self,
        head: ResponseHead,
        length: int | None,
        body: bytes,
        *,
        complete: bool,
        trailers: Fields,
        raw: bytes,
    ) -> None:
        """The answer."""
        self.over.set_result(head.status)

    def failed(self, error: UpstreamError) -> None:
        """No answer."""
        self.over.set_exception(error)

    def interim(self, head: ResponseHead) -> None:
        """Not expected here."""

    def carried(self, body: bytes, *, complete: bool, trailers: Fields) -> None:
        """Not expected here."""

    def upgraded(self, head: ResponseHead, rest: bytes) -> None:
        """Not expected here."""

    def upstream_full(self) -> None:
        """Not expected here."""

    def upstream_ready(self) -> None:
        """Not expected here."""


async def use(connection: UpstreamConnection) -> None:
    """One complete exchange."""
    assert await Question(connection).over == 200


@pytest.fixture
def pool(upstream: Start, stack: AsyncExitStack) -> Open:
    """Open a pool to an upstream of this script, with these settings."""

    async def start(script: Any = answers, **options: Any) -> ConnectionPool:
        settings = Settings(upstream=f"http://127.0.0.1:{await upstream(script)}", **options)
        (target,) = parse_targets(settings)
        dialer = Dialer(target, timeout_s=5, resolve=look_up)
        loop = asyncio.get_running_loop()

        async def connect(on_lost: OnLost) -> tuple[UpstreamConnection, str]:
            _, connection, address = await dialer.dial(
                lambda: UpstreamConnection(
                    loop, target=target, header_bytes_max=65_536, on_lost=on_lost
                )
            )
            return connection, address

        opened = ConnectionPool(connect, settings)
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
    Question(first)
    connections.release(first)
    assert not first.open
    assert await connections.acquire() not in (first, second)


async def test_figures(pool: Open, eventually: Eventually) -> None:
    """What is open, idle, waited for and in flight can be told at any time."""

    def figures() -> tuple[int, int, int, int]:
        return connections.open, connections.idle, connections.waiting, connections.load

    connections = await pool(upstream_connections_max=2)
    assert figures() == (0, 0, 0, 0)
    first, second = await connections.acquire(), await connections.acquire()
    assert figures() == (2, 0, 0, 2)
    assert connections.full
    waiting = asyncio.ensure_future(connections.acquire())
    await asyncio.sleep(0)
    assert figures() == (2, 0, 1, 3)
    connections.release(first)
    connections.release(second)
    assert await waiting is first
    assert figures() == (2, 1, 0, 1)
    assert not connections.full
    first.close()
    await eventually(lambda: figures() == (1, 1, 0, 0))


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
    assert not connections.waiting
    held.close()


async def test_failing_to_connect_frees_the_slot(pool: Open) -> None:
    """The next in line gets to try, and fails for itself."""
    connections = await pool(upstream_connections_max=1)
    release = asyncio.Event()

    async def refuse(_on_lost: object) -> tuple[UpstreamConnection, str]:
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


async def test_silent_exchanges_fail(pool: Open) -> None:
    """A sweep fails the exchange whose answer is overdue, and spares one that is not."""
    connections = await pool(mute, upstream_read_timeout_s=10)
    now = asyncio.get_running_loop().time()
    connection = await connections.acquire()
    question = Question(connection)
    connections.sweep(now + 9)
    assert not question.over.done()
    connections.sweep(now + 11)
    with pytest.raises(UpstreamTimeout):
        await question.over
    connections.release(connection)


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


async def test_a_connection_that_is_closing_is_passed_over(pool: Open) -> None:
    """Between the end of an idle connection and the news of it, it is not given out."""
    connections = await pool()
    connection = await connections.acquire()
    connections.release(connection)
    connection.close()
    assert connections.idle == 1
    assert connections.take_idle() is None


async def test_addresses_that_are_gone(pool: Open, eventually: Eventually) -> None:
    """Idle connections to them close at once, busy ones when their exchange ends; no other does."""
    connections = await pool()
    idle, busy = await connections.acquire(), await connections.acquire()
    connections.release(idle)
    connections.retire({"127.0.0.9"})
    assert connections.take_idle() is idle
    connections.release(idle)
    connections.retire({"127.0.0.1"})
    assert not idle.open
    await use(busy)
    connections.release(busy)
    assert not busy.open
    await eventually(lambda: connections.empty)
    assert not connections._retired


async def test_lost_while_opening(pool: Open) -> None:
    """A connection that is gone before it is given out occupies no slot."""
    connections = await pool()
    connect = connections._connect

    async def short_lived(on_lost: OnLost) -> tuple[UpstreamConnection, str]:
        connection, address = await connect(on_lost)
        connection.close()
        return connection, address

    connections._connect = short_lived
    connection = await connections.acquire()
    assert connections.empty
    with pytest.raises(UpstreamUnreachable):
        await Question(connection).over


async def test_closing_fails_what_is_in_flight(pool: Open) -> None:
    """Closing ends idle and busy connections; whoever waits for an answer is told."""
    connections = await pool(mute)
    connection = await connections.acquire()
    connections.release(await connections.acquire())
    question = Question(connection)
    await connections.aclose()
    assert connections.empty
    with pytest.raises(UpstreamUnreachable, match="shutting down"):
        await question.over
