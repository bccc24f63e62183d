"""The proxy end to end: raw client, gateway, raw upstream, all over TCP."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from usageflow.proxy.client_connection import ClientConnection

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answering(answer: bytes, heads: list[bytes] | None = None) -> Callable[[Any], Awaitable[None]]:
    """A script that gives one answer to every request without a body and notes their heads."""

    async def script(wire: Any) -> None:
        while True:
            head = await wire.head()
            if heads is not None:
                heads.append(head)
            await wire.send(answer)

    return script


async def exchange(proxy_wire: Any, request: bytes, body_bytes: int) -> tuple[bytes, bytes]:
    """Send a request, give the head and so many bytes of the answer."""
    await proxy_wire.send(request)
    return await proxy_wire.head(), await proxy_wire.exactly(body_bytes)


async def test_request_arrives_as_it_was_sent(upstream: Start, proxy: Start, dial: Dial) -> None:
    """Path, query, order, duplicates, names and values arrive byte for byte."""
    heads: list[bytes] = []
    wire = await dial(await proxy(await upstream(answering(OK, heads))))
    await wire.send(
        b"GET //a/../b;c/%2F%zz?q=%20&q=+ HTTP/1.1\r\nHost: API.Example.com:80\r\n"
        b"X-B:  two  words\r\nX-A: 1\r\nx-b: \xff\r\nCookie: a=1; b=2\r\n"
        b"X-Forwarded-For: 203.0.113.9\r\nConnection: keep-alive, X-Secret\r\n"
        b"X-Secret: 1\r\nTE: trailers, deflate\r\nX-A: 2\r\n\r\n"
    )
    assert await wire.head() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    [head] = heads
    assert head == (
        b"GET //a/../b;c/%2F%zz?q=%20&q=+ HTTP/1.1\r\nHost: API.Example.com:80\r\n"
        b"X-B: two  words\r\nX-A: 1\r\nx-b: \xff\r\nCookie: a=1; b=2\r\nX-A: 2\r\n"
        b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: API.Example.com:80\r\n"
        b"TE: trailers\r\nConnection: TE\r\n\r\n"
    )


async def test_answer_arrives_as_it_was_sent(upstream: Start, proxy: Start, dial: Dial) -> None:
    """Several Set-Cookie, Date, Server and an encoded body pass; connection fields do not."""
    answer = (
        b"HTTP/1.1 201 Made\r\nDate: yesterday\r\nServer: theirs\r\nSet-Cookie: a=1\r\n"
        b"Content-Encoding: gzip\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Length: 3\r\n\r\n\x1f\x8b\x00"
    )
    wire = await dial(await proxy(await upstream(answering(answer))))
    head, body = await exchange(wire, GET, 3)
    assert head == (
        b"HTTP/1.1 201 Made\r\nDate: yesterday\r\nServer: theirs\r\nSet-Cookie: a=1\r\n"
        b"Content-Encoding: gzip\r\nSet-Cookie: b=2\r\nContent-Length: 3\r\n\r\n"
    )
    assert body == b"\x1f\x8b\x00"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HEAD 200 OK\r\nContent-Length: 9", b"200 OK\r\nContent-Length: 9\r\n\r\n"),
        (b"HEAD 200 OK\r\nTransfer-Encoding: chunked", b"200 OK\r\n\r\n"),
        (
            b"GET 304 Not Modified\r\nContent-Length: 9",
            b"304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        ),
        (b"GET 204 No Content\r\nX: 1", b"204 No Content\r\nX: 1\r\n\r\n"),
        (b"GET 204 No Content\r\nContent-Length: 0", b"204 No Content\r\n\r\n"),
    ],
)
async def test_answers_without_body(
    upstream: Start, proxy: Start, dial: Dial, answer: bytes, expected: bytes
) -> None:
    """HEAD, 304 and 204 end with their head, and both connections serve the next request."""
    heads: list[bytes] = []
    method, _, answer = answer.partition(b" ")
    script = answering(b"HTTP/1.1 " + answer + b"\r\n\r\n", heads)
    connections = []

    async def counting(wire: Any) -> None:
        connections.append(wire)
        await script(wire)

    wire = await dial(await proxy(await upstream(counting)))
    for _ in range(3):
        await wire.send(GET.replace(b"GET", method))
        assert await wire.head() == b"HTTP/1.1 " + expected
    assert len(heads) == 3
    if b"chunked" not in answer:
        assert len(connections) == 1


async def test_bodies_cross_both_ways(upstream: Start, proxy: Start, dial: Dial) -> None:
    """A body with a length, one in chunks and an empty one arrive whole, and so does the echo."""

    async def echo(wire: Any) -> None:
        while True:
            head = await wire.head()
            if b"Transfer-Encoding: chunked" in head:
                body = await wire.chunks()
            else:
                body = await wire.exactly(int(head.split(b"Content-Length: ")[1].split(b"\r")[0]))
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 50_000):
                part = body[start : start + 50_000]
                await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
            await wire.send(b"0\r\nX-Trailer: dropped\r\n\r\n")

    wire = await dial(await proxy(await upstream(echo)))
    for size in (0, 3, 300_000):
        body = b"z" * size
        await wire.send(
            b"POST /l HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
        )
        assert b"Transfer-Encoding: chunked" in await wire.head()
        assert await wire.chunks() == body
        await wire.send(b"POST /c HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
        if size:
            await wire.send(b"%x\r\n%b\r\n" % (size, body))
        await wire.send(b"0\r\n\r\n")
        await wire.head()
        assert await wire.chunks() == body


async def test_events_flow_at_once(upstream: Start, proxy: Start, dial: Dial) -> None:
    """Each event of a stream reaches the client before the next one is made."""
    step = asyncio.Event()

    async def events(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            await wire.send(b"8\r\ndata: %d\n\r\n" % number)
            await step.wait()
            step.clear()
        await wire.send(b"0\r\n\r\n")

    wire = await dial(await proxy(await upstream(events)))
    await wire.send(GET)
    await wire.head()
    for number in range(3):
        assert await wire.chunk() == b"data: %d\n" % number
        step.set()
    assert await wire.chunk() == b""


async def test_answer_may_precede_the_upload(upstream: Start, proxy: Start, dial: Dial) -> None:
    """Full duplex: each chunk is answered while the upload goes on."""

    async def pingpong(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while part := await wire.chunk():
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        await wire.send(b"0\r\n\r\n")

    wire = await dial(await proxy(await upstream(pingpong)))
    await wire.send(b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"200 OK" in await wire.head()
    for part in (b"a", b"bc", b"def"):
        await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        assert await wire.chunk() == part
    await wire.send(b"0\r\n\r\n")
    assert await wire.chunk() == b""


@pytest.mark.parametrize("linger", [True, False])
async def test_early_refusal_of_an_upload(
    upstream: Start,
    proxy: Start,
    dial: Dial,
    linger: bool,  # noqa: FBT001
) -> None:
    """A 413 that ends in the middle of an upload reaches the client; nothing is reused."""
    connections = []

    async def refuse(wire: Any) -> None:
        connections.append(wire)
        await wire.head()
        await wire.exactly(100_000)
        await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if linger:
            await wire.gone()

    wire = await dial(await proxy(await upstream(refuse)))

    async def upload() -> None:
        await wire.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(500):
            await wire.send(b"z" * 100_000)

    uploading = asyncio.ensure_future(upload())
    assert b"413" in await wire.head()
    assert await wire.exactly(3) == b"big"
    await uploading
    await wire.send(
        b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 100000\r\n\r\n" + b"z" * 100_000
    )
    assert b"413" in await wire.head()
    assert len(connections) == 2


async def test_interim_answers_are_passed_on(upstream: Start, proxy: Start, dial: Dial) -> None:
    """103 reaches the client before the real answer; a 100 that nobody waits for does not."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    script = answering(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + OK)
    wire = await dial(await proxy(await upstream(script)))
    for _ in range(2):
        await wire.send(GET)
        assert await wire.head() == hints
        assert await wire.head() == OK[:-2]
        await wire.exactly(2)


