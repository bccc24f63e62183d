"""Through the proxy a client and its API see each other as they would directly.

Generated requests and answers pass between raw ends, once directly and once through the proxy, and
are compared byte for byte: first line, fields in order with their case and values, and body. What
differs is all of it in `as_the_client_sees` and `as_the_upstream_sees`.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from usageflow.config import Settings
from usageflow.middleware.feed import FixedFeed
from usageflow.middleware.meter import Meter
from usageflow.policies import Policy, PolicySet
from usageflow.proxy.gateway import Gateway

TORTURE = bool(os.environ.get("USAGEFLOW_TORTURE"))
EXAMPLES = 10_000 if TORTURE else 150
PATIENCE_S = 20.0
HOST = b"Host: a.example"

Fields = list[tuple[bytes, bytes]]


class Told(NamedTuple):
    """A message as its receiver reads it: its first line, its fields, its body, its trailers."""

    line: bytes
    fields: Fields
    body: bytes
    trailers: Fields


def fields_of(lines: list[bytes]) -> Fields:
    """Name and value of each line, as they are but for blanks around the value."""
    split = [line.partition(b":") for line in lines]
    return [(name, value.strip(b" \t")) for name, _, value in split]


async def read_message(reader: asyncio.StreamReader, *, bodiless: bool) -> Told:
    """Read one; interim answers are left out."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, *lines = head[:-4].split(b"\r\n")
    if line.startswith(b"HTTP/1.1 1"):
        return await read_message(reader, bodiless=bodiless)
    told = Told(line, fields_of(lines), b"", [])
    named = {name.lower(): value.lower() for name, value in told.fields}
    if bodiless:
        return told
    if named.get(b"transfer-encoding") == b"chunked":
        return await read_chunks(reader, told)
    if b"content-length" in named:
        return told._replace(body=await reader.readexactly(int(named[b"content-length"])))
    if line.startswith(b"HTTP/"):
        return told._replace(body=await reader.read(-1))
    return told


async def read_chunks(reader: asyncio.StreamReader, told: Told) -> Told:
    """The rest of a message in chunks."""
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    lines = []
    while line := (await reader.readuntil(b"\r\n"))[:-2]:
        lines.append(line)
    return told._replace(body=body, trailers=fields_of(lines))


class Line:
    """An upstream that plays an answer and keeps what it was asked, with and without the proxy."""

    def __init__(self) -> None:
        self.answer = b""
        self.closes = False
        self.asked: list[Told] = []
        self.port = self.proxy_port = 0
        self.tasks: set[asyncio.Task[Any] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client or of the proxy."""
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                self.asked.append(await read_message(reader, bodiless=False))
                writer.write(self.answer)
                await writer.drain()
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def ask(self, port: int, request: bytes) -> Told:
        """What a client at this port gets for a request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2_097_152)
        try:
            writer.write(request)
            async with asyncio.timeout(PATIENCE_S):
                bodiless = request.startswith(b"HEAD ") or b" 204 " in self.answer[:13]
                bodiless = bodiless or b" 304 " in self.answer[:13]
                return await read_message(reader, bodiless=bodiless)
        finally:
            writer.close()
            await writer.wait_closed()

    async def both(self, request: bytes, answer: bytes, *, closes: bool) -> tuple[Told, Told]:
        """The answer directly and through the proxy."""
        self.answer, self.closes = answer, closes
        self.asked.clear()
        return await self.ask(self.port, request), await self.ask(self.proxy_port, request)


POLICY = {
    "name": "all",
    "match": "ANY /{rest:path}",
    "identify": [{"from": "header", "name": "x-account"}],
    "field": "account_id",
    "metric": "BYTE",
    "quantity": "response.bytes",
    "when": "request",
}
"""Metered, so that the transparency is that of metered requests."""


