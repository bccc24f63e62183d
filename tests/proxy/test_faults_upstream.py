"""What an upstream may do wrong, at every point: what the client sees, what is told and metered."""

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from usageflow.events import decode
from usageflow.proxy.gateway import Gateway
from usageflow.recorder import read_spool

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
BAD = b"GET /bad HTTP/1.1\r\nHost: api\r\n\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: api\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Told:
    """What is known of the requests when all are over."""

    lines: list[dict[str, Any]]
    events: list[tuple[str, str | None]]
    """Metrics, and why an event is not a plain one, if it is not."""

    @property
    def line(self) -> tuple[Any, ...]:
        """Of the last request to /bad: status, code, aborted."""
        line = [line for line in self.lines if line["path"] == "/bad"][-1]
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
            [(event.metric, event.reason and str(event.reason)) for event in events],
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
    """No fault of an upstream makes the event loop or the proxy complain.

    Times are looked at more often than in production.
    """
    monkeypatch.setattr("usageflow.proxy.gateway.TICK_S", 0.05)
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.messages == []


class Api:
    """Plays `script` for /bad and answers anything else well; notes what it was asked where."""

    def __init__(self, script: Callable[[Any], Awaitable[None]]) -> None:
        self._script = script
        self.connections: list[list[bytes]] = []
        self.left = asyncio.Event()

    async def __call__(self, wire: Any) -> None:
        """One connection."""
        asked: list[bytes] = []
        self.connections.append(asked)
        try:
            while True:
                head = await wire.head()
                asked.append(head)
                if b" /bad " not in head:
                    await wire.send(OK)
                    continue
                await self._script(wire)
                return
        finally:
            self.left.set()


def says(*parts: bytes, end: str = "close") -> Callable[[Any], Awaitable[None]]:
    """Send the parts, each in a segment of its own, and close, reset or wait."""

    async def script(wire: Any) -> None:
        for part in parts:
            await wire.send(part)
            await asyncio.sleep(0.01)
        if end == "reset":
            linger = struct.pack("ii", 1, 0)
            wire.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            wire.reset()
        elif end == "wait":
            await wire.gone()

    return script


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ALL = {"REQUEST", "RESPONSE", "SUCCESS"}
BROKE = "The upstream broke the connection before its answer was complete."
INVALID = "The answer of the upstream cannot be understood."


