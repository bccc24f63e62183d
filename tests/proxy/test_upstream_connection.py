"""One connection to an upstream: exchanges, one after the other, told to whoever asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from usageflow.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from usageflow.proxy.heads import Fields, ResponseHead
from usageflow.proxy.targets import Target
from usageflow.proxy.upstream_connection import UpstreamConnection

Start = Callable[..., Awaitable[int]]
Until = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Notes:
    """An Asker, and a Pipe, that notes what it is told."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.lengths: list[int | None] = []
        self.body = b""
        self.trailers: Fields = []
        self.complete = False
        self.error: UpstreamError | None = None
        self.rest: bytes | None = None
        self.ended = False
        self.full = False

    def interim(self, head: ResponseHead) -> None:
        """See Asker."""
        self.statuses.append(head.status)

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
        """See Asker."""
        self.statuses.append(head.status)
        self.lengths.append(length)
        assert raw.endswith(b"\r\n\r\n")
        self.carried(body, complete=complete, trailers=trailers)

    def carried(self, body: bytes, *, complete: bool, trailers: Fields) -> None:
        """See Asker."""
        assert not self.complete
        self.body += body
        self.complete = complete
        self.trailers = trailers

    def upgraded(self, head: ResponseHead, rest: bytes) -> None:
        """See Asker."""
        self.statuses.append(head.status)
        self.rest = rest

    def failed(self, error: UpstreamError) -> None:
        """See Asker."""
        assert self.error is None
        self.error = error

    def upstream_full(self) -> None:
        """See Asker."""
        self.full = True

    def upstream_ready(self) -> None:
        """See Asker."""
        self.full = False

    def from_upstream(self, data: bytes) -> None:
        """See Pipe."""
        self.body += data

    def upstream_ended(self) -> None:
        """See Pipe."""
        self.ended = True


Open = Callable[..., Awaitable[UpstreamConnection]]


@pytest.fixture
async def connect(upstream: Start) -> AsyncIterator[Open]:
    """Open a connection to an upstream that plays a script."""
    opened = []
    target = Target("127.0.0.1", 0, None, None, None, b"api", "http://api")
    lost: list[UpstreamConnection] = []

    async def start(script: Any) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(
                loop, target=target, header_bytes_max=1_000, on_lost=lost.append
            ),
            "127.0.0.1",
            await upstream(script),
        )
        opened.append(connection)
        return connection

    yield start
    for connection in opened:
        connection.close()
    await asyncio.sleep(0.01)
    assert lost == opened


def ask(connection: UpstreamConnection, data: bytes = GET, **given: Any) -> Notes:
    """Start an exchange."""
    notes = Notes()
    connection.start(notes, data, **{"to_head": False, "uploading": False} | given)
    return notes


def now() -> float:
    """By the clock of the loop."""
    return asyncio.get_running_loop().time()


async def test_one_exchange_after_the_other(connect: Open, eventually: Until) -> None:
    """Nothing of one is left for the next; the first is never stale."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 103 Hi\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
        await wire.send(b"\r\n2\r\nok\r\n0\r\nA: 1\r\n\r\n")
        await wire.head()
        await wire.send(OK)
        await wire.gone()

    connection = await connect(script)
    assert (connection.open, connection.reusable, connection.stale) == (True, True, False)
    first = ask(connection)
    assert not connection.reusable
    assert not connection.stale
    await eventually(lambda: first.complete)
    assert (first.statuses, first.lengths, first.body) == ([103, 200], [None], b"ok")
    assert first.trailers == [(b"A", b"1")]
    connection.rest(now())
    second = ask(connection)
    assert connection.stale
    await eventually(lambda: second.complete)
    assert (second.statuses, second.lengths, second.trailers) == ([200], [2], [])
    assert connection.reusable
    assert not connection.stale


async def test_bytes_between_exchanges_end_the_connection(connect: Open, eventually: Until) -> None:
    """They might be taken for the next answer."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(OK)
        await asyncio.sleep(0.05)
        await wire.send(OK)
        await wire.gone()

    connection = await connect(script)
    notes = ask(connection)
    await eventually(lambda: notes.complete)
    connection.rest(now())
    assert connection.reusable
    await eventually(lambda: not connection.open)
    assert not connection.reusable
    assert notes.body == b"ok"


async def test_a_closed_connection_fails_whoever_starts(connect: Open, eventually: Until) -> None:
    """In the next turn of the loop, as any other answer."""

    async def script(wire: Any) -> None:
        await wire.close()

    connection = await connect(script)
    await eventually(lambda: not connection.open)
    notes = ask(connection)
    assert notes.error is None
    connection.write(b"more")
    connection.pause()
    await eventually(lambda: notes.error)
    assert isinstance(notes.error, UpstreamUnreachable)