async def open_line(stack: AsyncExitStack, spool: str) -> Line:
    """An upstream, and a metering proxy before it."""
    line = Line()
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0, limit=2_097_152)
    stack.callback(server.close)
    line.port = server.sockets[0].getsockname()[1]
    chosen = Settings(upstream=f"http://127.0.0.1:{line.port}", spool_dir=spool)
    policies = PolicySet.build([(Policy.model_validate(POLICY), "1")])
    gateway = Gateway(chosen, meter=Meter(chosen, feed=FixedFeed(policies), app=False))
    await gateway.start()
    stack.push_async_callback(gateway.aclose)
    loop = asyncio.get_running_loop()
    proxy = await loop.create_server(gateway.connection, "127.0.0.1", 0)
    stack.callback(proxy.close)
    line.proxy_port = proxy.sockets[0].getsockname()[1]
    return line


class Ends(NamedTuple):
    """The line, and what runs it."""

    run: Callable[[Any], Any]
    line: Line


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    """Everything on a loop that stands still between examples."""
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        line = runner.run(open_line(stack, str(tmp_path_factory.mktemp("spool"))))
        yield Ends(runner.run, line)
        runner.run(stack.aclose())


# What the proxy changes, all of it

HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
    *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
}
"""RFC 9110, section 7.6.1."""
CALLER = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"}


def end_to_end(told: Told) -> Told:
    """Without the fields about one connection, and those that `Connection` names.

    Not even `Connection` can take these away: Host, Content-Length, Expect.
    """
    named = {
        word.strip().lower()
        for name, value in told.fields
        if name.lower() == b"connection"
        for word in value.split(b",")
    }
    dropped = HOP_BY_HOP | (named - {b"host", b"content-length", b"expect"})
    return told._replace(fields=[field for field in told.fields if field[0].lower() not in dropped])


def as_the_client_sees(direct: Told) -> Told:
    """The answer that the proxy makes of one.

    Its version is the proxy's; a 204 has no length; trailers are for those who ask for them.
    """
    told = end_to_end(direct)
    line = re.sub(rb"^HTTP/1.0", b"HTTP/1.1", told.line)
    if b" " not in line[9:]:
        line += b" "  # the blank that a server without a reason phrase may leave out
    fields = told.fields
    if line[9:12] == b"204":
        fields = [field for field in fields if field[0].lower() != b"content-length"]
    return told._replace(line=line, fields=fields, trailers=[])


def as_the_upstream_sees(direct: Told) -> Told:
    """The request that the proxy makes of one, but for the fields that tell who called."""
    told = end_to_end(direct)
    line = re.sub(rb"HTTP/1.0$", b"HTTP/1.1", told.line)
    line = re.sub(rb" https?://[^/?]*/?", b" /", line, flags=re.IGNORECASE)
    fields = [field for field in told.fields if field[0].lower() not in CALLER]
    return told._replace(line=line, fields=fields, trailers=[])


# What is sent

