"""What a client may do wrong, at every point: what it sees, what is logged, counted and metered."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from usageflow.events import decode
from usageflow.proxy.gateway import Gateway
from usageflow.recorder import Hold, read_spool

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio

POLICIES = "\n".join(
    f"""
[[policy]]
name = "{when}"
match = "ANY /{{rest:path}}"
identify = [ {{ from = "metadata", value = "acct_1" }} ]
field = "account_id"
metric = "{when.upper()}"
when = "{when}"
"""
    for when in ("request", "response", "success")
)
LEFT = "the client disconnected"
GET = b"GET /a HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: api\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPGRADE = (
    b"GET /a HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@dataclass
class Told:
    """What is known of the requests when all are over."""

    lines: list[dict[str, Any]]
    events: dict[str, str | None]
    """By metric: why it is not a plain one, if it is not."""

    @property
    def line(self) -> tuple[Any, ...]:
        """Of the one request there was: status, code, aborted."""
        [line] = self.lines
        return line["status"], line["code"], line["aborted"]


class Lab:
    """A proxy with policies, and all that it tells."""

    def __init__(self, gateway: Gateway, port: int, folder: Path, until: Until) -> None:
        self.gateway = gateway
        self.port = port
        self._folder = folder
        self._until = until

    async def told(self, requests: int = 1) -> Told:
        """Wait until so many requests are over, stop, and read what was written."""
        figures = self.gateway.figures
        await self._until(lambda: sum(figures.requests) >= requests and not figures.in_flight)
        await self._until(lambda: not sum(t.in_use for t in self.gateway.upstreams.figures()))
        await self.gateway.aclose()
        assert sum(figures.requests) == sum(figures.durations) == requests
        text = (self._folder / "access.log").read_text()
        events = list(map(decode, read_spool(self._folder / "spool")))
        return Told(
            [json.loads(line) for line in text.splitlines()],
            {event.metric: event.reason and str(event.reason) for event in events},
        )


Open = Callable[..., Awaitable[Lab]]


@pytest.fixture
async def lab(
    upstream: Start,
    gateway: Callable[..., Awaitable[Gateway]],
    stack: AsyncExitStack,
    eventually: Until,
    tmp_path: Path,
) -> Open:
    """Start an upstream that plays a script, and a proxy before it."""
    (tmp_path / "p.toml").write_text(POLICIES)

    async def start(script: Any, **given: Any) -> Lab:
        made = await gateway(
            await upstream(script) if callable(script) else script,
            policies=str(tmp_path / "p.toml"),
            spool_dir=str(tmp_path / "spool"),
            access_log=str(tmp_path / "access.log"),
            **given,
        )
        server = await asyncio.get_running_loop().create_server(made.connection, "127.0.0.1", 0)
        stack.callback(server.close)
        return Lab(made, server.sockets[0].getsockname()[1], tmp_path, eventually)

    return start


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No fault of a client makes the event loop or the proxy complain.

    Times are looked at more often than in production.
    """
    monkeypatch.setattr("usageflow.proxy.gateway.TICK_S", 0.05)
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.messages == []


