"""Capture in the proxy, over TCP: what the upstream and the client see is as without it."""

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jwt
import pytest

from usageflow.events import UsageEvent, decode
from usageflow.recorder import read_spool

Start = Callable[..., Awaitable[int]]
Dial = Callable[[int], Awaitable[Any]]

pytestmark = pytest.mark.anyio

SECRET = "s" * 32
POLICIES = """
[[policy]]
name = "tokens"
match = "POST /v1/chat"
identify = [ { from = "jwt", claim = "sub", secret = "env:CAPTURE_SECRET" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total"

[[policy]]
name = "pieces"
match = "POST /v1/chat"
identify = [ { from = "metadata", header = "host", table = { "a.test" = "A", "b.test" = "B" } } ]
field = "account_id"
metric = "PIECE"
quantity = "response.body.n"
stream = "sum"

[[policy]]
name = "uploads"
match = "POST /v1/files"
identify = [ { from = "body", path = "account" } ]
field = "account_id"
metric = "BYTE"
quantity = "request.body.document.bytes"

[[policy]]
name = "requests"
match = "ANY /{rest:path}"
identify = [ { from = "metadata", value = "acct_fixed" } ]
field = "account_id"
metric = "API_CALL"
when = "request"

[[policy]]
name = "asked"
match = "POST /v1/openai"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total"
include_usage = true
"""
EVENTS = [
    b'data: {"n": 1, "usage": null}\n\n',
    b'data: {"n": 0.5, "usage": {"total": 7}}\n\n',
    b'data: {"choices": [], "usage": {"total": 21}}\n\n',
    b"data: [DONE]\n\n",
]
SSE = b"Content-Type: text/event-stream\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%b\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def request(path: str, *headers: bytes, body: bytes = b"", host: bytes = b"a.test") -> bytes:
    """A request with a length."""
    lines = [b"POST %b HTTP/1.1" % path.encode(), b"Host: " + host, *headers]
    return b"\r\n".join(lines) + b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def bearer(secret: str = SECRET) -> bytes:
    """A header with a token."""
    return b"Authorization: Bearer " + jwt.encode({"sub": "acct_7"}, secret).encode()


