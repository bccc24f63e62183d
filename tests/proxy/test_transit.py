"""One request on its way: expectations, early answers, framing for each client, what is added."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from usageflow.events import decode
from usageflow.proxy.gateway import Gateway
from usageflow.recorder import Hold, read_spool

Start = Callable[..., Awaitable[int]]
Begin = Callable[..., Awaitable[Gateway]]
Dial = Callable[[int], Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio

GET = b"GET /a HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: api\r\n"
EXPECT = POST + b"Expect: 100-continue\r\n"
LONG = b"Content-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that is done here makes the event loop or the proxy complain.

    Times are looked at more often than in production.
    """
    monkeypatch.setattr("usageflow.proxy.gateway.TICK_S", 0.05)
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.messages == []


class Upstream:
    """Plays one script for each request, on whatever connection; notes what it was asked."""

    def __init__(self, *scripts: Callable[[Any, bytes], Awaitable[object]]) -> None:
        self.scripts = list(scripts)
        self.heads: list[bytes] = []
        self.connections = 0

    async def __call__(self, wire: Any) -> None:
        """One connection."""
        self.connections += 1
        while True:
            head = await wire.head()
            self.heads.append(head)
            if await self.scripts.pop(0)(wire, head) is False:
                return


def answer(data: bytes, *, first: int = 0) -> Callable[[Any, bytes], Awaitable[None]]:
    """Read so many bytes, then send this."""

    async def script(wire: Any, _: bytes) -> None:
        await wire.exactly(first)
        await wire.send(data)

    return script


# Expect: 100-continue