class Upstream:
    """Notes what reaches it, sends `answer` to each head, and waits for its end."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, wire: Any) -> None:
        """One connection."""
        try:
            while True:
                self.heads.append(await wire.head())
                await wire.send(self.answer)
                self.asked.set()
        finally:
            self.left.set()


class Silent(Upstream):
    """Answers one request, and waits."""

    async def __call__(self, wire: Any) -> None:
        """One connection."""
        self.heads.append(await wire.head())
        await wire.send(self.answer)
        self.asked.set()
        await wire.gone()
        self.left.set()


# Clients that leave


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", GET[:-2]])
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_leaving_before_the_head_is_no_request(
    lab: Open, dial: Dial, eventually: Until, sent: bytes, how: str
) -> None:
    """Nothing was asked: nothing is logged or counted but the connection."""
    api = Upstream()
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(sent)
    await eventually(lambda: made.gateway.figures.connections_open == 1)
    if how == "reset":
        wire.reset()
    else:
        await wire.close()
    await eventually(lambda: made.gateway.figures.connections_open == 0)
    told = await made.told(0)
    assert (told.lines, told.events, api.heads) == ([], {}, [])


@pytest.mark.parametrize("how", ["reset", "close", "half"])
@pytest.mark.parametrize(
    ("request_", "answer", "status"),
    [
        (POST + b"Content-Length: 9\r\n\r\n1234", b"", 499),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n", b"", 499),
        (GET, b"", 499),
        (GET, b"HTTP/1.1 103 Early Hints\r\n\r\n", 499),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1", 200),
        (GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n", 200),
        (GET, b"HTTP/1.1 200 OK\r\n\r\n1", 200),
        (
            POST + b"Content-Length: 9\r\n\r\n1",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1",
            200,
        ),
    ],
)
async def test_leaving_ends_the_upstreams_work(
    lab: Open, dial: Dial, *, how: str, request_: bytes, answer: bytes, status: int
) -> None:
    """In the upload, before the answer, after a 1xx and within the answer; a client that only
    stops sending has left too. What was answered by then is metered as cut.
    """
    api = Silent(answer)
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(request_)
    await asyncio.wait_for(api.asked.wait(), 10)
    if answer:
        await wire.head()
    if how == "reset":
        wire.reset()
    elif how == "close":
        await wire.close()
    else:
        wire.writer.write_eof()
        await wire.gone()
    await asyncio.wait_for(api.left.wait(), 10)
    told = await made.told()
    assert told.line == (status, "client_left", LEFT)
    assert made.gateway.figures.aborted == 1
    assert set(told.events) == (
        {"REQUEST", "RESPONSE", "SUCCESS"} if status == 200 else {"REQUEST"}
    )
    assert set(told.events.values()) == {f"aborted: {LEFT}"}


@pytest.fixture
async def deaf(stack: AsyncExitStack) -> AsyncIterator[int]:
    """A port whose queue of connections is full: connecting to it takes for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        port = listening.getsockname()[1]
        clients = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            clients.append(client)
        await asyncio.sleep(0.05)
        yield port
        for client in clients:
            client.close()


@pytest.mark.parametrize("request_", [GET, POST + b"Content-Length: 9\r\n\r\n1"])
async def test_leaving_while_a_connection_is_opened(
    lab: Open, dial: Dial, deaf: int, request_: bytes
) -> None:
    """The upstream was never asked."""
    made = await lab(deaf)
    wire = await dial(made.port)
    await wire.send(request_)
    await asyncio.sleep(0.05)
    wire.reset()
    told = await made.told()
    assert told.line == (499, "client_left", LEFT)
    assert told.events == {"REQUEST": f"aborted: {LEFT}"}


async def test_leaving_while_waiting_for_a_free_connection(
    lab: Open, dial: Dial, eventually: Until
) -> None:
    """Whoever is next in line gets the connection; the one that left is never asked for."""
    api = Upstream()
    made = await lab(api, upstream_connections_max=1)
    wires = [await dial(made.port) for _ in range(3)]
    for number, wire in enumerate(wires):
        await wire.send(GET.replace(b"/a", b"/%d" % number))
        if not number:
            await asyncio.wait_for(api.asked.wait(), 10)
        await eventually(lambda: made.gateway.figures.in_flight == number + 1)  # noqa: B023
    wires[1].reset()
    await eventually(lambda: made.gateway.figures.in_flight == 2)
    api.answer = OK
    wires[0].reset()
    assert await wires[2].head() == OK[:-2]
    assert [head.split(b" ")[1] for head in api.heads] == [b"/0", b"/2"]
    told = await made.told(3)
    assert [line["status"] for line in told.lines] == [499, 499, 200]


class SlowDisk:
    """Takes events, and says that they are on disk when it is told so."""

    def __init__(self, made: Lab) -> None:
        self.hold = Hold(asyncio.get_running_loop(), 10.0)
        recorder = made.gateway.meter.recorder
        record = recorder.record

        def slowly(events: Any, loop: Any = None) -> Hold:
            record(events, loop)
            return self.hold

        recorder.record = slowly  # type: ignore[method-assign]


@pytest.mark.parametrize("how", ["reset", "half"])
@pytest.mark.parametrize("server_timing", ["on", "off"])
async def test_leaving_while_the_last_byte_is_held(
    lab: Open, dial: Dial, eventually: Until, how: str, server_timing: str
) -> None:
    """The usage is counted in full: the answer was complete and on its way."""
    api = Upstream(OK)
    made = await lab(api, server_timing=server_timing)
    disk = SlowDisk(made)
    wire = await dial(made.port)
    await wire.send(GET)
    await asyncio.wait_for(api.asked.wait(), 10)
    await asyncio.sleep(0.05)
    assert made.gateway.figures.in_flight == 1
    if how == "reset":
        wire.reset()
    else:
        wire.writer.write_eof()
    await eventually(lambda: made.gateway.figures.in_flight == 0)
    disk.hold.release(True)
    told = await made.told()
    assert told.line == (200, "client_left", LEFT)
    assert told.events == dict.fromkeys(["REQUEST", "RESPONSE", "SUCCESS"])