async def test_a_client_that_waits_for_100(upstream: Start, proxy: Start, dial: Dial) -> None:
    """The upstream says when the body may come; both connections serve the next request."""

    async def careful(wire: Any) -> None:
        while True:
            assert b"Expect: 100-continue" in await wire.head()
            await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await wire.exactly(2)
            await wire.send(OK)

    wire = await dial(await proxy(await upstream(careful)))
    for _ in range(2):
        await wire.send(
            b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert await wire.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await exchange(wire, b"hi", 2) == (OK[:-2], b"ok")


async def test_a_client_that_waits_for_100_and_is_refused(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """It may send the body or the next request: the connection ends, so that nobody can guess."""
    refused = answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    wire = await dial(await proxy(await upstream(refused)))
    await wire.send(
        b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    assert b"401 Unauthorized\r\nContent-Length: 0\r\nConnection: close" in await wire.head()
    assert await wire.rest() == b""


async def test_trailers_are_passed_on(upstream: Start, proxy: Start, dial: Dial) -> None:
    """Fields after the body reach the client; those about framing or trust do not."""
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nDigest: abc\r\nContent-Length: 5\r\n\r\n"
    )

    async def late(wire: Any) -> None:
        await wire.head()
        await wire.send(answer[:-30])
        await asyncio.sleep(0.05)
        await wire.send(answer[-30:])

    wire = await dial(await proxy(await upstream(late)))
    await wire.send(GET.replace(b"\r\n\r\n", b"\r\nTE: trailers\r\n\r\n"))
    await wire.head()
    assert await wire.exactly(25) == b"2\r\nok\r\n0\r\nDigest: abc\r\n\r\n"[:25]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
            "upstream_invalid",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 400_000, "upstream_invalid"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, "upstream_invalid"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            "upstream_invalid",
        ),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "upstream_invalid"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "upstream_invalid",
        ),
        (b"220 smtp.example.com ESMTP\r\n", "upstream_invalid"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nnot a chunk\r\n",
            "upstream_invalid",
        ),
    ],
)
async def test_bad_answers_become_502(
    upstream: Start, proxy: Start, dial: Dial, answer: bytes, code: str
) -> None:
    """A head that is too large or not HTTP is answered with a problem, and the client stays."""
    wire = await dial(await proxy(await upstream(answering(answer))))
    await wire.send(GET)
    head = await wire.head()
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: application/json\r\n")
    problem = json.loads(await wire.exactly(int(head.split(b"content-length: ")[1])))
    assert problem["error"]["code"] == code