async def test_an_upstream_that_ignores_the_expectation(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """A client that does not wait for ever sends its body, and both connections live on."""
    api = Upstream(answer(OK, first=5), answer(OK))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(EXPECT + LONG)
    await asyncio.sleep(0.05)
    await wire.send(b"12345" + GET)
    for _ in range(2):
        assert await wire.head() + await wire.exactly(2) == OK
    assert api.connections == 1


@pytest.mark.parametrize("body", [b"", b"12345", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_a_final_answer_instead_of_100(
    upstream: Start, proxy: Start, dial: Dial, body: bytes
) -> None:
    """Whether the body follows is anybody's guess, so nothing that follows is read, and neither
    connection is used again.
    """
    api = Upstream(answer(OK), answer(OK))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(EXPECT + LONG)
    assert await wire.head() + await wire.exactly(2) == CLOSE
    await wire.send(body)
    assert await wire.rest() == b""
    assert len(api.heads) == 1


async def test_100_and_then_an_early_answer(upstream: Start, proxy: Start, dial: Dial) -> None:
    """Told to go on, the client sends its body: its connection serves the next request."""
    api = Upstream(answer(CONTINUE + OK), answer(OK))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(EXPECT + LONG)
    assert await wire.head() == CONTINUE
    assert await wire.head() + await wire.exactly(2) == OK
    await wire.send(b"12345" + GET)
    assert await wire.head() + await wire.exactly(2) == OK
    assert api.connections == 2


async def test_an_old_client_is_sent_no_100(upstream: Start, proxy: Start, dial: Dial) -> None:
    """It could not understand one: it sends its body at once, and gets its answer."""
    api = Upstream(answer(CONTINUE * 2 + OK, first=5))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(EXPECT.replace(b"1.1", b"1.0") + LONG + b"12345")
    assert await wire.rest() == CLOSE


async def test_a_client_is_told_to_go_on_once(upstream: Start, proxy: Start, dial: Dial) -> None:
    """However often the upstream says so."""
    api = Upstream(answer(CONTINUE * 3 + OK))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(EXPECT + b"Content-Length: 0\r\n\r\n")
    data = await wire.head() + await wire.head() + await wire.exactly(2)
    assert data in (CONTINUE + OK, OK)


async def test_another_expectation_is_the_upstreams_to_refuse(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """It arrives as it is."""
    failed = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"
    api = Upstream(answer(failed))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(GET[:-2] + b"Expect: tea\r\n\r\n")
    assert await wire.head() == failed
    assert b"\r\nExpect: tea\r\n" in api.heads[0]


ASKED = """
[[policy]]
name = "asked"
match = "POST /a"
identify = [ { from = "metadata", value = "acct_1" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total"
include_usage = true
"""
STREAM = b'data: {"usage": {"total": 7}, "choices": []}\n\ndata: [DONE]\n\n'


async def test_a_body_that_is_changed_is_asked_for_by_the_proxy(
    upstream: Start, proxy: Start, dial: Dial, tmp_path: Path
) -> None:
    """The upstream is asked once the body is there, so it cannot say that it may come."""
    (tmp_path / "p.toml").write_text(ASKED)
    sent = b'{"stream": true}'
    seen = b'{"stream_options":{"include_usage":true},"stream": true}'
    kind = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    half = len(STREAM) // 2

    async def in_two(wire: Any, head: bytes) -> None:
        await answer(CONTINUE + kind % len(STREAM) + STREAM[:half], first=len(seen))(wire, head)
        await asyncio.sleep(0.01)
        await wire.send(STREAM[half:])

    api = Upstream(in_two)
    wire = await dial(await proxy(await upstream(api), policies=str(tmp_path / "p.toml")))
    await wire.send(
        EXPECT + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(sent)
    )
    assert await wire.head() == CONTINUE
    await wire.send(sent)
    assert b"Transfer-Encoding: chunked" in await wire.head()
    assert await wire.chunks() == b"data: [DONE]\n\n"
    [event] = map(decode, read_spool(tmp_path / "spool"))
    assert event.quantity == 7


async def test_a_body_too_large_to_be_changed_goes_as_it_is(
    upstream: Start, proxy: Start, dial: Dial, tmp_path: Path
) -> None:
    """From then on it streams."""
    (tmp_path / "p.toml").write_text(ASKED)
    parts = [b"z" * 300_000] * 4
    api = Upstream(answer(OK, first=1_200_000))
    wire = await dial(
        await proxy(await upstream(api), policies=str(tmp_path / "p.toml"), body_bytes_max=500_000)
    )
    await wire.send(POST + b"Content-Type: application/json\r\nContent-Length: 1200000\r\n\r\n")
    for part in parts:
        await wire.send(part)
    assert await wire.head() + await wire.exactly(2) == OK


async def test_nothing_is_asked_after_a_refusal(
    upstream: Start, gateway: Begin, stack: Any, dial: Dial, tmp_path: Path
) -> None:
    """A body that is complete only when its time has run out reaches nobody, though its refusal
    still waits for the disk.
    """
    (tmp_path / "p.toml").write_text(ASKED.replace("field =", 'when = "request"\nfield ='))
    api = Upstream(answer(OK))
    made = await gateway(
        await upstream(api),
        policies=str(tmp_path / "p.toml"),
        spool_dir=str(tmp_path / "spool"),
        request_timeout_s=0.1,
    )
    hold = Hold(asyncio.get_running_loop(), 10.0)
    made.meter.recorder.record = lambda *_: hold  # type: ignore[method-assign]
    server = await asyncio.get_running_loop().create_server(made.connection, "127.0.0.1", 0)
    stack.callback(server.close)
    wire = await dial(server.sockets[0].getsockname()[1])
    body = b'{"stream": true}'
    await wire.send(
        POST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    await asyncio.sleep(0.5)
    await wire.send(body)
    await asyncio.sleep(0.1)
    hold.release(True)
    assert (await wire.head()).startswith(b"HTTP/1.1 504 ")
    assert api.heads == []


# Early answers


@pytest.mark.parametrize("completes", [True, False])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 200000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
async def test_an_early_answer_and_the_next_request(
    upstream: Start, proxy: Start, dial: Dial, *, completes: bool, framing: bytes
) -> None:
    """An upload that is completed in time was read away, its connection lives on; the upstream's
    does not. What is in the upload is never a request.
    """
    hidden = GET * 10_000
    api = Upstream(answer(OK), answer(OK))
    wire = await dial(await proxy(await upstream(api), client_linger_s=0.3))
    await wire.send(POST + framing)
    assert await wire.head() + await wire.exactly(2) == OK
    chunked = b"chunked" in framing
    body = hidden[:200_000]
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    await wire.send(body if completes else body[:-7])
    if completes:
        await wire.send(GET)
        assert await wire.head() + await wire.exactly(2) == OK
        assert api.connections == 2
    else:
        await wire.gone()
        assert api.connections == 1


async def test_an_upload_that_goes_wrong_after_its_answer(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """The answer was given; what follows cannot be understood, and the connection ends."""
    api = Upstream(answer(OK))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    assert await wire.head() + await wire.exactly(2) == OK
    await wire.send(b"no chunk\r\n" + GET)
    assert await wire.rest() == b""
    assert len(api.heads) == 1


async def test_a_connection_that_ends_with_an_early_answer(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """A client that wants no other request need not complete its upload."""
    api = Upstream(answer(OK))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(POST + b"Connection: close\r\n" + LONG)
    assert await wire.rest() == CLOSE


# The answer's head and framing


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_several_interim_answers(
    upstream: Start, proxy: Start, dial: Dial, version: bytes
) -> None:
    """All pass, in order, without what would frame them; an old client gets none."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </%d>\r\n%b\r\n"
    odd = b"Content-Length: 9\r\nConnection: x\r\nX: 1\r\n"
    api = Upstream(answer(hints % (1, b"") + hints % (2, odd) + OK))
    wire = await dial(await proxy(await upstream(api)))
    await wire.send(GET[:-2].replace(b"1.1", version) + b"Connection: close\r\n\r\n")
    told = hints % (1, b"") + hints % (2, b"") if version == b"1.1" else b""
    assert await wire.rest() == told + CLOSE


@pytest.mark.parametrize("timing", ["on", "off"])
@pytest.mark.parametrize("minor", [b"0", b"1"])
@pytest.mark.parametrize("answered", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"])
async def test_an_answer_that_ends_with_its_connection(
    upstream: Start, proxy: Start, dial: Dial, *, answered: bytes, minor: bytes, timing: str
) -> None:
    """It is chunked for a client that knows chunks, and ends with the connection for another."""

    async def until_close(wire: Any, _: bytes) -> bool:
        await wire.send(answered + b"all")
        await asyncio.sleep(0.01)
        await wire.send(b" of it")
        return False

    port = await proxy(await upstream(Upstream(until_close)), server_timing=timing)
    wire = await dial(port)
    await wire.send(GET.replace(b"1.1", b"1." + minor))
    head = await wire.head()
    assert (b"Server-Timing: meter;dur=" in head) == (timing == "on")
    if minor == b"1":
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert await wire.chunks() == b"all of it"
    else:
        assert b"Transfer-Encoding" not in head
        assert b"\r\nConnection: close\r\n" in head
        assert await wire.rest() == b"all of it"


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n\r\n",
        b"5;a=b;c\r\nwhole\r\n0;x\r\n\r\n",
        b"1\r\nw\r\n" + b'1;q="\\""\r\nh\r\n' + b"003\r\nole\r\n00\r\nX: 1\r\n\r\n",
        b"493E0\r\n" + b"z" * 300_000 + b"\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("pieces", [1, 7])
async def test_chunks_are_read_and_written_anew(
    upstream: Start, proxy: Start, dial: Dial, body: bytes, pieces: int
) -> None:
    """Both ways, however they are cut: extensions do not cross, the bytes do."""
    echoed = b""

    async def echo(wire: Any, _: bytes) -> None:
        nonlocal echoed
        echoed = await wire.chunks()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in cut(body):
            await wire.send(part)

    def cut(data: bytes) -> list[bytes]:
        size = len(data) // pieces + 1
        return [data[start : start + size] for start in range(0, len(data), size)]

    wire = await dial(await proxy(await upstream(Upstream(echo))))
    await wire.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    for part in cut(body):
        await wire.send(part)
        await asyncio.sleep(0)
    await wire.head()
    assert await wire.chunks() == echoed
    assert echoed in (b"", b"whole", b"z" * 300_000)


async def test_a_refusal_of_a_head_has_no_body(upstream: Start, proxy: Start, dial: Dial) -> None:
    """Its length is that of the body which a GET would get, and the connection stays in step."""

    async def garbage(wire: Any, _: bytes) -> bool:
        await wire.send(b"what?\r\n\r\n")
        return False

    wire = await dial(await proxy(await upstream(Upstream(garbage, answer(OK)))))
    await wire.send(GET.replace(b"GET", b"HEAD"))
    head = await wire.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"content-length: 0" not in head
    await wire.send(GET)
    assert await wire.head() + await wire.exactly(2) == OK


async def test_server_timing_of_an_answer_in_one_piece(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """It is added to the upstream's own fields, after them."""
    api = Upstream(answer(OK))
    wire = await dial(await proxy(await upstream(api), server_timing="on"))
    await wire.send(GET)
    head = await wire.head()
    assert head.startswith(OK[:-4] + b"Server-Timing: meter;dur=")
    assert await wire.exactly(2) == b"ok"


# What reaches the upstream


@pytest.mark.parametrize(
    ("setting", "request_", "host"),
    [
        ("keep", GET, b"Host: api"),
        ("keep", b"GET /a HTTP/1.0\r\n\r\n", b"Host: 127.0.0.1:%d"),
        ("upstream", GET, b"Host: 127.0.0.1:%d"),
        ("inner.test", GET, b"Host: inner.test"),
        ("bücher.test", GET, b"Host: xn--bcher-kva.test"),
    ],
)
async def test_the_host_that_the_upstream_sees(
    upstream: Start, proxy: Start, dial: Dial, *, setting: str, request_: bytes, host: bytes
) -> None:
    """The client's, its own, or a given one; what the client asked for is told beside it."""
    api = Upstream(answer(OK))
    port = await upstream(api)
    wire = await dial(await proxy(port, upstream_host=setting))
    await wire.send(request_)
    await wire.head()
    expected = host % port if b"%d" in host else host
    assert api.heads[0].split(b"\r\n")[1] == expected
    assert (b"X-Forwarded-Host: api\r\n" in api.heads[0]) == (b"Host: api" in request_)


@pytest.mark.parametrize(
    ("trusted", "chain", "logged"),
    [
        (None, b"X-Forwarded-For: 127.0.0.1\r\n", "127.0.0.1"),
        ("127.0.0.0/8", b"X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\n", "203.0.113.9"),
    ],
)
async def test_who_called_is_believed_of_trusted_peers(
    upstream: Start,
    proxy: Start,
    dial: Dial,
    tmp_path: Path,
    *,
    trusted: str | None,
    chain: bytes,
    logged: str,
) -> None:
    """For the upstream and the access log; what another says of itself is replaced."""
    api = Upstream(answer(OK), answer(OK))
    log = tmp_path / "access.log"
    wire = await dial(
        await proxy(await upstream(api), trusted_proxies=trusted, access_log=str(log))
    )
    for _ in range(2):  # the second time from what is remembered of the connection
        await wire.send(GET[:-2] + b"X-Forwarded-For: 203.0.113.9\r\n\r\n")
        await wire.head()
        await wire.exactly(2)
    assert all(chain in head for head in api.heads)
    assert all(head.count(b"X-Forwarded-For") == 1 for head in api.heads)
    async with asyncio.timeout(10):
        while not log.read_text():  # noqa: ASYNC110 - a thread writes it
            await asyncio.sleep(0.01)
    assert {json.loads(line)["client"] for line in log.read_text().splitlines()} == {logged}


CLOSED = """
[[policy]]
name = "closed"
match = "ANY /{rest:path}"
identify = [ { from = "metadata", value = "acct_1" } ]
field = "account_id"
metric = "CALL"
when = "request"
on_ledger_failure = "closed"
"""


@pytest.mark.parametrize("body", [b"\r\n", LONG + b"12345", LONG])
async def test_what_cannot_be_metered_is_not_served(
    upstream: Start, gateway: Begin, stack: Any, dial: Dial, tmp_path: Path, *, body: bytes
) -> None:
    """If the policy says so: the upstream is not asked, and nothing is recorded."""
    (tmp_path / "p.toml").write_text(CLOSED)
    api = Upstream(answer(OK))
    made = await gateway(
        await upstream(api), policies=str(tmp_path / "p.toml"), spool_dir=str(tmp_path / "spool")
    )
    made.meter.refuses = lambda match: match.fail_closed  # type: ignore[method-assign]
    server = await asyncio.get_running_loop().create_server(made.connection, "127.0.0.1", 0)
    stack.callback(server.close)
    wire = await dial(server.sockets[0].getsockname()[1])
    await wire.send(POST + body)
    head = await wire.head()
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 5\r\n" in head
    assert (b"Connection: close" in head) == (body == LONG)
    assert (
        json.loads(await wire.exactly(int(head.split(b"length: ")[1].split(b"\r")[0])))["error"][
            "code"
        ]
        == "metering_unavailable"
    )
    assert made.figures.refusals["metering_unavailable"] == 1
    await made.aclose()
    assert api.heads == []
    assert list(read_spool(tmp_path / "spool")) == []
