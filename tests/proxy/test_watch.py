"""What the meter is told of a request: in the proxy as in an app, whatever becomes of it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from usageflow.events import UsageEvent, decode
from usageflow.middleware.discovery import Discovery
from usageflow.proxy.gateway import Gateway
from usageflow.recorder import read_spool

Start = Callable[..., Awaitable[int]]
Begin = Callable[..., Awaitable[Gateway]]
Dial = Callable[[int], Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]

pytestmark = pytest.mark.anyio

GET = b"GET /v1/items/1 HTTP/1.1\r\nHost: api\r\n\r\n"
UPGRADE = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POLICIES = """
[[policy]]
name = "calls"
match = "WEBSOCKET /v1/{rest:path}"
identify = [ { from = "metadata", value = "acct_1" } ]
field = "account_id"
metric = "CALL"
when = "request"

[[policy]]
name = "pieces"
match = "GET /v1/items/:id"
identify = [ { from = "metadata", value = "acct_1" } ]
field = "account_id"
metric = "PIECE"
quantity = "response.body.n"
stream = "sum"
"""


def says(*parts: bytes) -> Callable[[Any], Awaitable[None]]:
    """A script that answers one request in these parts, and waits."""

    async def script(wire: Any) -> None:
        await wire.head()
        for part in parts:
            await wire.send(part)
            await asyncio.sleep(0.01)
        await wire.gone()

    return script


class Edge:
    """A served gateway and what it recorded."""

    def __init__(self, gateway: Gateway, port: int, spool: Path) -> None:
        self.gateway = gateway
        self.port = port
        self._spool = spool

    async def events(self) -> list[UsageEvent]:
        """All of them, after it has stopped."""
        await self.gateway.aclose()
        return list(map(decode, read_spool(self._spool)))


@pytest.fixture
def edge(
    upstream: Start, gateway: Begin, stack: AsyncExitStack, tmp_path: Path
) -> Callable[..., Awaitable[Edge]]:
    """Start an upstream that plays a script, and a proxy before it."""

    async def start(script: Any, **given: Any) -> Edge:
        spool = tmp_path / "spool"
        made = await gateway(await upstream(script), spool_dir=str(spool), **given)
        server = await asyncio.get_running_loop().create_server(made.connection, "127.0.0.1", 0)
        stack.callback(server.close)
        return Edge(made, server.sockets[0].getsockname()[1], spool)

    return start


@pytest.fixture
def policies(tmp_path: Path) -> str:
    """The policies above as a file."""
    path = tmp_path / "policies.toml"
    path.write_text(POLICIES)
    return str(path)


Open = Callable[..., Awaitable[Edge]]
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "parts", [[REFUSAL + b"2\r\nno\r\n0\r\n\r\n"], [REFUSAL, b"2\r\nno\r\n", b"0\r\n\r\n"]]
)
async def test_a_refused_handshake(
    edge: Open, dial: Dial, policies: str, parts: list[bytes]
) -> None:
    """Is an answer like any other, with its body, and is recorded as what it is."""
    made = await edge(says(*parts), policies=policies)
    wire = await dial(made.port)
    await wire.send(UPGRADE)
    assert b" 403 " in await wire.head()
    assert await wire.chunks() == b"no"
    [event] = await made.events()
    assert (event.metric, event.state, event.quantity) == ("CALL", "counted", Decimal(1))


async def test_a_client_that_leaves_its_handshake(
    edge: Open, dial: Dial, policies: str, eventually: Until
) -> None:
    """Was here: the event says what became of it."""
    made = await edge(says(), policies=policies)
    wire = await dial(made.port)
    await wire.send(UPGRADE)
    await eventually(lambda: made.gateway.figures.in_flight)
    wire.reset()
    await eventually(lambda: not made.gateway.figures.in_flight)
    [event] = await made.events()
    assert event.metric == "CALL"
    assert "the client disconnected" in str(event.reason)


async def test_a_handshake_that_no_policy_applies_to(edge: Open, dial: Dial) -> None:
    """Passes, refused or cut, and leaves nothing."""
    made = await edge(says(REFUSAL + b"2\r\nno\r\n"))
    wire = await dial(made.port)
    await wire.send(UPGRADE)
    assert b" 403 " in await wire.head()
    assert await wire.chunk() == b"no"
    wire.reset()
    assert await made.events() == []


async def test_a_stream_is_recorded_as_it_grows(
    edge: Open, dial: Dial, policies: str, tmp_path: Path, eventually: Until
) -> None:
    """What has passed is on disk before its end, so that a crash loses little of it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n"
    part = b'data: {"n": 2}\n\n'
    made = await edge(says(head + part, part), policies=policies, part_interval_s=0.05)
    wire = await dial(made.port)
    await wire.send(GET)
    await wire.head()
    await wire.exactly(2 * len(part))
    spool = tmp_path / "spool"
    await eventually(lambda: any(read_spool(spool)))
    wire.reset()
    assert sum(event.quantity or 0 for event in await made.events()) == 4


@pytest.mark.parametrize("leaves", [True, False])
async def test_what_no_policy_matches_is_discovered(
    edge: Open, dial: Dial, eventually: Until, *, leaves: bool
) -> None:
    """The endpoint is counted, and what its answers look like is noted; no value is."""
    kind = b"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\n" + kind + b'{"total": 1234}'
    made = await edge(says(answer[:-3]) if leaves else says(answer[:-3], b"34}"))
    made.gateway.meter.discovery = discovery = Discovery(10)
    wire = await dial(made.port)
    await wire.send(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}"))
    await wire.head()
    if leaves:
        wire.reset()
    else:
        await wire.exactly(15)
    await eventually(lambda: sum(made.gateway.figures.requests))
    report = discovery.take()
    assert report is not None
    told = report.decode()
    assert "/v1/items/" in told
    assert ("total" in told) != leaves
    assert "1234" not in told
    assert await made.events() == []


async def test_requests_before_the_first_policies_are_counted(edge: Open, dial: Dial) -> None:
    """They pass; a row says that they were there."""
    made = await edge(says(OK))
    readiness = made.gateway.meter.readiness
    readiness.reached = False
    readiness._feed.loaded = False
    wire = await dial(made.port)
    await wire.send(GET)
    assert await wire.head() + await wire.exactly(2) == OK
    [event] = await made.events()
    assert event.state == "gap"
