"""One request: repeating on stale connections, bodies of the wrong length, clients that leave."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from usageflow._types import Message
from usageflow.config import Settings
from usageflow.errors import UpstreamUnreachable
from usageflow.proxy import ReverseProxy

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]
Talk = Callable[..., Awaitable[list[Message]]]

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DISCONNECT: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool) -> Message:
    """A piece of a request's body."""
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.fixture
def talk(stack: AsyncExitStack) -> Callable[..., Talk]:
    """A hand-driven server before a proxy: gives the messages of requests, collects answers."""

    def start(port: int, **settings: Any) -> Talk:
        app = ReverseProxy(f"http://127.0.0.1:{port}", settings=Settings(**settings))
        stack.push_async_callback(app.aclose)

        async def send_request(
            *messages: Message | asyncio.Event, method: str = "POST", **headers: bytes
        ) -> list[Message]:
            incoming, sent = list(messages), []

            async def receive() -> Message:
                while incoming:
                    message = incoming.pop(0)
                    if not isinstance(message, asyncio.Event):
                        return message
                    await message.wait()
                await asyncio.Event().wait()
                raise AssertionError

            async def send(message: Message) -> None:
                sent.append(message)

            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": method,
                "scheme": "http",
                "path": "/",
                "raw_path": b"/",
                "query_string": b"",
                "headers": [
                    (b"host", b"a"),
                    *((name.replace("_", "-").encode(), value) for name, value in headers.items()),
                ],
            }
            await app(scope, receive, send)
            return sent

        return send_request

    return start


async def test_a_stale_connection_is_tried_once_more(
    upstream: Start, proxy: Start, dial: Dial
) -> None:
    """A kept-alive connection that is closed on the next request costs nobody an error."""
    requests = 0

    async def once(wire: Any) -> None:
        nonlocal requests
        await wire.head()
        requests += 1
        await wire.send(OK)
        await wire.head()  # takes the next request and hangs up without a byte

    port = await proxy(await upstream(once))
    idle = [await dial(port) for _ in range(3)]
    for wire in idle:
        await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for wire in idle * 2:
        assert b"200 OK" in await wire.head()
        await wire.exactly(2)
        if wire is idle[-1] and requests == 3:
            await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in await wire.head()
            break
    assert requests == 4


@pytest.mark.parametrize(
    ("method", "headers", "messages"),
    [
        ("POST", {}, []),
        ("PUT", {"content_length": b"1"}, [part(b"x", more=False)]),
        ("PUT", {"transfer_encoding": b"chunked"}, [part(b"", more=False)]),
    ],
)
async def test_what_may_have_been_done_is_not_repeated(
    upstream: Start,
    talk: Callable[..., Talk],
    method: str,
    headers: dict[str, bytes],
    messages: list[Message],
) -> None:
    """A request with a body, or of a method that is not idempotent, is a 502 instead."""
    heads = []

    async def once(wire: Any) -> None:
        heads.append(await wire.head())
        await wire.send(OK)
        heads.append(await wire.head())

    request = talk(await upstream(once))
    first = await request(method="GET")
    assert first[0]["status"] == 200
    sent = await request(*messages, method=method, **headers)
    assert sent[0]["status"] == 502
    assert len(heads) == 2


async def test_a_fresh_connection_that_breaks_is_not_repeated(
    upstream: Start, talk: Callable[..., Talk]
) -> None:
    """The upstream itself hangs up: asking again would not help."""
    connections = []

    async def hang_up(wire: Any) -> None:
        connections.append(await wire.head())

    sent = await talk(await upstream(hang_up))(method="GET")
    assert sent[0]["status"] == 502
    assert len(connections) == 1


async def test_a_cut_answer_raises(upstream: Start, talk: Callable[..., Talk]) -> None:
    """After the answer has begun the server must learn of the failure, to break the connection."""

    async def cut(wire: Any) -> None:
        await wire.head()
        await wire.send(OK[:-1])

    with pytest.raises(UpstreamUnreachable, match="before its answer was complete"):
        await talk(await upstream(cut))(method="GET")


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([part(b"", more=False)], 400),
        ([part(b"12345", more=False)], 400),
        ([part(b"12345", more=True)], 400),
        ([part(b"1", more=True), part(b"2", more=False)], 502),
        ([part(b"1", more=True), part(b"2345", more=False)], 502),
        ([part(b"12", more=True), part(b"34", more=False)], 200),
    ],
)
async def test_a_body_of_the_wrong_length_is_never_completed(
    upstream: Start, talk: Callable[..., Talk], messages: list[Message], status: int
) -> None:
    """A server that loses or adds bytes cannot make the upstream read them as another request."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.exactly(4)
        await wire.send(OK)

    sent = await talk(await upstream(script))(*messages, content_length=b"4")
    assert sent[0]["status"] == status


@pytest.mark.parametrize("headers", [{"content_length": b"4"}, {"transfer_encoding": b"chunked"}])
async def test_a_client_that_left_gets_nothing(
    upstream: Start, talk: Callable[..., Talk], headers: dict[str, bytes]
) -> None:
    """A disconnect in place of the body, or in the middle of it, quietly ends the request."""
    ended = asyncio.Event()

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.gone()
        ended.set()

    request = talk(await upstream(script))
    assert await request(DISCONNECT, **headers) == []
    ended.clear()
    assert await request(part(b"1", more=True), DISCONNECT, **headers) == []
    await asyncio.wait_for(ended.wait(), 2)


async def test_a_client_that_leaves_the_line_is_not_forwarded(
    upstream: Start, talk: Callable[..., Talk]
) -> None:
    """Who left while all connections were busy is dropped when its turn comes."""
    heads, go, leave = [], asyncio.Event(), asyncio.Event()

    async def script(wire: Any) -> None:
        while True:
            heads.append(await wire.head())
            await go.wait()
            await wire.send(OK)

    request = talk(await upstream(script), upstream_connections_max=1)
    first = asyncio.ensure_future(request(method="GET"))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(request(leave, DISCONNECT, method="GET"))
    await asyncio.sleep(0.25)  # more than two ticks: somebody listens to the client
    leave.set()
    await asyncio.sleep(0.05)
    go.set()
    assert (await first)[0]["status"] == 200
    assert await second == []
    assert (await request(method="GET"))[0]["status"] == 200
    assert len(heads) == 2


async def test_waiting_too_long_for_a_connection_is_504(
    upstream: Start, talk: Callable[..., Talk]
) -> None:
    """A full pool is answered, not waited for without end."""

    async def mute(wire: Any) -> None:
        await wire.gone()

    request = talk(
        await upstream(mute),
        upstream_connections_max=1,
        upstream_pool_timeout_s=0.1,
        upstream_read_timeout_s=0.3,
    )
    busy = asyncio.ensure_future(request(method="GET"))
    await asyncio.sleep(0.01)
    waiting = await request(method="GET")
    assert waiting[0]["status"] == 504
    assert b"in use" in waiting[1]["body"]
    assert (await busy)[0]["status"] == 504