async def test_large_heads_within_the_limit_pass(upstream: Start, proxy: Start, dial: Dial) -> None:
    """The limit is on the head alone, not on the body that comes in the same read."""
    value = b"v" * 60_000
    answer = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 150000\r\n\r\n" % value + b"b" * 150_000
    wire = await dial(await proxy(await upstream(answering(answer))))
    head, _ = await exchange(wire, GET, 150_000)
    assert value in head


async def test_unreachable_is_502(proxy: Start, upstream: Start, dial: Dial) -> None:
    """A refused connection is named without the upstream's address."""
    probe = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = probe.sockets[0].getsockname()[1]
    probe.close()
    wire = await dial(await proxy(port))
    await wire.send(GET)
    assert b"502" in await wire.head()
    body = await wire.exactly(len(b'{"error": {"code": "upstream_unreachable", "message": "'))
    assert b"upstream_unreachable" in body
    assert b"127.0.0.1" not in body


async def test_silence_is_504(upstream: Start, proxy: Start, dial: Dial) -> None:
    """An upstream that takes the request and says nothing is given up after the read timeout."""

    async def silent(wire: Any) -> None:
        await wire.head()
        await wire.gone()

    wire = await dial(await proxy(await upstream(silent), upstream_read_timeout_s=0.2))
    await wire.send(GET)
    assert b"504 Gateway Timeout" in await wire.head()