STATUSES = [
    *(
        b"200 OK",
        b"201 Made",
        b"202 ",
        b"204 No Content",
        b"206 Partial Content",
        b"301 Moved  There",
    ),
    *(
        b"304 Not Modified",
        b"400 Bad \xe9",
        b"404 Not Found",
        b"418 I'm a teapot",
        b"429 Slow down",
    ),
    *(b"500 Oops", b"503 Try later", b"599 Custom"),
]
ANSWER_FIELDS = [
    *(b"Date: Sat, 21 Nov 2026 16:00:00 GMT", b"date: yesterday", b"Server: theirs/1.0 (x; y)"),
    *(
        b"Set-Cookie: a=1; Path=/; HttpOnly",
        b"Set-Cookie: b=2",
        b"set-cookie: a=1; Path=/; HttpOnly",
    ),
    *(b"Content-Type: text/html; charset=utf-8", b"Content-Type: application/json"),
    *(b"Content-Type: text/event-stream", b"Content-Encoding: gzip", b"Content-Encoding: br"),
    *(b'ETag: W/"a,b"', b"Vary: accept, *", b"VARY: Cookie", b"Cache-Control: no-store, max-age=0"),
    *(b"Content-Range: bytes 0-4/99", b"Accept-Ranges: bytes", b"Last-Modified: never"),
    *(b"Age: 7", b"Via: 1.1 other", b"Warning: 110 - stale", b"WWW-Authenticate: Basic realm=x"),
    *(
        b"Location: //elsewhere.example/%2F?a=b#c",
        b"Retry-After: 3",
        b"Alt-Svc: h3=x",
        b"Expires: 0",
    ),
    *(
        b"Upgrade: h2c",
        b"Keep-Alive: timeout=5",
        b"Connection: keep-alive",
        b"Connection: X-Hop, Keep-Alive",
    ),
    *(b"X-Hop: 1", b"Proxy-Authenticate: Basic", b"Trailer: X-T", b"X-Empty:", b"x-odd:\t a  b \t"),
    *(b"x-ODD-Case: c", b"X_low_line: 1", b"X-High: \xc3\xa9\xff", b"Server-Timing: db;dur=1"),
    *(b"X-Forwarded-For: answer", b"usageflow-hop: answer", b"Content-Location: /x"),
    b"Link: </a.css>; rel=preload",
    b"X-Long: " + b"y" * 9_000,
]
REQUEST_FIELDS = [
    *(
        b"Accept: */*",
        b"accept: text/html",
        b"Accept-Encoding: gzip, br;q=0.5",
        b"Cookie: a=1; b=2",
    ),
    *(
        b"Cookie: c=3",
        b"Authorization: Bearer a.b.c",
        b"X-Account: acct_1",
        b"User-Agent: x (y; z)",
    ),
    *(
        b"Range: bytes=0-4,9-",
        b"If-None-Match: *",
        b'If-Match: "a", "b"',
        b"Content-Type: multipart/x",
    ),
    *(
        b"Content-Encoding: gzip",
        b"Referer: //x",
        b"Origin: null",
        b"X-Empty:",
        b"x-odd:\t a  b \t",
    ),
    *(b"X-Dup: 1", b"x-dup: 2", b"X-High: \xc3\xa9\xff", b"Via: 1.0 a", b"Cache-Control: no-cache"),
    *(b"Connection: keep-alive", b"Connection: X-Dup", b"Keep-Alive: timeout=5", b"TE: trailers"),
    *(
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: x",
        b"Upgrade: h2c",
        b"Max-Forwards: 1",
    ),
    *(b"Connection: close", b"Connection: host, content-length", b"Traceparent: 00-a-b-01"),
    *(
        b"X-Forwarded-For: 1.2.3.4",
        b"Forwarded: for=x",
        b"X-Request-Id: 7",
        b"DNT: 1",
        b"Idempotency-Key: 7",
    ),
    b"X-Long: " + b"y" * 5_000,
]
TARGETS = [
    *(b"/", b"/a/b?c=d&e=%20+", b"//a//", b"/a/../b/./c", b"/%2F%2e%2E/%zz", b"/?", b"/a;b=c?d?e"),
    *(b"/%00%ff", b"/caf%C3%A9", b"/a|b^c`{}", b"http://a.example/x?y", b"/" + b"x" * 4_000),
]
NAME = st.text("abcXYZ019-!#$%&'*+.^`|~", min_size=1, max_size=12).map(
    lambda name: b"X-" + name.encode()
)
VALUE = st.lists(st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100)]), max_size=20).map(bytes)
FIELD = st.tuples(NAME, VALUE).map(b": ".join)
BODY = st.binary(max_size=64) | st.sampled_from(
    [b"", b"x" * 70_000, b"\r\n0\r\n\r\n", bytes(range(256))]
)


def chunks(draw: st.DrawFn, body: bytes, ending: bytes = b"\r\n") -> bytes:
    """The body in chunks of some sizes, with what follows the last one."""
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return b"".join(b"%x;x\r\n%b\r\n" % (len(p), p) for p in parts if p) + b"0\r\n" + ending