@pytest.mark.parametrize(
    ("script", "status", "code", "kind"),
    [
        (says(), 502, "upstream_unreachable", "broken"),
        (says(end="reset"), 502, "upstream_unreachable", "broken"),
        (says(b"HTTP/1.1 2"), 502, "upstream_unreachable", "broken"),
        (says(HEAD + b"Content-Le"), 502, "upstream_unreachable", "broken"),
        (says(HEAD + b"Content-Le", end="reset"), 502, "upstream_unreachable", "broken"),
        (says(b"HTTP/1.1 103 Hi\r\n\r\n"), 502, "upstream_unreachable", "broken"),
        (says(end="wait"), 504, "upstream_timeout", "timeout"),
        (says(HEAD, end="wait"), 504, "upstream_timeout", "timeout"),
        (says(b"HTTP/1.1 103 Hi\r\n\r\n", end="wait"), 504, "upstream_timeout", "timeout"),
        (says(b"220 ready\r\n", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(b"H", b"TTX", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(b"<html>", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(b"\x15\x03\x01\x00\x02\x02\x46"), 502, "upstream_invalid", "garbage"),
        (says(b"HTTP/1.1 200 OK\n", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(b"HTTP/2 200\r\n\r\n", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(HEAD + b"A : b\r\n\r\n", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(HEAD + b"A: b\r\n c\r\n\r\n", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(HEAD + b"X: %b" % (b"x" * 999), end="wait"), 502, "upstream_invalid", "garbage"),
        (says(HEAD + b"X: %b\r\n\r\n" % (b"x" * 999)), 502, "upstream_invalid", "garbage"),
        (
            says(*[b"HTTP/1.1 103 Hi\r\nLink: a\r\n\r\n" * 8] * 5, end="wait"),
            502,
            "upstream_invalid",
            "garbage",
        ),
        (
            says(HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n1", end="wait"),
            502,
            "upstream_invalid",
            "garbage",
        ),
        (says(CHUNKED + b"x\r\n", end="wait"), 502, "upstream_invalid", "garbage"),
        (says(CHUNKED + b"2\r\nokay\r\n", end="wait"), 502, "upstream_invalid", "garbage"),
        (
            says(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", end="wait"),
            502,
            "upstream_invalid",
            "garbage",
        ),
    ],
)
async def test_before_the_answer(
    lab: Open,
    dial: Dial,
    *,
    script: Callable[[Any], Awaitable[None]],
    status: int,
    code: str,
    kind: str,
) -> None:
    """The proxy answers, that is no success; the client's connection serves the next request, over
    another connection to the upstream.
    """
    api = Api(script)
    made = await lab(api, upstream_read_timeout_s=0.1, upstream_header_bytes_max=900)
    wire = await dial(made.port)
    await wire.send(BAD)
    head = await wire.head()
    while head.startswith(b"HTTP/1.1 103 "):
        head = await wire.head()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    problem = json.loads(await wire.exactly(int(head.split(b"content-length: ")[1])))
    assert problem["error"]["code"] == code
    await asyncio.wait_for(api.left.wait(), 10)
    await wire.send(GOOD)
    assert await wire.head() + await wire.exactly(2) == OK
    told = await made.told(2)
    assert told.line == (status, code, None)
    assert [metric for metric, _ in told.events].count("SUCCESS") == 1
    assert [metric for metric, _ in told.events].count("RESPONSE") == 2
    assert len(api.connections) == 2
    assert made.gateway.figures.refusals[code] == 1
    assert made.gateway.figures.upstream_errors[kind] == 1
    assert sum(made.gateway.figures.upstream_errors.values()) == 1


@pytest.mark.parametrize(
    ("script", "code", "kind", "reason"),
    [
        (says(HEAD + b"Content-Length: 9\r\n\r\n1"), "upstream_unreachable", "broken", BROKE),
        (
            says(HEAD + b"Content-Length: 9\r\n\r\n1", end="reset"),
            "upstream_unreachable",
            "broken",
            BROKE,
        ),
        (says(CHUNKED + b"1\r\n1\r\n"), "upstream_unreachable", "broken", BROKE),
        (says(CHUNKED + b"1\r\n1\r\n0\r\n"), "upstream_unreachable", "broken", BROKE),
        (says(CHUNKED + b"1\r\n1\r\n", end="reset"), "upstream_unreachable", "broken", BROKE),
        (says(HEAD + b"\r\n1", end="reset"), "upstream_unreachable", "broken", BROKE),
        (says(CHUNKED + b"1\r\n1", b"x", end="wait"), "upstream_invalid", "garbage", INVALID),
        (
            says(CHUNKED + b"1\r\n1\r\n", b"0\r\nA : b\r\n\r\n", end="wait"),
            "upstream_invalid",
            "garbage",
            INVALID,
        ),
        (
            says(HEAD + b"Content-Length: 9\r\n\r\n1", end="wait"),
            "upstream_timeout",
            "timeout",
            "The upstream did not answer in time.",
        ),
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_within_the_answer(
    lab: Open,
    dial: Dial,
    *,
    script: Callable[[Any], Awaitable[None]],
    code: str,
    kind: str,
    reason: str,
    version: bytes,
) -> None:
    """What was cut looks cut: to an old client, for whom the end of the connection is the end of
    the answer, it is reset.
    """
    api = Api(script)
    made = await lab(api, upstream_read_timeout_s=0.1)
    wire = await dial(made.port)
    await wire.send(BAD.replace(b"1.1", version))
    head = await wire.head()
    assert head.startswith(HEAD)
    if b"Content-Length" in head:
        assert await wire.rest() == b"1"
    elif version == b"1.1":
        assert await wire.rest() == b"1\r\n1\r\n"
    else:
        with pytest.raises(ConnectionResetError):
            await wire.rest()
    await asyncio.wait_for(api.left.wait(), 10)
    told = await made.told(1)
    status, logged, aborted = told.line
    assert (status, logged) == (200, code)
    assert aborted.startswith(reason)
    assert {metric for metric, _ in told.events} == ALL
    for _, why in told.events:
        assert why is not None
        assert why.startswith(f"aborted: {reason}")
    assert made.gateway.figures.upstream_errors[kind] == 1
    assert made.gateway.figures.aborted == 0


@pytest.mark.parametrize(
    "script",
    [
        says(OK + b"extra", end="wait"),
        says(OK + OK, end="wait"),
        says(CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + OK, end="wait"),
        says(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", end="wait"),
        says(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", end="wait"),
        says(HEAD + b"\r\nok"),
        says(b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nextra", end="wait"),
        says(b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\nextra", end="wait"),
        says(OK[:-2] + b"ok", end="reset"),
    ],
)
async def test_what_follows_an_answer_is_nobodys(
    lab: Open, dial: Dial, eventually: Until, script: Callable[[Any], Awaitable[None]]
) -> None:
    """A body where none may be, a second answer, an end: the answer is given, its connection never
    used again, and the next client gets its own answer.
    """
    api = Api(script)
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(BAD)
    head = await wire.head()
    if b" 200 " in head:
        assert b"ok" in (await wire.chunks() if b"chunked" in head else await wire.exactly(2))
    await eventually(lambda: not made.gateway.upstreams.figures()[0].open)
    await wire.send(GOOD)
    assert await wire.head() + await wire.exactly(2) == OK
    told = await made.told(2)
    assert told.line == (int(head.split(b" ")[1]), None, None)
    assert [len(asked) for asked in api.connections] == [1, 1]
    assert sum(made.gateway.figures.upstream_errors.values()) == 0
    assert len(told.events) == 6


async def test_an_upstream_that_speaks_first(lab: Open, dial: Dial) -> None:
    """What comes between two exchanges belongs to none."""
    spoken = asyncio.Event()

    async def script(wire: Any) -> None:
        await wire.send(OK)
        await asyncio.sleep(0.01)
        await wire.send(OK.replace(b"ok", b"no"))
        await wire.gone()
        spoken.set()

    api = Api(script)
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(BAD)
    assert await wire.head() + await wire.exactly(2) == OK
    await asyncio.wait_for(spoken.wait(), 10)
    await wire.send(GOOD)
    assert await wire.head() + await wire.exactly(2) == OK
    assert len((await made.told(2)).events) == 6


async def test_refused_connections(lab: Open, dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told; it is said once in the log of the process."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        made = await lab(unused.getsockname()[1])
        wire = await dial(made.port)
        for _ in range(2):
            await wire.send(BAD)
            head = await wire.head()
            assert head.startswith(b"HTTP/1.1 502 ")
            await wire.exactly(int(head.split(b"content-length: ")[1]))
        told = await made.told(2)
    assert told.line == (502, "upstream_unreachable", None)
    assert sorted(metric for metric, _ in told.events) == ["REQUEST"] * 2 + ["RESPONSE"] * 2
    assert made.gateway.figures.upstream_errors["unreachable"] == 2
    assert len(caplog.messages) == 1
    caplog.clear()


# A kept-alive connection that closes as it is used


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    ("request_", "retried"),
    [
        (b"GET /bad HTTP/1.1\r\nHost: api\r\n\r\n", True),
        (b"HEAD /bad HTTP/1.1\r\nHost: api\r\n\r\n", True),
        (b"DELETE /bad HTTP/1.1\r\nHost: api\r\n\r\n", True),
        (b"POST /bad HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n", False),
        (b"PATCH /bad HTTP/1.1\r\nHost: api\r\n\r\n", False),
        (b"PUT /bad HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\nhi", False),
    ],
)
async def test_a_stale_connection(
    lab: Open, dial: Dial, *, end: str, request_: bytes, retried: bool
) -> None:
    """A request that may be repeated is asked once more, on a new connection, and no more: were the
    upstream to fail again, the client is told.
    """
    api = Api(says(end=end))
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(GOOD)
    assert await wire.head() + await wire.exactly(2) == OK
    await wire.send(request_)
    assert (await wire.head()).startswith(b"HTTP/1.1 502 ")
    told = await made.told(2)
    assert told.line == (502, "upstream_unreachable", None)
    assert [len(asked) for asked in api.connections] == ([2, 1] if retried else [2])
    assert made.gateway.figures.upstream_errors["retried"] == retried
    assert made.gateway.figures.upstream_errors["broken"] == 1
    assert [metric for metric, _ in told.events].count("RESPONSE") == 2


async def test_a_stale_connection_is_not_noticed(lab: Open, dial: Dial) -> None:
    """The second time it is answered: one answer, one line, one event of each policy."""
    ends = 0

    async def script(wire: Any) -> None:
        nonlocal ends
        ends += 1
        if ends > 1:
            await wire.send(OK)
            await wire.gone()

    made = await lab(Api(script))
    wire = await dial(made.port)
    for request_ in (GOOD, BAD):
        await wire.send(request_)
        assert await wire.head() + await wire.exactly(2) == OK
    assert ends == 2
    told = await made.told(2)
    assert told.line == (200, None, None)
    assert len(told.events) == 6


async def test_two_stale_connections(lab: Open, dial: Dial, upstream: Start) -> None:
    """The second of another upstream: nothing is asked a third time."""
    apis = [Api(says()), Api(says())]
    ports = [await upstream(api) for api in apis]
    both = ",".join(f"http://127.0.0.1:{port}" for port in ports)
    made = await lab(0, upstream=both)
    wire = await dial(made.port)
    for _ in apis:
        await wire.send(GOOD)
        assert await wire.head() + await wire.exactly(2) == OK
    await wire.send(BAD)
    assert (await wire.head()).startswith(b"HTTP/1.1 502 ")
    assert [len(asked) for api in apis for asked in api.connections] == [2, 2]
    assert (await made.told(3)).line == (502, "upstream_unreachable", None)


async def test_what_began_to_be_answered_is_not_repeated(lab: Open, dial: Dial) -> None:
    """One byte of an answer shows that the request was processed."""
    api = Api(says(b"HTTP/1.1 100 Go on\r\n\r\nH", end="reset"))
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(GOOD)
    await wire.head()
    await wire.exactly(2)
    await wire.send(BAD)
    assert (await wire.head()).startswith(b"HTTP/1.1 502 ")
    assert [len(asked) for asked in api.connections] == [2]
    assert (await made.told(2)).line == (502, "upstream_unreachable", None)


# WebSockets


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502),
        (b"HTTP/1.1 101 Switching\r\n\r\n", 502),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
    ],
)
async def test_an_upgrade_that_is_not_accepted(
    lab: Open, dial: Dial, answer: bytes, status: int
) -> None:
    """Only a 101 to a WebSocket opens a tunnel. Bytes that came after the handshake are a request,
    which is read as strictly as any other.
    """
    api = Api(says(answer, end="wait"))
    made = await lab(api)
    wire = await dial(made.port)
    await wire.send(
        BAD[:-2]
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        + b"\x81\x80\0\0\0\0\r\n\r\n"
    )
    head = await wire.head()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"invalid_request_line" in await wire.rest()
    await wire.close()
    told = await made.told(2)
    assert [line["status"] for line in told.lines] == [status, 400]
    assert made.gateway.figures.tunnels == 0


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_an_upstream_that_ends_a_tunnel(lab: Open, dial: Dial, end: str) -> None:
    """The client's side ends too; what was sent before arrives."""
    switch = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    made = await lab(Api(says(switch + b"\x82\x02hi", end=end)))
    wire = await dial(made.port)
    await wire.send(BAD[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await wire.head()).startswith(b"HTTP/1.1 101 ")
    assert await wire.rest() == b"\x82\x02hi"
    told = await made.told(1)
    assert told.line == (101, None, None)
    assert made.gateway.figures.tunnels_open == 0
