"""One connection: framing of the answer, backpressure, and when it may be used again."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.connection import READ_AHEAD_BYTES_MAX, UpstreamConnection
from usageflow.proxy.serve import bound_socket
from usageflow.proxy.upstream import Upstream

Start = Callable[..., Awaitable[int]]
Open = Callable[..., Awaitable[UpstreamConnection]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def connection(upstream: Start, stack: AsyncExitStack) -> Open:
    """Open a connection to an upstream that plays a script, or sends bytes after each head."""

    async def start(script: Any) -> UpstreamConnection:
        async def reply(wire: Any) -> None:
            while True:
                await wire.head()
                await wire.send(script)

        port = await upstream(script if callable(script) else reply)
        opened = await Upstream.parse(f"http://127.0.0.1:{port}").connect(
            lambda _: None, Settings()
        )
        stack.callback(opened.close)
        return opened

    return start


def begin(connection: UpstreamConnection, **options: bool) -> None:
    """Send a request without a body, unless the options say that one follows."""
    chosen = {"to_head": False, "body_follows": False, "chunked": False, **options}
    connection.start(b"GET / HTTP/1.1\r\n\r\n", **chosen)


async def whole(connection: UpstreamConnection) -> tuple[int, bytes]:
    """Status and body of the answer."""
    head = await connection.head()
    body, more = b"", True
    while more:
        part, more = await connection.read()
        body += part
    return head.status, body


async def test_exchanges_follow_each_other(connection: Open) -> None:
    """A connection whose exchange ended well carries the next one."""
    opened = await connection(OK)
    assert opened.reusable
    for _ in range(3):
        begin(opened)
        assert not opened.reusable
        assert await whole(opened) == (200, b"ok")
        assert opened.reusable
        opened.rest(0.0)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"HTTP/1.1 200 OK\r\n",
        OK + b"garbage",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_left_over_bytes_and_close_end_it(connection: Open, answer: bytes) -> None:
    """The answer is delivered, but nobody trusts the connection any more."""
    opened = await connection(answer)
    begin(opened)
    assert await whole(opened) == (200, b"ok")
    assert not opened.reusable


async def test_a_body_after_a_head_request_is_nobodys(
    connection: Open, eventually: Eventually
) -> None:
    """An upstream that sends one anyway loses the connection, whether it comes at once or later."""
    opened = await connection(OK)
    begin(opened, to_head=True)
    assert await whole(opened) == (200, b"")
    assert not opened.reusable

    async def later(wire: Any) -> None:
        await wire.head()
        await wire.send(OK[:-2])
        await wire.head()
        await wire.send(b"ok")
        await wire.gone()

    opened = await connection(later)
    begin(opened, to_head=True)
    assert await whole(opened) == (200, b"")
    assert opened.reusable
    opened._transport.write(b"\r\n\r\n")
    await eventually(lambda: not opened.reusable)


async def test_an_unfinished_upload_ends_it(connection: Open) -> None:
    """An answer that is complete before the request is: the rest of the request is unknown."""
    opened = await connection(OK)
    begin(opened, body_follows=True)
    assert await whole(opened) == (200, b"ok")
    assert not opened.reusable


@pytest.mark.parametrize(
    "filler", [b"X: y\r\n", b"1" * 100, b"X" * 100], ids=["trailers", "size", "name"]
)
async def test_nothing_between_parts_grows_for_ever(connection: Open, filler: bytes) -> None:
    """Endless trailers or chunk extensions are cut off at the limit of a head."""

    async def endless(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await wire.send(b"0\r\n" if filler != b"1" * 100 else b"1;")
        for _ in range(100_000):
            await wire.send(filler)

    opened = await connection(endless)
    begin(opened)
    with pytest.raises(UpstreamError, match="too large"):
        await whole(opened)


async def test_a_slow_reader_slows_the_upstream(connection: Open) -> None:
    """Nothing is read ahead beyond the bound; everything arrives in the end."""
    sent = 0

    async def torrent(wire: Any) -> None:
        nonlocal sent
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(200):
            await wire.send(b"t" * 100_000)
            sent += 100_000

    opened = await connection(torrent)
    begin(opened)
    await opened.head()
    await asyncio.sleep(0.1)
    loop_read_bytes = 262_144
    assert opened._parts_bytes <= READ_AHEAD_BYTES_MAX + loop_read_bytes
    assert sent < 15_000_000
    assert opened.silence_s(asyncio.get_running_loop().time() + 1_000) == 0
    assert len((await whole(opened))[1]) == 20_000_000


async def test_a_slow_upstream_slows_the_upload(connection: Open) -> None:
    """write_body waits while the upstream does not read, and that is its silence."""
    go = asyncio.Event()

    async def lazy(wire: Any) -> None:
        await wire.head()
        await go.wait()
        await wire.exactly(20_000_000)
        await wire.send(OK)

    opened = await connection(lazy)
    begin(opened, body_follows=True)
    later = asyncio.get_running_loop().time() + 1_000
    assert opened.silence_s(later) == 0
    sent = 0

    async def upload() -> None:
        nonlocal sent
        for _ in range(200):
            await opened.write_body(b"u" * 100_000)
            sent += 100_000
        opened.end_body()

    uploading = asyncio.ensure_future(upload())
    await asyncio.sleep(0.1)
    assert sent < 15_000_000
    assert opened.silence_s(later) > 900
    go.set()
    await uploading
    assert await whole(opened) == (200, b"ok")
    assert opened.reusable


async def test_a_blocked_upload_ends_with_the_connection(connection: Open) -> None:
    """Whoever waits for room is woken when the connection fails; later parts go nowhere."""

    async def lazy(wire: Any) -> None:
        await wire.head()
        await asyncio.sleep(10)

    opened = await connection(lazy)
    begin(opened, body_follows=True, chunked=True)

    async def upload() -> None:
        for _ in range(200):
            await opened.write_body(b"u" * 100_000)
        opened.end_body()

    uploading = asyncio.ensure_future(upload())
    await asyncio.sleep(0.05)
    assert not uploading.done()
    opened.time_out()
    await uploading
    with pytest.raises(UpstreamTimeout):
        await opened.head()


async def test_an_answer_that_lies_unread_when_a_write_fails(stack: AsyncExitStack) -> None:
    """An upstream that answers an upload and resets the connection is heard all the same."""

    def refuse() -> None:
        wire, _ = listener.accept()
        with wire:
            wire.recv(1)  # the rest stays unread, so that closing is a reset
            wire.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")

    listener = stack.enter_context(bound_socket("127.0.0.1:0"))
    listener.listen()
    refusing = threading.Thread(target=refuse)
    refusing.start()
    address = Upstream.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
    opened = await address.connect(lambda _: None, Settings())
    begin(opened, body_follows=True)
    await asyncio.sleep(0)
    refusing.join()  # the loop stands still, so the answer is not read before the next write
    await opened.write_body(b"more")
    assert await whole(opened) == (413, b"no")
    assert not opened.reusable


async def test_stale_means_closed_before_a_byte_came_back(connection: Open) -> None:
    """Only a reused connection on which nothing was answered is stale."""

    async def once(wire: Any) -> None:
        await wire.head()
        await wire.send(OK)
        await wire.head()

    opened = await connection(once)
    begin(opened)
    assert await whole(opened) == (200, b"ok")
    assert not opened.stale
    opened.rest(0.0)
    begin(opened)
    with pytest.raises(UpstreamUnreachable):
        await opened.head()
    assert opened.stale
