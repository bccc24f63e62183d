"""Handshakes: refused, not understood, not allowed, not metered, or told to the next edge."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from usageflow.config import Settings
from usageflow.policies.hops import HOP_HEADER, claimed, hop_key
from usageflow.policies.reason import Reason

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]
Open = Callable[..., Awaitable[Any]]

pytestmark = pytest.mark.anyio

ALSO_GET = """
[[policy]]
name = "get"
match = "GET /live/:name"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "CONNECTION"
quantity = 5
"""


@pytest.mark.parametrize("status", [401, 403, 426, 500])
async def test_a_refused_handshake(
    edge: Open, websocket_server: Start, status: int, echo: Any
) -> None:
    """Is an answer like any other, with its status, fields and body."""

    def refuse(connection: ServerConnection, request: Request) -> Response:
        answer = connection.respond(HTTPStatus(status), "not here\n")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    made = await edge(await websocket_server(echo, process_request=refuse))
    with pytest.raises(InvalidStatus) as refused:
        await made.connect()
    response = refused.value.response
    assert (response.status_code, response.body) == (status, b"not here\n")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    [event] = [event for event in await made.events() if event.metric == "CONNECTION"]
    assert event.request_status == status
    assert event.quantity == 1


async def test_what_a_server_without_websockets_answers(
    edge: Open, upstream: Start, dial: Dial, tmp_path: Path, *, handshake: bytes, policies: str
) -> None:
    """Is the answer to a GET, for which the policies of GET count, each metric once; and what the
    client sent after its handshake is its next request.
    """
    (tmp_path / "policies.toml").write_text(policies + ALSO_GET)
    heads: list[bytes] = []

    async def script(wire: Any) -> None:
        while True:
            heads.append(await wire.head())
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    made = await edge(await upstream(script))
    wire = await dial(made.port)
    await wire.send(handshake + b"GET /live/y HTTP/1.1\r\nHost: api\r\nX-Account: acct_1\r\n\r\n")
    for _ in range(2):
        await wire.head()
        assert await wire.exactly(2) == b"ok"
    assert b"Upgrade: websocket" in heads[0]
    assert b"Upgrade" not in heads[1]
    of_connections = [event for event in await made.events() if event.metric == "CONNECTION"]
    assert [event.policy for event in of_connections] == ["get", "get"]
    assert [event.request_method for event in of_connections] == ["GET", "GET"]


async def test_policies_of_get_do_not_count_websockets(
    edge: Open, websocket_server: Start, tmp_path: Path, echo: Any, policies: str
) -> None:
    """One that is accepted is no GET."""
    (tmp_path / "policies.toml").write_text(policies + ALSO_GET)
    made = await edge(await websocket_server(echo))
    async with made.connect():
        pass
    assert (await made.counted())["CONNECTION"] == 1


async def test_switched_off(edge: Open, upstream: Start, dial: Dial, handshake: bytes) -> None:
    """A handshake is answered 501, nothing of it reaches the upstream, the next request does."""
    heads: list[bytes] = []

    async def script(wire: Any) -> None:
        heads.append(await wire.head())
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await wire.gone()

    made = await edge(await upstream(script), websockets="off")
    wire = await dial(made.port)
    await wire.send(handshake)
    head = await wire.head()
    assert head.startswith(b"HTTP/1.1 501 ")
    body = await wire.exactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    assert b"websockets_off" in body
    await wire.send(b"GET /next HTTP/1.1\r\nHost: api\r\n\r\n")
    assert (await wire.head()).startswith(b"HTTP/1.1 200 ")
    assert [head.split(b"\r\n")[0] for head in heads] == [b"GET /next HTTP/1.1"]
    assert await made.events() == []


@pytest.mark.parametrize("host", [b"", b"Host: a b\r\n", b"Host: api\r\nHost: api\r\n"])
async def test_a_wrong_host(
    edge: Open, upstream: Start, dial: Dial, host: bytes, handshake: bytes
) -> None:
    """Is refused in a handshake as in any request, and never seen by the upstream."""
    connections: list[Any] = []

    async def script(wire: Any) -> None:
        connections.append(wire)

    made = await edge(await upstream(script))
    wire = await dial(made.port)
    await wire.send(handshake.replace(b"Host: api\r\n", host))
    assert (await wire.head()).startswith(b"HTTP/1.1 400 ")
    assert not connections
    assert await made.events() == []


@pytest.mark.parametrize(
    "upgrade", [b"h2c", b"TLS/1.0, HTTP/1.1", b"websocket2", b"web socket", b"h2c, foo"]
)
async def test_other_upgrades(
    edge: Open, upstream: Start, dial: Dial, upgrade: bytes, handshake: bytes
) -> None:
    """The request is forwarded without the wish, and so served and metered as what it is."""
    heads: list[bytes] = []

    async def script(wire: Any) -> None:
        heads.append(await wire.head())
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await wire.gone()

    made = await edge(await upstream(script))
    wire = await dial(made.port)
    await wire.send(handshake.replace(b"Upgrade: websocket", b"Upgrade: " + upgrade))
    assert (await wire.head()).startswith(b"HTTP/1.1 200 ")
    assert b"\r\nupgrade" not in heads[0].lower()
    assert b"\r\nconnection" not in heads[0].lower()
    assert await made.events() == []  # the policies are those of WebSockets


async def test_a_path_without_policy(edge: Open, websocket_server: Start, echo: Any) -> None:
    """Passes as well, and leaves nothing."""
    made = await edge(await websocket_server(echo))
    async with made.connect("/other") as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "hello"
    assert await made.events() == []


async def test_the_next_edge_is_told(
    edge: Open, upstream: Start, dial: Dial, *, handshake: bytes, accept: bytes, policies: str
) -> None:
    """The handshake carries what is recorded here, signed; a client's own copy does not pass."""
    heads: list[bytes] = []

    async def script(wire: Any) -> None:
        heads.append(await wire.head())
        await wire.send(accept)
        await wire.gone()

    made = await edge(await upstream(script), hop_key="k" * 32)
    wire = await dial(made.port)
    await wire.send(handshake.replace(b"\r\n\r\n", b"\r\nUsageFlow-Hop: mine\r\n\r\n"))
    await wire.head()
    sent = [line.partition(b": ") for line in heads[0].split(b"\r\n")]
    [value] = [value for name, _, value in sent if name.lower() == HOP_HEADER]
    key = hop_key(Settings(hop_key="k" * 32))
    assert key is not None
    signed_s = int(value.split(b".")[1])
    found = claimed(key, value, method="GET", target=b"/live/x?y", now_s=signed_s)
    assert not isinstance(found, Reason)
    assert len(found) == policies.count("metric =")
    await wire.close()
    await made.events()