async def test_a_slow_upload_is_not_silence(upstream: Start, proxy: Start, dial: Dial) -> None:
    """While the client takes its time to send, the upstream owes nothing."""

    async def patient(wire: Any) -> None:
        await wire.head()
        await wire.exactly(2)
        await wire.send(OK)

    wire = await dial(await proxy(await upstream(patient), upstream_read_timeout_s=0.2))
    await wire.send(b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\na")
    await asyncio.sleep(0.5)
    await wire.send(b"b")
    assert b"200 OK" in await wire.head()


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 10\r\n\r\nshort",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ],
)
async def test_a_cut_answer_breaks_the_clients_connection(
    upstream: Start, proxy: Start, dial: Dial, answer: bytes
) -> None:
    """What was sent arrives, and the client can tell that the rest is missing."""

    async def cut(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n" + answer)

    wire = await dial(await proxy(await upstream(cut)))
    await wire.send(GET)
    assert b"200 OK" in await wire.head()
    rest = await wire.rest()
    assert b"short" in rest
    assert not rest.endswith(b"0\r\n\r\n")


async def test_a_stream_that_falls_silent_is_broken(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """The read timeout also holds between the bytes of a body."""

    async def stuck(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        await wire.gone()

    wire = await dial(await proxy(await upstream(stuck), upstream_read_timeout_s=0.2))
    await wire.send(GET)
    await wire.head()
    assert await wire.rest() == b"short"


async def test_answer_that_ends_with_the_connection(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """Without a length the end of the connection is the end of the body, and a proper one."""

    async def old(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    wire = await dial(await proxy(await upstream(old)))
    await wire.send(GET)
    await wire.head()
    assert await wire.chunks() == b"all of it"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegin"])
@pytest.mark.parametrize(
    "request_", [GET, GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n")]
)
async def test_a_client_that_leaves_ends_the_upstreams_work(
    upstream: Start, proxy: Start, dial: Dial, sent: bytes, request_: bytes
) -> None:
    """Before the first byte of the answer and in the middle of it, with and without an upload."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def watching(wire: Any) -> None:
        await wire.head()
        await wire.send(sent)
        asked.set()
        await wire.gone()
        left.set()

    wire = await dial(await proxy(await upstream(watching)))
    await wire.send(request_ + (b"12345" if b"Length" in request_ else b""))
    await asyncio.wait_for(asked.wait(), 5)
    if sent:
        await wire.head()
    wire.reset()
    await asyncio.wait_for(left.wait(), 1)


async def test_refusals_never_reach_the_upstream(upstream: Start, proxy: Start, dial: Dial) -> None:
    """A request without Host is answered by the proxy, and the connection ends."""
    heads: list[bytes] = []
    wire = await dial(await proxy(await upstream(answering(OK, heads))))
    await wire.send(b"GET / HTTP/1.1\r\n\r\n" + GET)
    assert b"400 Bad Request" in await wire.head()
    assert b"invalid_host" in await wire.rest()
    assert heads == []


async def test_pipelined_requests_are_answered_in_order(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """One after the other, bodies and all."""

    async def telling(wire: Any) -> None:
        while True:
            head = await wire.head()
            body = await wire.exactly(2) if b"Length" in head else b"--"
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)

    wire = await dial(await proxy(await upstream(telling)))
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    await wire.send(post + b"p1" + GET + post + b"p2" + GET + GET[:10])
    for body in (b"p1", b"--", b"p2", b"--"):
        await wire.head()
        assert await wire.exactly(2) == body
    assert await exchange(wire, GET[10:], 2) == (OK[:-2], b"--")


async def test_http_1_0(upstream: Start, proxy: Start, dial: Dial) -> None:
    """An old client gets no chunks and a connection that ends; one that asks may go on."""
    chunked = answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    port = await proxy(await upstream(chunked))
    wire = await dial(port)
    await wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert await wire.rest() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"
    wire = await dial(await proxy(await upstream(answering(OK))))
    for _ in range(2):
        await wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"Connection: keep-alive" in await wire.head()
        await wire.exactly(2)


async def test_a_mistake_in_one_look_keeps_nobody_else_from_being_looked_at(
    upstream: Start,
    proxy: Start,
    dial: Dial,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That connection ends, which the log tells; the idle one beside it is still closed in time."""
    look = ClientConnection.check
    mistaken: list[ClientConnection] = []

    def check(connection: ClientConnection, now: float) -> None:
        if connection in mistaken or not mistaken:
            mistaken[:] = [connection]
            raise RuntimeError("bug")
        look(connection, now)

    port = await proxy(await upstream(answering(OK)), client_header_timeout_s=0.4)
    first, second = await dial(port), await dial(port)
    monkeypatch.setattr(ClientConnection, "check", check)
    await first.gone()
    await second.gone()
    assert caplog.text.count("a connection is ended because of a mistake of ours") == 1