@pytest.mark.parametrize("first", [True, False])
async def test_times_out_once(connect: Open, first: bool) -> None:  # noqa: FBT001
    """The asker is told; a connection that owes nothing ends without a word."""

    async def script(wire: Any) -> None:
        await wire.gone()

    connection = await connect(script)
    notes = ask(connection) if first else Notes()
    connection.time_out()
    connection.fail(UpstreamUnreachable("again"))
    assert isinstance(notes.error, UpstreamTimeout) is first
    assert not connection.open
    assert not connection.reusable


async def test_silence_counts_while_the_upstream_is_due(connect: Open, eventually: Until) -> None:
    """Not while it waits for the upload, nor for a client that reads slowly."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.exactly(2)
        await wire.send(OK[:-1])
        await wire.gone()

    connection = await connect(script)
    later = now() + 100
    assert connection.silence_s(later) == 0
    notes = ask(connection, uploading=True)
    assert connection.silence_s(later) == 0
    connection.write(b"12")
    connection.end_upload()
    assert connection.silence_s(later) > 90
    await eventually(lambda: notes.body)
    connection.pause()
    connection.pause()
    assert connection.silence_s(later) == 0
    connection.resume()
    connection.resume()
    assert connection.silence_s(later) > 90
    connection.close()
    assert notes.error is None


async def test_an_upload_that_is_not_taken(connect: Open, eventually: Until) -> None:
    """The asker is told to wait, the silence counts, and the connection serves nobody else."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(OK)
        await asyncio.sleep(0.2)
        await wire.gone()

    connection = await connect(script)
    notes = ask(connection, uploading=True)
    while not notes.full:
        connection.write(b"z" * 100_000)
    assert connection.silence_s(now() + 100) > 90
    connection.end_upload()
    await eventually(lambda: notes.complete)
    assert not connection.reusable
    await eventually(lambda: not notes.full)
    assert connection.reusable


@pytest.mark.parametrize("paused", [True, False])
async def test_a_tunnel(connect: Open, eventually: Until, *, paused: bool) -> None:
    """What came with the 101 is given on, then every byte as it comes; it is never used again."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 101 S\r\nUpgrade: a, WebSocket\r\n\r\nfirst")
        assert await wire.exactly(3) == b"all"
        await wire.send(b"second")

    connection = await connect(script)
    notes = ask(connection, upgrading=True)
    await eventually(lambda: notes.rest)
    assert notes.rest == b"first"
    connection.carry(notes)
    if paused:
        connection.pause()
    connection.write(b"all")
    if paused:
        await asyncio.sleep(0.05)
        assert notes.body == b""
        connection.resume()
    await eventually(lambda: notes.ended)
    assert notes.body == b"second"
    assert not connection.reusable
    assert notes.error is None


async def test_the_end_of_a_tunnel_that_is_not_taken(connect: Open, eventually: Until) -> None:
    """What was written is still sent; an upstream that takes nothing is silent, and is ended."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n")
        wire.writer.transport.pause_reading()
        await asyncio.sleep(30)

    connection = await connect(script)
    notes = ask(connection, upgrading=True)
    await eventually(lambda: notes.rest is not None)
    while not notes.full:
        connection.write(b"z" * 1_000_000)
        connection.carry(notes)
    connection.end_pipe()
    assert connection.silence_s(now() + 100) > 90
    assert not notes.ended
    connection.time_out()
    await eventually(lambda: notes.ended)


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 413 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
async def test_the_last_words_of_an_upstream_that_hung_up(
    connect: Open, eventually: Until, answer: bytes
) -> None:
    """An answer that lies in the kernel when our write fails is an answer."""
    heard = asyncio.Event()

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.exactly(1)
        await wire.send(answer)
        heard.set()

    connection = await connect(script)
    notes = ask(connection, uploading=True)
    connection.pause()  # what arrives stays in the kernel
    connection.write(b"z" * 100_000)
    await asyncio.wait_for(heard.wait(), 10)
    while connection.open:
        connection.write(b"z")
        await asyncio.sleep(0.001)
    await eventually(lambda: notes.complete)
    assert notes.body == b"ok"
    assert notes.error is None


async def test_an_upload_without_spare_handles(
    connect: Open, eventually: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process has none left, the exchange goes on without."""

    def none_left(_: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.dup", none_left)

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.exactly(2)
        await wire.send(OK)
        await wire.gone()

    connection = await connect(script)
    notes = ask(connection, uploading=True)
    connection.write(b"12")
    connection.end_upload()
    await eventually(lambda: notes.complete)
    assert connection.reusable
