"""Three proxies, each before a real server, whose app notes what it is asked.

The fixture `harmless` sends bytes through each of them, and to a server of its kind directly. What
the proxy lets pass must be metered once, seen once and understood alike by every server, and the
next client must not be affected.
"""

import asyncio
import hashlib
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hypercorn.asyncio
import hypercorn.config
import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from usageflow._types import Message, Receive, Scope, Send
from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware.meter import Meter
from usageflow.proxy.client_connection import ClientConnection
from usageflow.proxy.gateway import Gateway
from usageflow.recorder import Hold, Recorder

PATIENCE_S = 20.0
QUIET_TURNS = 25
"""Turns of the loop without any change, after which nothing more comes of what was sent."""
KEPT_S = 3_600
"""No server closes a kept-alive connection on its own while the test runs."""
POLICIES = """
[[policy]]
name = "asked"
match = "ANY /{rest:path}"
identify = [ { from = "path", name = "rest" }, { from = "metadata", value = "(no name)" } ]
field = "path"
metric = "ASKED"
when = "request"

[[policy]]
name = "answered"
match = "ANY /{rest:path}"
identify = [ { from = "metadata", value = "anyone" } ]
field = "path"
metric = "ANSWERED"
when = "response"
"""


LLHTTP = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"}
"""Of the methods that it knows, those that may be sent here."""


class Seen(NamedTuple):
    """A request as an app was given it; `body` is a digest, None if the body never ended."""

    method: str
    target: bytes
    path: str
    body: str | None


class App:
    """Answers each request with a digest of its body, and notes it under its connection's port."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Seen]] = {}
        self.steps = 0
        self.running = self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.running += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self.running -= 1
            self.steps += 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        query: bytes = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        seen = self.seen.setdefault(scope["client"][1], [])
        seen.append(Seen(scope["method"], target, scope["path"], None))
        at, self.steps = len(seen) - 1, self.steps + 1
        body = await self._body(receive)
        if body is None:
            return
        seen[at] = seen[at]._replace(body=hashlib.sha256(body).hexdigest())
        answer = seen[at].body.encode()  # type: ignore[union-attr]
        start = {"type": "http.response.start", "status": 200}
        await send(start | {"headers": [(b"content-length", b"%d" % len(answer))]})
        await send({"type": "http.response.body", "body": answer})

    async def _body(self, receive: Receive) -> bytes | None:
        body = b""
        while True:
            self.waiting += 1
            message: Message = await receive()
            self.waiting -= 1
            self.steps += 1
            if message["type"] == "http.disconnect":
                return None
            body += bytes(message["body"])
            if not message.get("more_body", False):
                return body

    def take(self) -> list[Seen]:
        """All that was seen since the last time."""
        seen, self.seen = self.seen, {}
        return [request for of_connection in seen.values() for request in of_connection]


class Ledger(Recorder):
    """A recorder, with what it was given."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.events: list[UsageEvent] = []

    def record(
        self, events: Sequence[UsageEvent], loop: asyncio.AbstractEventLoop | None = None
    ) -> Hold | None:
        """See Recorder."""
        self.events += events
        return super().record(events, loop)

    def take(self, metric: str) -> list[UsageEvent]:
        """Those of a metric, once."""
        taken = [event for event in self.events if event.metric == metric]
        self.events = [event for event in self.events if event.metric != metric]
        return taken


class Edge:
    """A proxy before a server of its own, and a second such server for direct requests."""

    def __init__(self, name: str, gateway: Gateway, ledger: Ledger, app: App, direct: App) -> None:
        self.name = name
        self.gateway = gateway
        self.ledger = ledger
        self.app = app
        self.direct = direct
        self.port = self.direct_port = 0
        self.fed_bytes = 0

    def connection(self) -> ClientConnection:
        """A connection of the gateway that counts what it is fed."""
        return Counted(self)

    def quiet(self, fed_bytes: int) -> bool:
        """All was read, and every request under way waits for bytes that never come."""
        under_way = self.gateway.figures.in_flight
        return self.fed_bytes >= fed_bytes and under_way == self.app.waiting