@pytest.mark.parametrize("how", ["reset", "half"])
async def test_leaving_a_tunnel(lab: Open, dial: Dial, how: str) -> None:
    """The upstream's side ends; the handshake is the line in the log."""
    api = Silent(SWITCH)
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(UPGRADE)
    assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
    if how == "reset":
        wire.reset()
    else:
        wire.writer.write_eof()
        assert await wire.rest() == b""
    await asyncio.wait_for(api.left.wait(), 10)
    told = await made.told()
    assert told.line == (101, None, None)
    assert made.gateway.figures.tunnels_open == 0
    assert made.gateway.figures.tunnels == 1


# Clients that keep no limit

SHORT = {
    "client_header_timeout_s": 0.1,
    "client_body_timeout_s": 0.1,
    "client_idle_timeout_s": 0.1,
    "client_linger_s": 0.3,
    "request_line_bytes_max": 100,
    "request_header_bytes_max": 300,
    "request_headers_max": 5,
    "request_body_bytes_max": 10,
}
"""What is tried below, in small."""
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"5\r\n12345\r\n"


async def refused(wire: Any) -> tuple[int, str]:
    """The status and the code of an answer of the proxy's own, after which the connection ends."""
    head = await wire.head()
    assert b"\r\nconnection: close\r\n" in head.lower()
    problem = json.loads(await wire.rest())
    return int(head.split(b" ")[1]), problem["error"]["code"]


@pytest.mark.parametrize(
    ("request_", "status", "code", "path"),
    [
        (b"GET /a HTT", 408, "header_timeout", ""),
        (GET[:-2], 408, "header_timeout", ""),
        (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 100), 414, "request_line_too_long", ""),
        (b"GET /" + b"a" * 100, 414, "request_line_too_long", ""),
        (GET[:-2] + b"X: %b\r\n\r\n" % (b"x" * 300), 431, "header_too_large", ""),
        (GET[:-2] + b"X: " + b"x" * 300, 431, "header_too_large", ""),
        (GET[:-2] + b"X: x\r\n" * 5 + b"\r\n", 431, "too_many_headers", ""),
        (POST + b"Content-Length: 11\r\n\r\n", 413, "body_too_large", "/a"),
        (b"GET /a HTTP/1.1\nHost", 400, "bare_line_feed", ""),
    ],
)
async def test_what_never_becomes_a_request(
    lab: Open, dial: Dial, *, request_: bytes, status: int, code: str, path: str
) -> None:
    """It is refused with a reason, and closed; it meets no policy and the upstream sees nothing."""
    api = Upstream(OK)
    made = await lab(api, **SHORT)
    wire = await dial(made.port)
    await wire.send(request_)
    assert await refused(wire) == (status, code)
    await wire.close()
    told = await made.told()
    assert told.line == (status, code, None)
    assert told.lines[0]["path"] == path
    assert (told.events, api.heads) == ({}, [])
    assert made.gateway.figures.refusals[code] == 1


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (POST + b"Content-Length: 9\r\n\r\n1", 408, "body_timeout"),
        (CHUNKS + CHUNK, 408, "body_timeout"),
        (CHUNKS + CHUNK * 3, 413, "body_too_large"),
        (CHUNKS + CHUNK + b"x", 400, "invalid_chunk"),
        (CHUNKS + b"x", 400, "invalid_chunk"),
        (CHUNKS + CHUNK + b"0\r\nTransfer Encoding: x\r\n\r\n", 400, "invalid_chunk"),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
async def test_a_body_that_goes_wrong(
    lab: Open,
    dial: Dial,
    *,
    request_: bytes,
    status: int,
    code: str,
    apart: bool,
) -> None:
    """The upstream never sees its end, and what it was not asked for meets no policy either.

    That it was refused is no success. What follows it is not read.
    """
    api = Silent()
    made = await lab(api, **SHORT)
    wire = await dial(made.port)
    head, end, body = request_.partition(b"\r\n\r\n")
    await wire.send(head + end + (b"" if apart else body))
    if apart:
        await asyncio.wait_for(api.asked.wait(), 10)
        await wire.send(body)
    if code != "body_timeout":
        await wire.send(GET)
    assert await refused(wire) == (status, code)
    await wire.close()
    told = await made.told()
    assert told.line == (status, code, None)
    asked = apart or code == "body_timeout"
    assert told.events == ({"REQUEST": None, "RESPONSE": None} if asked else {})
    assert made.gateway.figures.refusals[code] == 1
    assert api.asked.is_set() is asked
    if asked:
        await asyncio.wait_for(api.left.wait(), 10)