class Answer(NamedTuple):
    """What an upstream sends; it closes then, if it must."""

    data: bytes
    closes: bool


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """An answer in any of the ways that end it."""
    version = draw(st.sampled_from((b"HTTP/1.1",) * 5 + (b"HTTP/1.0",)))
    lines = [version + b" " + draw(st.sampled_from(STATUSES))]
    lines += draw(st.lists(st.sampled_from(ANSWER_FIELDS) | FIELD, max_size=8))
    body = draw(BODY)
    ways = (
        ["length", "close"] if version == b"HTTP/1.0" else ["length", "chunks", "chunks", "close"]
    )
    way = draw(st.sampled_from(ways))
    if way == "length":
        lines.append(
            b"%b: %d" % (draw(st.sampled_from((b"Content-Length", b"content-length"))), len(body))
        )
    elif way == "chunks":
        lines.append(b"Transfer-Encoding: chunked")
        body = chunks(draw, body, draw(st.sampled_from((b"\r\n", b"X-T: 1\r\nx-t: 2\r\n\r\n"))))
    else:
        lines.append(b"Connection: close")
    if lines[0][9:12] in (b"204", b"304"):
        body = b""
    order = [lines[0], *draw(st.permutations(lines[1:]))]
    return Answer(b"\r\n".join([*order, b"", body]), way == "close")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request as good clients send them."""
    method = draw(
        st.sampled_from((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"HEAD"))
    )
    version = draw(st.sampled_from((b"HTTP/1.1",) * 5 + (b"HTTP/1.0",)))
    lines = [HOST, *draw(st.lists(st.sampled_from(REQUEST_FIELDS) | FIELD, max_size=8))]
    body = b"" if method in (b"GET", b"HEAD") else draw(BODY)
    if body and version == b"HTTP/1.1" and draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        body = chunks(draw, body)
    elif body or draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    start = b" ".join((method, draw(st.sampled_from(TARGETS)), version))
    return b"\r\n".join([start, *draw(st.permutations(lines)), b"", body])


GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
MEGABYTE = Answer(
    b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + os.urandom(64) * 16_384, closes=False
)
calm = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@calm
@example(GET, MEGABYTE)
@example(GET.replace(b"1.1", b"1.0"), MEGABYTE._replace(closes=True))
@given(st.sampled_from((GET, GET.replace(b"GET", b"HEAD"), GET.replace(b"1.1", b"1.0"))), answers())
def test_answers_are_as_they_were(ends: Ends, request_: bytes, answer: Answer) -> None:
    """A client cannot tell from an answer that there is a proxy, the listed changes aside."""
    direct, proxied = ends.run(ends.line.both(request_, answer.data, closes=answer.closes))
    assert end_to_end(proxied) == as_the_client_sees(direct)


@calm
@given(requests())
def test_requests_are_as_they_were(ends: Ends, request_: bytes) -> None:
    """An upstream is asked what the client asked."""
    ends.run(ends.line.both(request_, ANSWERED, closes=False))
    direct, proxied = ends.line.asked
    proxied = end_to_end(proxied)
    kept = [field for field in proxied.fields if field[0].lower() not in CALLER]
    assert proxied._replace(fields=kept) == as_the_upstream_sees(direct)


ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_trailers_reach_a_client_that_asks_for_them(ends: Ends) -> None:
    """And only that one, in order and with their case."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"1\r\nx\r\n0\r\nX-B: 1\r\nx-a: 2\r\n\r\n"
    asking = GET.replace(b"\r\n\r\n", b"\r\nConnection: TE\r\nTE: trailers\r\n\r\n")
    direct, proxied = ends.run(ends.line.both(asking, answer, closes=False))
    assert proxied.trailers == direct.trailers == [(b"X-B", b"1"), (b"x-a", b"2")]
    assert ends.run(ends.line.both(GET, answer, closes=False))[1].trailers == []