class Upstream:
    """Answers every request with the same bytes and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.seen: list[bytes] = []

    async def __call__(self, wire: Any) -> None:
        """One connection."""
        while True:
            head = await wire.head()
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            self.seen.append(head + await wire.exactly(length))
            await wire.send(self.answer)


class Edge:
    """A proxy with policies, and one without."""

    def __init__(self, spool: Path, metered: Any, plain: Any) -> None:
        self.metered = metered
        self.plain = plain
        self._spool = spool
        self._known: set[str] = set()

    async def events(self, count: int) -> dict[str, UsageEvent]:
        """The next events on disk by metric: so many, and no metric twice."""
        deadline = time.monotonic() + 10
        while True:
            lines = read_spool(self._spool) if self._spool.is_dir() else ()
            new = [event for event in map(decode, lines) if event.id not in self._known]
            if len(new) >= count:
                self._known.update(event.id for event in new)
                assert len(new) == len({event.metric for event in new}) == count
                return {event.metric: event for event in new}
            assert time.monotonic() < deadline, "the events never came"
            await asyncio.sleep(0.005)


@pytest.fixture
def edge(
    upstream: Start,
    proxy: Start,
    dial: Dial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> "Open":
    """Start an upstream that plays a script, and both proxies before it, with a wire to each."""
    monkeypatch.setenv("CAPTURE_SECRET", SECRET)
    (tmp_path / "p.toml").write_text(POLICIES)

    async def start(script: Any) -> Edge:
        port = await upstream(script)
        metered = await dial(await proxy(port, policies=str(tmp_path / "p.toml")))
        return Edge(tmp_path / "spool", metered, await dial(await proxy(port)))

    return start


Open = Callable[[Any], Awaitable[Edge]]


async def test_a_stream_arrives_chunk_by_chunk(edge: Open) -> None:
    """The upstream sends the next event when the client has the one before."""
    arrived: asyncio.Queue[None] = asyncio.Queue()

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.exactly(2)
        await wire.send(CHUNKED % SSE)
        for event in EVENTS:
            await wire.send(chunk(event))
            await asyncio.wait_for(arrived.get(), 10)
        await wire.send(chunk(b""))
        await wire.gone()

    both = await edge(script)
    await both.metered.send(request("/v1/chat", bearer(), body=b"{}"))
    assert b"Content-Type: text/event-stream" in await both.metered.head()
    for event in EVENTS:
        assert await both.metered.chunk() == event
        arrived.put_nowait(None)
    assert await both.metered.chunk() == b""
    events = await both.events(3)
    assert {metric: (event.identity.value, event.quantity) for metric, event in events.items()} == {
        "AI_TOKEN": ("acct_7", Decimal(21)),
        "PIECE": ("A", Decimal("1.5")),
        "API_CALL": ("acct_fixed", Decimal(1)),
    }


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"Content-Type: application/json\r\n", b'{"n": 1.5, "usage": {"total": 21}}'),
        (SSE, b"".join(EVENTS)),
    ],
)
async def test_an_encoded_answer_is_measured_and_stays_encoded(
    edge: Open, kind: bytes, content: bytes
) -> None:
    """The client gets the upstream's bytes, which it can decode itself."""
    encoded = gzip.compress(content)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n%b\r\n"
    both = await edge(Upstream(head % (len(encoded), kind) + encoded))
    sent = request("/v1/chat", bearer(), b"Accept-Encoding: gzip", body=b"{}", host=b"b.test")
    answers = []
    for wire in (both.metered, both.plain):
        await wire.send(sent)
        answers.append(await wire.head() + await wire.exactly(len(encoded)))
    assert answers[0] == answers[1]
    assert answers[0].endswith(encoded)
    events = await both.events(3)
    assert events["AI_TOKEN"].quantity == Decimal(21)
    assert events["PIECE"].quantity == Decimal("1.5")
    assert events["PIECE"].identity.value == "B"


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DOCUMENT = b"%PDF-1.7\r\n\xff\x00--b\r\n" * 1_000
UPLOAD = (
    b'--b\r\nContent-Disposition: form-data; name="account"\r\n\r\nacct_2\r\n'
    b'--b\r\nContent-Disposition: form-data; name="document"; filename="a.pdf"\r\n'
    b"Content-Type: application/pdf\r\n\r\n%b\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    "sent",
    [
        request(
            "/v1/files?x=%zz&y",
            b"Content-Type: multipart/form-data; boundary=b",
            body=UPLOAD % DOCUMENT.replace(b"--b", b"--c"),
        ),
        request("/v1/chat", bearer(), b"X-B: 2", b"x-a: \xff", b"X-B: 1", body=b"\x00\xff"),
        request("//v1/../chat;p/%2F", b"Cookie: a=1; b=2", body=b"{}"),
        request("/v1/openai", b"Content-Type: application/json", body=b'{"stream": false}'),
    ],
)
async def test_the_upstream_sees_what_the_client_sent(edge: Open, sent: bytes) -> None:
    """The very bytes that it sees without policies: head, credentials and body."""
    upstream = Upstream(OK)
    both = await edge(upstream)
    for wire in (both.plain, both.metered):
        await wire.send(sent)
        assert (await wire.head() + await wire.exactly(2)).endswith(b"ok")
    assert upstream.seen[0] == upstream.seen[1]
    assert upstream.seen[0].endswith(sent.split(b"\r\n\r\n", 1)[1])


async def test_an_upload_is_measured(edge: Open) -> None:
    """Its parts are read as they pass; the caller is one of them."""
    document = DOCUMENT.replace(b"--b", b"--c")
    upstream = Upstream(OK)
    both = await edge(upstream)
    kind = b"Content-Type: multipart/form-data; boundary=b"
    await both.metered.send(request("/v1/files", kind, body=UPLOAD % document))
    await both.metered.head()
    await both.metered.exactly(2)
    event = (await both.events(2))["BYTE"]
    assert (event.state, event.identity.value) == ("counted", "acct_2")
    assert event.quantity == Decimal(len(document))


async def test_a_forged_token_passes_and_is_nobody(edge: Open) -> None:
    """Whether it is good is the API's to say; whose usage it is stays open, and the secret ours."""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n{"usage": {"total": 21}, "n": 1.5}'
    upstream = Upstream(answer.replace(b"33", b"%d" % len(answer.split(b"\r\n\r\n")[1])))
    both = await edge(upstream)
    forged = bearer("x" * 32)
    await both.metered.send(request("/v1/chat", forged, body=b"{}"))
    await both.metered.head()
    assert forged.split(b": ")[1] in upstream.seen[0]
    event = (await both.events(3))["AI_TOKEN"]
    assert (event.state, event.identity.value, event.quantity) == ("inbox", None, Decimal(21))
    assert "header authorization" in str(event.reason)
    assert forged.split(b".")[-1].decode() not in str(event.reason)