async def test_an_upload_that_stops_within_the_answer(lab: Open, dial: Dial) -> None:
    """What has begun to be answered cannot be refused any more: it breaks."""
    made = await lab(Silent(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"), **SHORT)
    wire = await dial(made.port)
    await wire.send(POST + b"Content-Length: 9\r\n\r\n1")
    assert (await wire.head()).startswith(b"HTTP/1.1 200 ")
    assert await wire.rest() == b"1"
    told = await made.told()
    assert told.line == (200, "body_timeout", "The body of the request stopped coming.")
    assert set(told.events) == {"REQUEST", "RESPONSE", "SUCCESS"}


async def test_a_bare_line_feed_in_a_piece_of_its_own(lab: Open, dial: Dial) -> None:
    """Is seen where two pieces meet."""
    made = await lab(Upstream())
    wire = await dial(made.port)
    for piece in (b"GET /a HTTP/1.1\r", b"\nHost: api", b"\n"):
        await wire.send(piece)
        await asyncio.sleep(0.02)
    assert await refused(wire) == (400, "bare_line_feed")


@pytest.mark.parametrize("size", [4_000, 4_200])
async def test_trailers_have_a_limit(lab: Open, dial: Dial, size: int) -> None:
    """They are read and dropped; too large ones are refused."""

    async def api(wire: Any) -> None:
        await wire.head()
        if not await wire.chunk():
            await wire.send(OK)
        await wire.gone()

    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(CHUNKS + b"0\r\nX: %b\r\n\r\n" % (b"x" * size))
    assert (await wire.head()).startswith(b"HTTP/1.1 200" if size == 4_000 else b"HTTP/1.1 400")


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET])
async def test_idle_connections_end_without_a_word(lab: Open, dial: Dial, sent: bytes) -> None:
    """A connection on which nothing comes, and one that rests after an answer."""
    made = await lab(Upstream(OK), **SHORT)
    wire = await dial(made.port)
    await wire.send(sent)
    assert await wire.rest() == (OK if sent == GET else b"")
    told = await made.told(1 if sent == GET else 0)
    assert [line["code"] for line in told.lines] == ([None] if sent == GET else [])


async def test_a_head_in_pieces_is_no_slow_head(lab: Open, dial: Dial) -> None:
    """Each byte in a segment of its own; empty lines before it are nothing."""
    made = await lab(Upstream(OK))
    wire = await dial(made.port)
    for number in range(len(b"\r\n" + GET)):
        await wire.send((b"\r\n" + GET)[number : number + 1])
        await asyncio.sleep(0)
    assert await wire.head() == OK[:-2]
    assert (await made.told()).line == (200, None, None)


@pytest.mark.parametrize(
    ("answer", "status", "aborted", "metrics"),
    [
        (b"", 504, None, {"REQUEST", "RESPONSE"}),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1",
            200,
            "The request and its answer took too long.",
            {"REQUEST", "RESPONSE", "SUCCESS"},
        ),
    ],
)
async def test_the_total_time_of_a_request(
    lab: Open, dial: Dial, *, answer: bytes, status: int, aborted: str | None, metrics: set[str]
) -> None:
    """Before the answer it is a 504, and the connection stays; within it the answer breaks."""
    made = await lab(Silent(answer), request_timeout_s=0.1)
    wire = await dial(made.port)
    await wire.send(GET)
    assert (await wire.head()).startswith(b"HTTP/1.1 %d " % status)
    if answer:
        assert await wire.rest() == b"1"
    told = await made.told()
    assert told.line == (status, "request_timeout", aborted)
    assert set(told.events) == metrics


