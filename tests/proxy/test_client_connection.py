"""The client's side: reading on, holding back, ending; over TCP, TLS and unix sockets."""

import asyncio
import datetime as dt
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from usageflow.proxy.gateway import Gateway

Start = Callable[..., Awaitable[int]]
Begin = Callable[..., Awaitable[Gateway]]
Dial = Callable[[int], Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio

GET = b"GET /a HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: api\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPGRADE = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
MB = 1_048_576


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that is done here makes the event loop or the proxy complain.

    Times are looked at more often than in production.
    """
    monkeypatch.setattr("usageflow.proxy.gateway.TICK_S", 0.05)
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.messages == []


@pytest.fixture
def serve(gateway: Begin, stack: AsyncExitStack, tmp_path: Path) -> Callable[..., Awaitable[Any]]:
    """A served gateway and its port; `ssl` and `buffer_bytes` are of the listening side."""

    async def start(upstream_port: int, **given: Any) -> tuple[Gateway, int]:
        context, buffer_bytes = given.pop("ssl", None), given.pop("buffer_bytes", None)
        made = await gateway(upstream_port, spool_dir=str(tmp_path / "spool"), **given)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(made.connection, "127.0.0.1", 0, ssl=context)
        if buffer_bytes is not None:  # the sockets that it accepts inherit it
            server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        stack.callback(server.close)
        return made, server.sockets[0].getsockname()[1]

    return start


Serve = Callable[..., Awaitable[tuple[Gateway, int]]]


async def dial_small(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to a port of this machine, with little room for what is not read."""
    with socket.socket() as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        small.connect(("127.0.0.1", port))
        return await asyncio.open_connection(sock=small.dup(), limit=1)


async def always_ok(wire: Any) -> None:
    """Answers every request without a body."""
    while True:
        await wire.head()
        await wire.send(OK)


# Reading on


async def test_answers_that_are_not_read_hold_back_the_next_request(
    upstream: Start, serve: Serve, dial: Dial
) -> None:
    """Small answers to many pipelined requests pile up nowhere: the upstream is not even asked."""
    asked = 0
    body = b"z" * 50_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def counting(wire: Any) -> None:
        nonlocal asked
        while True:
            await wire.head()
            asked += 1
            await wire.send(answer)

    _, port = await serve(await upstream(counting))
    wire = await dial(port)
    wire.writer.transport.pause_reading()
    wire.writer.write(GET * 2_000)
    known = -1
    while known != asked:
        known = asked
        await asyncio.sleep(0.1)
    assert 0 < asked < 1_000
    wire.writer.transport.resume_reading()
    for _ in range(2_000):
        await wire.head()
        assert await wire.exactly(len(body)) == body
    assert asked == 2_000


async def test_many_pipelined_requests_that_need_no_upstream(serve: Serve, dial: Dial) -> None:
    """Their answers do not call one another until the stack is full."""
    _, port = await serve(1, websockets="off")
    wire = await dial(port)
    wire.writer.write(UPGRADE * 2_000)
    for _ in range(2_000):
        head = await wire.head()
        assert head.startswith(b"HTTP/1.1 501 ")
        await wire.exactly(int(head.split(b"content-length: ")[1]))


async def test_more_is_not_read_than_a_head_while_a_request_is_on_its_way(
    upstream: Start, serve: Serve, dial: Dial
) -> None:
    """A client that keeps sending is not read into memory; all of it is served in the end."""
    go = asyncio.Event()

    async def slow(wire: Any) -> None:
        await wire.head()
        await go.wait()
        await wire.send(OK)
        await always_ok(wire)

    _, port = await serve(await upstream(slow))
    wire = await dial(port)
    wire.writer.transport.set_write_buffer_limits(1)
    count = 10 * MB // len(GET)
    wire.writer.write(GET * count)
    await asyncio.sleep(0.2)
    assert wire.writer.transport.get_write_buffer_size() > 2 * MB  # what no kernel took
    go.set()
    for _ in range(200):
        assert await wire.head() + await wire.exactly(2) == OK
    wire.reset()


async def test_frames_that_come_with_a_handshake(upstream: Start, serve: Serve, dial: Dial) -> None:
    """However many: they wait for the 101, and are then carried, with all that follows."""
    size = 4 * MB

    async def accept(wire: Any) -> None:
        await wire.head()
        await asyncio.sleep(0.1)
        await wire.send(SWITCH)
        assert await wire.exactly(size) == b"z" * size
        await wire.send(b"all")

    _, port = await serve(await upstream(accept))
    wire = await dial(port)
    wire.writer.write(UPGRADE + b"z" * size)
    assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
    assert await wire.exactly(3) == b"all"


async def test_a_tunnel_that_is_open_at_the_end(upstream: Start, serve: Serve, dial: Dial) -> None:
    """Both sides see it break: no close frame is made up."""
    left = asyncio.Event()

    async def accept(wire: Any) -> None:
        await wire.head()
        await wire.send(SWITCH)
        await wire.gone()
        left.set()

    made, port = await serve(await upstream(accept))
    wire = await dial(port)
    await wire.send(UPGRADE)
    await wire.head()
    await made.aclose()
    assert await wire.rest() == b""
    await asyncio.wait_for(left.wait(), 10)
    assert made.figures.tunnels_open == 0


@pytest.mark.parametrize("slow", ["client", "upstream"])
async def test_the_slower_side_of_a_tunnel_sets_the_pace(
    upstream: Start, serve: Serve, dial: Dial, *, slow: str
) -> None:
    """In its direction; it gets every byte."""
    total = 20_000_000
    go = asyncio.Event()
    sent = 0

    async def send(wire: Any) -> None:
        nonlocal sent
        while sent < total:
            wire.writer.write(b"z" * 200_000)
            await wire.writer.drain()
            sent += 200_000

    async def receive(wire: Any) -> None:
        wire.writer.transport.pause_reading()
        await go.wait()
        wire.writer.transport.resume_reading()
        await wire.exactly(total)

    async def accept(wire: Any) -> None:
        await wire.head()
        await wire.send(SWITCH)
        await (receive if slow == "upstream" else send)(wire)
        await wire.gone()

    _, port = await serve(await upstream(accept))
    wire = await dial(port)
    await wire.send(UPGRADE)
    await wire.head()
    task = asyncio.ensure_future((receive if slow == "client" else send)(wire))
    known = -1
    while known != sent:
        known = sent
        await asyncio.sleep(0.2)
    assert sent < 18_000_000  # what the kernel's buffers hold
    go.set()
    await asyncio.wait_for(task, 10)


# Memory


async def test_a_slow_reader_of_a_fast_answer(upstream: Start, serve: Serve, dial: Dial) -> None:
    """It sets the pace: 100 MB are not read before it takes them, and it gets them all."""
    sent = 0
    part = b"z" * 250_000

    async def fast(wire: Any) -> None:
        nonlocal sent
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(400):
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
            sent += len(part)
        await wire.send(b"0\r\n\r\n")

    _, port = await serve(await upstream(fast))
    wire = await dial(port)
    await wire.send(GET)
    await wire.head()
    wire.writer.transport.pause_reading()
    known = -1
    while known != sent:
        known = sent
        await asyncio.sleep(0.1)
    assert sent < 30_000_000  # what the kernel's buffers hold
    wire.writer.transport.resume_reading()
    received = 0
    while chunk := await wire.chunk():
        received += len(chunk)
    assert received == 100_000_000


async def test_a_slow_upstream_of_a_fast_upload(upstream: Start, serve: Serve, dial: Dial) -> None:
    """It sets the pace; the client's silence meanwhile is not held against it."""
    go = asyncio.Event()
    total = 40_000_000

    async def slow(wire: Any) -> None:
        await wire.head()
        await go.wait()
        left = total
        while left:
            left -= len(await wire.reader.read(min(left, MB)))
        await wire.send(OK)

    _, port = await serve(await upstream(slow), client_body_timeout_s=0.1)
    wire = await dial(port)
    wire.writer.transport.set_write_buffer_limits(1)
    wire.writer.write(POST + b"Content-Length: %d\r\n\r\n" % total)
    wire.writer.write(b"z" * total)
    unsent = -1
    while unsent != wire.writer.transport.get_write_buffer_size():
        unsent = wire.writer.transport.get_write_buffer_size()
        await asyncio.sleep(0.5)
    assert unsent > 10_000_000
    go.set()
    assert await wire.head() + await wire.exactly(2) == OK


async def test_a_body_that_comes_before_the_connection_to_the_upstream(
    upstream: Start, serve: Serve, dial: Dial
) -> None:
    """It is kept, a little of it, and sent when the connection is there."""
    go = asyncio.Event()
    total = 20_000_000

    async def busy(wire: Any) -> None:
        head = await wire.head()
        if b"POST" in head:
            left = total
            while left:
                left -= len(await wire.reader.read(min(left, MB)))
        else:
            await go.wait()
        await wire.send(OK + OK[:0])
        await busy(wire)

    _, port = await serve(await upstream(busy), upstream_connections_max=1)
    first, wire = await dial(port), await dial(port)
    await first.send(GET)
    wire.writer.write(POST + b"Content-Length: %d\r\n\r\n" % total)
    wire.writer.write(b"z" * total)
    await asyncio.sleep(0.3)
    assert wire.writer.transport.get_write_buffer_size() > 5_000_000
    go.set()
    for each in (first, wire):
        assert await each.head() + await each.exactly(2) == OK


async def test_a_client_that_reads_slowly_is_not_cut(
    upstream: Start, serve: Serve, dial: Dial
) -> None:
    """Neither for its slowness nor because its connection should be idle or over long ago."""
    body = b"z" * 600_000

    async def fast(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    _, port = await serve(
        await upstream(fast),
        client_write_timeout_s=0.3,
        client_idle_timeout_s=0.1,
        client_linger_s=0.1,
        buffer_bytes=65_536,
    )
    for ending in (b"", b"Connection: close\r\n"):
        reader, writer = await dial_small(port)
        writer.write(GET[:-2] + ending + b"\r\n")
        received = b""
        for _ in range(8):
            received += await asyncio.wait_for(reader.read(65_536), 10)
            await asyncio.sleep(0.1)
        received += await asyncio.wait_for(reader.read(-1), 10)
        assert received.endswith(body)
        writer.close()


async def test_what_was_answered_and_is_never_read_ends(
    upstream: Start, serve: Serve, dial: Dial, eventually: Until
) -> None:
    """No connection stays because its client takes nothing, whatever it waits for."""
    body = b"z" * 3 * MB

    async def cut(wire: Any) -> None:
        head = await wire.head()
        whole = len(body) + (b"/cut" in head)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % whole + body)

    made, port = await serve(
        await upstream(cut),
        client_write_timeout_s=0.2,
        client_idle_timeout_s=0.2,
        client_linger_s=0.2,
    )
    requests = [GET, GET[:-2] + b"Connection: close\r\n\r\n", GET.replace(b"/a", b"/cut")]
    for request in requests:
        wire = await dial(port)
        wire.writer.transport.pause_reading()
        await wire.send(request)
    await eventually(lambda: sum(made.figures.requests) == 3)
    await eventually(lambda: made.figures.connections_open == 0)


async def test_an_answer_cut_for_a_client_that_reads_nothing(
    upstream: Start, serve: Serve, eventually: Until
) -> None:
    """What little of it could not be sent keeps no connection open."""

    async def cut(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while not transport().get_write_buffer_size():
            await wire.send(b"z" * 10_000)
            await asyncio.sleep(0.01 if not transport().get_write_buffer_size() else 0.3)

    def transport() -> asyncio.Transport:
        [connection] = made._connections
        return connection._transport

    made, port = await serve(
        await upstream(cut), client_linger_s=0.2, client_write_timeout_s=0.2, buffer_bytes=65_536
    )
    _, writer = await dial_small(port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(GET)
    await eventually(lambda: made.figures.upstream_errors["broken"])
    assert not made.drained
    await eventually(lambda: made.drained)
    writer.close()


# Draining and ending


async def test_a_draining_proxy_ends_connections_in_good_order(
    upstream: Start, serve: Serve, dial: Dial, eventually: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle ones soon, those with a request after its answer, which tells so."""
    monkeypatch.setattr("usageflow.proxy.gateway.DRAIN_IDLE_S", 0.2)
    go, asked = asyncio.Event(), asyncio.Event()

    async def slow(wire: Any) -> None:
        while True:
            if b"/slow" in await wire.head():
                asked.set()
                await go.wait()
            await wire.send(OK)

    made, port = await serve(await upstream(slow))
    idle, late, busy, begun = [await dial(port) for _ in range(4)]
    await idle.send(GET)
    await idle.head()
    await busy.send(GET.replace(b"/a", b"/slow"))
    await asyncio.wait_for(asked.wait(), 10)
    await begun.send(GET[:9])
    await eventually(lambda: made.figures.connections_open == 4)
    made.drain()
    await late.send(GET)  # it was on its way
    await begun.send(GET[9:])
    go.set()
    for wire in (late, busy, begun):
        assert await wire.rest() == OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        await wire.close()
    assert await idle.rest() == b"ok"
    await idle.close()
    await eventually(lambda: made.drained)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [(b"", b"HTTP/1.1 502 "), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1", b"HTTP/1.1 200 ")],
)
async def test_what_is_left_at_the_end_is_told(
    upstream: Start, serve: Serve, dial: Dial, answer: bytes, seen: bytes
) -> None:
    """A proxy that cannot wait any longer answers for itself, or breaks the answer off."""
    asked = asyncio.Event()

    async def stuck(wire: Any) -> None:
        await wire.head()
        await wire.send(answer)
        asked.set()
        await wire.gone()

    made, port = await serve(await upstream(stuck))
    wire, idle = await dial(port), await dial(port)
    await wire.send(GET)
    await asyncio.wait_for(asked.wait(), 10)
    if answer:
        assert (await wire.head()).startswith(seen)
    await made.aclose()
    rest = await wire.rest()
    assert rest == b"1" if answer else rest.startswith(seen)
    assert b"shutting down" in rest or answer
    assert await idle.rest() == b""
    assert made.figures.aborted == 0
    assert made.drained


async def test_what_comes_after_the_end_is_read_away(
    upstream: Start, serve: Serve, dial: Dial, eventually: Until
) -> None:
    """A client that is still sending gets its answer; not for ever."""
    made, port = await serve(
        await upstream(always_ok), request_body_bytes_max=10, client_linger_s=0.3
    )
    wire = await dial(port)
    await wire.send(POST + b"Content-Length: 100000000\r\n\r\n")
    for _ in range(50):
        await wire.send(b"z" * 100_000)
    assert (await wire.head()).startswith(b"HTTP/1.1 413 ")
    with pytest.raises(ConnectionError):
        while True:
            await wire.send(b"z" * 100_000)
            await asyncio.sleep(0.001)
    await eventually(lambda: made.drained)


# Unix sockets and TLS


async def test_unix_sockets_on_both_sides(
    gateway: Begin, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """Who asks has no address; a broken answer is a broken connection here too."""
    heads: list[bytes] = []
    folder = str(tmp_path)

    async def api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK[:-1])
        writer.close()

    server = await asyncio.start_unix_server(api, f"{folder}/api.sock")
    stack.callback(server.close)
    made = await gateway(0, upstream=f"unix:{tmp_path}/api.sock", spool_dir=str(tmp_path / "spool"))
    loop = asyncio.get_running_loop()
    listening = await loop.create_unix_server(made.connection, f"{folder}/proxy.sock")
    stack.callback(listening.close)
    reader, writer = await asyncio.open_unix_connection(f"{folder}/proxy.sock")
    writer.write(GET)
    assert await reader.readexactly(len(OK)) == OK
    writer.write(GET)
    assert await asyncio.wait_for(reader.read(-1), 10) == OK[:-1]
    writer.close()
    assert b"\r\nHost: api\r\n" in heads[0]
    assert len(heads) == 2


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What the proxy serves by, and what a client trusts it by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "proxy")])
    now = dt.datetime.now(dt.UTC)
    local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(local, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "pair.pem"
    path.write_bytes(pem + secret)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(path)
    return serving, ssl.create_default_context(cadata=pem.decode())


@pytest.fixture
async def dial_tls(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    """Open a TLS connection to a port of this machine."""
    writers = []

    async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls[1])
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()


async def test_clients_over_tls(
    upstream: Start,
    serve: Serve,
    dial_tls: Dial,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """The upstream is told, they keep their connection, and its end is an orderly one."""
    heads: list[bytes] = []

    async def noting(wire: Any) -> None:
        while True:
            heads.append(await wire.head())
            await wire.send(OK)

    _, port = await serve(await upstream(noting), ssl=tls[0])
    reader, writer = await dial_tls(port)
    for _ in range(2):
        writer.write(GET)
        assert await asyncio.wait_for(reader.readexactly(len(OK)), 10) == OK
    writer.write(GET[:-2] + b"Connection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(-1), 10)).endswith(b"Connection: close\r\n\r\nok")
    assert all(b"X-Forwarded-Proto: https\r\n" in head for head in heads)


@pytest.mark.parametrize("size", [20_000_000, 100])
async def test_a_refusal_within_an_upload_over_tls(
    upstream: Start,
    serve: Serve,
    dial_tls: Dial,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    size: int,
) -> None:
    """It arrives although the client is still sending, for as long as the proxy lingers."""
    _, port = await serve(
        await upstream(always_ok), ssl=tls[0], request_body_bytes_max=10, client_linger_s=0.5
    )
    reader, writer = await dial_tls(port)
    writer.write(POST + b"Content-Length: %d\r\n\r\n" % (size + 1) + b"z" * size)
    await asyncio.wait_for(writer.drain(), 10)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert head.startswith(b"HTTP/1.1 413 ")
    await asyncio.sleep(0.1)
    assert not writer.transport.is_closing()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)):
        await asyncio.wait_for(reader.readexactly(1_000), 10)
        raise ConnectionResetError


async def test_a_slow_reader_over_tls(
    upstream: Start,
    serve: Serve,
    dial_tls: Dial,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """The upstream is not read faster than the client reads."""
    sent = 0

    async def fast(wire: Any) -> None:
        nonlocal sent
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        while sent < 50_000_000:
            await wire.send(b"z" * 250_000)
            sent += 250_000

    _, port = await serve(await upstream(fast), ssl=tls[0])
    reader, writer = await dial_tls(port)
    writer.write(GET)
    await reader.readuntil(b"\r\n\r\n")
    known = -1
    while known != sent:
        known = sent
        await asyncio.sleep(0.1)
    assert sent < 30_000_000
    assert len(await asyncio.wait_for(reader.readexactly(50_000_000), 20)) == 50_000_000


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_breaks_off_over_tls(
    upstream: Start,
    serve: Serve,
    dial_tls: Dial,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    version: bytes,
) -> None:
    """The end of the connection is no end of the answer."""

    async def cut(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n")
        await asyncio.sleep(0.05)

    _, port = await serve(await upstream(cut), ssl=tls[0])
    reader, writer = await dial_tls(port)
    writer.write(GET.replace(b"1.1", version))
    await reader.readuntil(b"\r\n\r\n")
    if version == b"1.0":
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(reader.read(-1), 10)
    else:
        assert await asyncio.wait_for(reader.read(-1), 10) == b"5\r\nshort\r\n"


async def test_an_upstream_over_tls_refuses_an_upload(
    upstream: Start,
    serve: Serve,
    dial: Dial,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    tmp_path: Path,
) -> None:
    """Its answer comes through, and so does the next one."""
    refusal = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"

    async def refuse(wire: Any) -> None:
        await wire.head()
        await wire.send(refusal)
        await wire.gone()

    api = await upstream(refuse, ssl=tls[0])
    _, port = await serve(
        0, upstream=f"https://127.0.0.1:{api}", upstream_ca=str(tmp_path / "pair.pem")
    )
    wire = await dial(port)
    for _ in range(2):
        await wire.send(POST + b"Content-Length: 200000\r\n\r\n" + b"z" * 100_000)
        assert await wire.head() + await wire.exactly(2) == refusal
        await wire.send(b"z" * 100_000)