async def test_a_host_that_is_in_no_table_is_told(edge: Open) -> None:
    """The tenants of a proxy are a table; a stranger goes to the inbox."""
    both = await edge(Upstream(CHUNKED % SSE + b"".join(map(chunk, [*EVENTS, b""]))))
    await both.metered.send(request("/v1/chat", bearer(), body=b"{}", host=b"c.test"))
    await both.metered.head()
    assert await both.metered.chunks() == b"".join(EVENTS)
    event = (await both.events(3))["PIECE"]
    assert (event.state, event.identity.value) == ("inbox", None)
    assert "is in no row of the policy's table" in str(event.reason)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"stream": true}', b'{"stream_options":{"include_usage":true},"stream": true}'),
        (b'{"stream": true, "stream_options": {"include_usage": true}}', None),
    ],
)
async def test_an_endpoint_is_asked_for_usage(edge: Open, body: bytes, asked: bytes | None) -> None:
    """It sees the question, with its length; the client sees the answer only if it asked."""
    upstream = Upstream(CHUNKED % SSE + b"".join(map(chunk, [*EVENTS, b""])))
    both = await edge(upstream)
    headers = b"Content-Type: application/json", b"X-Account: a", b"Accept-Encoding: gzip"
    await both.metered.send(request("/v1/openai", *headers, body=body))
    await both.metered.head()
    got = await both.metered.chunks()
    head, _, seen = upstream.seen[0].partition(b"\r\n\r\n")
    assert seen == (asked or body)
    assert (b"accept-encoding: identity" if asked else b"Accept-Encoding: gzip") in head
    assert json.loads(seen)["stream"] is True
    assert got == b"".join(EVENTS if asked is None else [*EVENTS[:2], EVENTS[3]])
    event = (await both.events(2))["AI_TOKEN"]
    assert (event.state, event.quantity) == ("counted", Decimal(21))


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_a_stream_that_breaks_off_is_measured(edge: Open, who: str) -> None:
    """What had passed by then is counted, and the event says that it was not all."""
    left = asyncio.Event()

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.exactly(2)
        await wire.send(CHUNKED % SSE + chunk(b"".join(EVENTS[:2])))
        await asyncio.wait_for(left.wait(), 10)
        if who == "upstream":
            wire.reset()
        await wire.gone()

    both = await edge(script)
    await both.metered.send(request("/v1/chat", bearer(), body=b"{}"))
    await both.metered.head()
    assert await both.metered.chunk() == b"".join(EVENTS[:2])
    if who == "client":
        both.metered.reset()
    left.set()
    events = await both.events(3)
    quantities = {metric: event.quantity for metric, event in events.items()}
    assert quantities == {"AI_TOKEN": 7, "PIECE": Decimal("1.5"), "API_CALL": 1}
    for event in events.values():
        assert event.state == "counted"
        assert str(event.reason).startswith("aborted: ")


@pytest.mark.parametrize(
    "header",
    [b"Connection: X-Account\r\nX-Account: acme", b"X-Forwarded-For: 9.9.9.9"],
)
async def test_nobody_is_billed_by_what_the_upstream_never_saw(
    upstream: Start, proxy: Start, dial: Dial, tmp_path: Path, header: bytes
) -> None:
    """A field that the proxy does not send on is none that it identifies by."""
    name = header.rpartition(b"\n")[2].partition(b":")[0].decode().lower()
    (tmp_path / "p.toml").write_text(
        f"""[[policy]]
name = "calls"
match = "ANY /{{rest:path}}"
identify = [ {{ from = "header", name = "{name}" }} ]
field = "account_id"
metric = "API_CALL"
"""
    )
    origin = Upstream(OK)
    wire = await dial(await proxy(await upstream(origin), policies=str(tmp_path / "p.toml")))
    await wire.send(request("/v1/chat", *header.split(b"\r\n")))
    await wire.head()
    edge = Edge(tmp_path / "spool", wire, wire)
    event = (await edge.events(1))["API_CALL"]
    assert b"9.9.9.9" not in origin.seen[0]
    assert b"acme" not in origin.seen[0]
    assert event.identity.value == ("127.0.0.1" if "forwarded" in name else None)