async def test_the_total_time_includes_that_of_connecting(
    lab: Open, dial: Dial, deaf: int, eventually: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """That there is no connection comes too late for what was refused already."""
    made = await lab(deaf, request_timeout_s=0.1, upstream_connect_timeout_s=0.6)
    wire = await dial(made.port)
    await wire.send(GET)
    assert (await wire.head()).startswith(b"HTTP/1.1 504 ")
    await eventually(lambda: caplog.messages)
    caplog.clear()
    assert (await made.told()).line == (504, "request_timeout", None)
    assert sum(made.gateway.figures.upstream_errors.values()) == 0


async def test_a_complete_answer_is_not_refused_any_more(lab: Open, dial: Dial) -> None:
    """While its usage is being written its time runs out: the client still gets it whole."""
    made = await lab(Upstream(OK), request_timeout_s=0.1)
    disk = SlowDisk(made)
    wire = await dial(made.port)
    await wire.send(GET)
    await asyncio.sleep(0.5)
    disk.hold.release(True)
    assert await wire.head() + await wire.exactly(2) == OK
    assert (await made.told()).line == (200, None, None)


@pytest.mark.parametrize(
    "length", [b"Content-Length: 80000000", b"Transfer-Encoding: chunked", b"X: y"]
)
async def test_a_client_that_reads_nothing(lab: Open, dial: Dial, length: bytes) -> None:
    """It has left; the upstream is not read for it any more."""
    sent = 0

    async def fast(wire: Any) -> None:
        nonlocal sent
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % length)
        while sent < 80_000_000:
            data = b"z" * 100_000
            chunked = b"%x\r\n%b\r\n" % (len(data), data)
            await wire.send(chunked if b"chunked" in length else data)
            sent += len(data)

    made = await lab(fast, client_write_timeout_s=0.3)
    wire = await dial(made.port)
    wire.writer.transport.pause_reading()
    await wire.send(GET)
    told = await made.told()
    assert told.line == (200, "client_left", LEFT)
    assert set(told.events.values()) == {f"aborted: {LEFT}"}
    assert sent < 40_000_000


# Connections


async def test_connections_have_a_limit(lab: Open, dial: Dial, eventually: Until) -> None:
    """One too many is told so; when another ends there is room again, even while those that were
    refused still linger.
    """
    made = await lab(Upstream(OK), connections_max=2)
    first, second = [await dial(made.port) for _ in range(2)]
    await eventually(lambda: made.gateway.figures.connections_open == 2)
    third = await dial(made.port)
    head = await third.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: " in head
    first.reset()
    await eventually(lambda: made.gateway.figures.connections_open == 2)
    fourth = await dial(made.port)
    for wire in (second, fourth):
        await wire.send(GET)
        assert await wire.head() == OK[:-2]
    await third.close()
    assert made.gateway.figures.connections_refused == 1
    told = await made.told(3)
    assert [line["code"] for line in told.lines] == ["too_many_connections", None, None]
    assert [line["status"] for line in told.lines] == [503, 200, 200]


@pytest.mark.parametrize(("trusted", "status"), [(None, b"503"), ("127.0.0.1", b"200")])
async def test_connections_of_one_client_have_a_limit(
    lab: Open, dial: Dial, eventually: Until, trusted: str | None, status: bytes
) -> None:
    """Not those of a trusted proxy, which speaks for many."""
    made = await lab(Upstream(OK), connections_per_client_max=1, trusted_proxies=trusted)
    await dial(made.port)
    await eventually(lambda: made.gateway.figures.connections_open == 1)
    wire = await dial(made.port)
    await wire.send(GET)
    assert (await wire.head()).startswith(b"HTTP/1.1 " + status)
    assert made.gateway.figures.connections_refused == (status == b"503")


# Pipelining


async def test_pipelined_requests_after_a_refused_one_are_not_read(lab: Open, dial: Dial) -> None:
    """What follows a request that is wrong may be its body."""
    api = Upstream(OK)
    made = await lab(api)
    wire = await dial(made.port)
    smuggled = GET.replace(b"/a", b"/smuggled")
    await wire.send(GET + POST + b"Content-Length: 5, 5\r\n\r\n" + smuggled)
    assert await wire.head() == OK[:-2]
    await wire.exactly(2)
    assert await refused(wire) == (400, "invalid_framing")
    await wire.close()
    told = await made.told(2)
    assert [line["code"] for line in told.lines] == [None, "invalid_framing"]
    assert len(api.heads) == 1


async def test_pipelined_requests_of_a_client_that_leaves(lab: Open, dial: Dial) -> None:
    """The one on its way ends; the others are never begun."""
    api = Silent()
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(GET * 5)
    await asyncio.wait_for(api.asked.wait(), 10)
    wire.reset()
    told = await made.told()
    assert told.line == (499, "client_left", LEFT)
    assert len(api.heads) == 1