class Counted(ClientConnection):
    """Counts bytes."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(edge.gateway)
        self._edge = edge

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._edge.fed_bytes += len(data)


@asynccontextmanager
async def on_uvicorn(protocol: Callable[..., asyncio.Protocol], app: App) -> AsyncIterator[int]:
    """The port of uvicorn's side of connections, without its process: it has no signals here."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="critical",
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=KEPT_S,
        h11_max_incomplete_event_size=1_048_576,
    )
    config.load()
    connection = partial(protocol, config, ServerState(), {})
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@asynccontextmanager
async def on_hypercorn(app: App) -> AsyncIterator[int]:
    """The port of Hypercorn."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = None
    config.keep_alive_timeout = KEPT_S
    config.h11_max_incomplete_size = 1_048_576
    config.graceful_timeout = 0.1
    stop = asyncio.Event()
    serving = asyncio.ensure_future(
        hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
    )
    yield port
    stop.set()
    await asyncio.wait_for(serving, PATIENCE_S)


SERVERS: dict[str, Callable[[App], AbstractAsyncContextManager[int]]] = {
    "h11": partial(on_uvicorn, H11Protocol),
    "httptools": partial(on_uvicorn, HttpToolsProtocol),
    "hypercorn": on_hypercorn,
}


async def open_edge(stack: AsyncExitStack, name: str, policies: Path) -> Edge:
    """A proxy before one of the servers."""
    app, direct = App(), App()
    upstream = await stack.enter_async_context(SERVERS[name](app))
    chosen = Settings(
        upstream=f"http://127.0.0.1:{upstream}",
        policies=str(policies),
        spool_dir=str(policies.with_name(f"spool-{name}")),
        upstream_keepalive_s=KEPT_S,
    )
    ledger = Ledger(chosen)
    gateway = Gateway(chosen, meter=Meter(chosen, recorder=ledger, app=False))
    await gateway.start()
    stack.push_async_callback(gateway.aclose)
    edge = Edge(name, gateway, ledger, app, direct)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(edge.connection, "127.0.0.1", 0)
    stack.callback(server.close)
    edge.port = server.sockets[0].getsockname()[1]
    edge.direct_port = await stack.enter_async_context(SERVERS[name](direct))
    return edge


class World(NamedTuple):
    """All edges, and what runs them."""

    run: Callable[[Any], Any]
    edges: list[Edge]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Three proxies, each before its server, on a loop that stands still between examples."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    policies = tmp_path_factory.mktemp("differential") / "policies.toml"
    policies.write_text(POLICIES)
    stack = AsyncExitStack()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        edges = [runner.run(open_edge(stack, name, policies)) for name in SERVERS]
        yield World(runner.run, edges)
        runner.run(stack.aclose())


class Client:
    """A connection that sends what it is given, and keeps what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = b""
        self.ended = False
        self.port: int = writer.get_extra_info("sockname")[1]
        self._reader = reader
        self._writer = writer
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator["Client"]:
        """A connection to this port, closed at the end."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        try:
            yield client
        finally:
            client._listening.cancel()
            client._writer.close()
            with suppress(ConnectionError):
                await client._writer.wait_closed()

    async def send(self, pieces: Sequence[bytes]) -> None:
        """Send them one by one."""
        with suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()
                for _ in range(4):
                    await asyncio.sleep(0)

    async def settle(self, quiet: Callable[[], bool], steps: Callable[[], object]) -> None:
        """Return when the other side has ended, or nothing moves any more."""
        still, before = 0, None
        async with asyncio.timeout(PATIENCE_S):
            while not self.ended and still < QUIET_TURNS:
                await asyncio.sleep(0)
                now = (len(self.received), steps())
                still = still + 1 if quiet() and now == before else 0
                before = now

    async def _listen(self) -> None:
        with suppress(ConnectionError):
            while data := await self._reader.read(65_536):
                self.received += data
        self.ended = True


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


class Answer(NamedTuple):
    """One answer as a client reads it."""

    status: int
    body: bytes


def answers(data: bytes, methods: Sequence[str]) -> list[Answer]:
    """All answers in what a client received; one that is cut short fails the test."""
    found: list[Answer] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        line, *lines = head.split(b"\r\n")
        matched = re.fullmatch(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*", line)
        assert matched, line
        status = int(matched[1])
        if status < 200:
            continue
        fields = dict(line.lower().split(b": ", 1) for line in lines)
        assert b"transfer-encoding" not in fields, "the app and the proxy know all lengths"
        length = int(fields[b"content-length"])
        if len(found) < len(methods) and methods[len(found)] == "HEAD":
            length = 0
        assert len(data) >= length
        found.append(Answer(status, data[:length]))
        data = data[length:]
    return found


class Passage(NamedTuple):
    """What became of some bytes at one edge."""

    seen: list[Seen]
    answers: list[Answer]


CANARY = b"POST /canary HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\n\r\nwhole?"
CANARY_SEEN = Seen("POST", b"/canary", "/canary", hashlib.sha256(b"whole?").hexdigest())


async def through(edge: Edge, pieces: Sequence[bytes]) -> tuple[list[Seen], bytes]:
    """Send the pieces through the proxy: what its upstream saw and what the client received."""
    edge.fed_bytes = 0
    size = sum(map(len, pieces))
    async with Client.to(edge.port) as client:
        await client.send(pieces)
        await client.settle(lambda: edge.quiet(size), lambda: (edge.fed_bytes, edge.app.steps))
    await until(lambda: not edge.gateway.figures.in_flight and not edge.app.running)
    return edge.app.take(), client.received


async def directly(edge: Edge, pieces: Sequence[bytes]) -> list[Seen]:
    """Send the pieces to a server of the same kind: what it saw."""
    app = edge.direct
    async with Client.to(edge.direct_port) as client:
        await client.send(pieces)
        await client.settle(lambda: True, lambda: app.steps)
    seen = app.seen.pop(client.port, [])
    app.seen.clear()
    return seen


def shown(request: Seen) -> str:
    """The name that its path gives it in an event."""
    name = request.path[1:]
    return name if name and name.isprintable() and len(name) <= 500 else "(no name)"


def assert_metered(edge: Edge, seen: Sequence[Seen]) -> None:
    """Each request that was seen was metered once, as what it is; and nothing else was.

    `OPTIONS *` asks about the server, not for anything that it has: no policy matches it.
    """
    seen = [request for request in seen if request.target != b"*"]
    asked, answered = edge.ledger.take("ASKED"), edge.ledger.take("ANSWERED")
    assert [(event.request_method, event.identity.value) for event in asked] == [
        (request.method, shown(request)) for request in seen
    ]
    served = [event for event in answered if event.request_status == 200]
    assert [event.request_method for event in served] == [request.method for request in whole(seen)]


def assert_answered(seen: Sequence[Seen], received: bytes) -> list[Answer]:
    """Each request that was seen whole has its answer, in order, and at most a refusal follows."""
    told = answers(received, [request.method for request in seen])
    for request, answer in zip(whole(seen), told, strict=False):
        assert answer.status == 200
        expected = b"" if request.method == "HEAD" else str(request.body).encode()
        assert answer.body == expected
    refused = told[len(whole(seen)) :]
    assert len(refused) <= 1
    for answer in refused:
        assert answer.status >= 400
        assert answer.body.startswith(b'{"error"')  # ours: no server refuses what we send
    return told


async def passage(edge: Edge, pieces: Sequence[bytes]) -> Passage:
    """Send the pieces through one edge and see that all is in order there, also for the next."""
    seen, received = await through(edge, pieces)
    assert_metered(edge, seen)
    told = assert_answered(seen, received)
    next_seen, next_received = await through(edge, [CANARY])
    assert next_seen == [CANARY_SEEN]
    assert_metered(edge, next_seen)
    assert_answered(next_seen, next_received)
    return Passage(seen, told)


async def assert_harmless(world: World, pieces: Sequence[bytes]) -> Passage:
    """However these bytes are read, what is metered is what is seen."""
    first: Passage | None = None
    for edge in world.edges:
        if first is not None and edge.name == "httptools" and not known(first.seen):
            continue
        passed = await passage(edge, pieces)
        first = first or passed
        assert whole(passed.seen) == whole(first.seen)
        if b"upgrade" in b"".join(pieces).lower():
            continue  # we pass none on, but a server may do as it is told
        direct = await directly(edge, pieces)
        for ours, theirs in zip(passed.seen, direct, strict=False):
            assert alike(ours, theirs), edge.name
    assert first is not None
    return first


def whole(seen: Sequence[Seen]) -> list[Seen]:
    """Those with a body that ended. Whether another began depends on how the bytes were cut."""
    return [request for request in seen if request.body is not None]


def known(seen: Sequence[Seen]) -> bool:
    """Whether llhttp knows all the methods; it answers 400 to others, which is an answer too."""
    return {request.method for request in seen} <= LLHTTP


def alike(ours: Seen, theirs: Seen) -> bool:
    """Whether a server read without us what it read through us, as far as either read it.

    Most leave it to their app to take the path out of an absolute target.
    """
    target, absolute = re.subn(rb"^https?://[^/?]*", b"", theirs.target, flags=re.IGNORECASE)
    if absolute and not target.startswith(b"/"):
        target = b"*" if ours.method == "OPTIONS" and not target else b"/" + target
    bodies = {ours.body, theirs.body} - {None}
    return (ours.method, ours.target) == (theirs.method, target) and len(bodies) < 2


@pytest.fixture(scope="module")
def harmless(world: World) -> Callable[[Sequence[bytes]], Passage]:
    """See `assert_harmless`."""
    return lambda pieces: world.run(assert_harmless(world, pieces))


@pytest.fixture(scope="module")
def sent(world: World) -> Callable[[Sequence[bytes]], tuple[list[Seen], bytes, list[UsageEvent]]]:
    """What one upstream sees of these pieces, what the client receives, and what is metered."""

    def send(pieces: Sequence[bytes]) -> tuple[list[Seen], bytes, list[UsageEvent]]:
        edge = world.edges[0]
        seen, received = world.run(through(edge, pieces))
        return seen, received, edge.ledger.take("ASKED") + edge.ledger.take("ANSWERED")

    return send
