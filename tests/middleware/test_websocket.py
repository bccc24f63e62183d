"""A metered WebSocket, driven by hand and over real sockets: messages pass, usage is recorded."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.policies import PolicySet, parse_file

LIVE = """
[[policy]]
name = "live"
match = "WEBSOCKET /live"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "MESSAGES"
quantity = "websocket.messages"

[[policy]]
name = "connections"
match = "ANY /live"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "CONNECTIONS"

[[policy]]
name = "tokens"
match = "WEBSOCKET /live"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "TOKENS"
quantity = "websocket.sent.tokens"
"""


def feed(toml: str = LIVE) -> FixedFeed:
    """These policies."""
    parsed = parse_file(toml, "t")
    assert parsed.problems == ()
    return FixedFeed(PolicySet.build(parsed.policies))


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts, answers every message with its tokens, closes on "bye"."""
    assert scope["type"] == "websocket"
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": None})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4000, "reason": "as asked"})
            return
        await send({"type": "websocket.send", "text": json.dumps({"tokens": 2})})


def totals(events: list[UsageEvent]) -> dict[str, Decimal]:
    """Counted quantities by metric."""
    found: dict[str, Decimal] = {}
    for event in events:
        if event.state == "counted":
            assert event.quantity is not None
            found[event.metric] = found.get(event.metric, Decimal()) + event.quantity
    return found


@pytest.fixture
def recorder(kit: Any) -> Any:
    """A recorder whose disk is done at once."""
    return kit.ManualRecorder()


@pytest.fixture
def serve() -> Iterator[Callable[[ASGIApp], str]]:
    """Serve apps with uvicorn on loopback; gives the ws:// URL."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: ASGIApp) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", ws="websockets-sansio", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread))
        return f"ws://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.01)


def test_a_conversation_over_real_sockets_is_recorded(
    serve: Callable[[ASGIApp], str], recorder: Any, tmp_path: Path
) -> None:
    """Messages both ways, the connection and the tokens; close code and reason pass."""
    app = UsageFlowMiddleware(
        echo, settings=Settings(spool_dir=str(tmp_path)), feed=feed(), recorder=recorder
    )
    with connect(serve(app) + "/live", additional_headers={"x-account": "acct_1"}) as socket_:
        for _ in range(3):
            socket_.send("hello")
            assert socket_.recv() == '{"tokens": 2}'
        socket_.send("bye")
        with pytest.raises(ConnectionClosed):
            socket_.recv()
        assert (socket_.close_code, socket_.close_reason) == (4000, "as asked")
    wait_for(lambda: len(totals(recorder.events)) == 3)
    assert totals(recorder.events) == {
        "MESSAGES": Decimal(7),
        "CONNECTIONS": Decimal(1),
        "TOKENS": Decimal(6),
    }
    assert {event.identity.value for event in recorder.events} == {"acct_1"}
    assert len({event.id for event in recorder.events}) == len(recorder.events)


def test_a_client_that_just_leaves_is_recorded(
    serve: Callable[[ASGIApp], str], recorder: Any, tmp_path: Path
) -> None:
    """A broken connection is a normal end: what was delivered counts."""
    app = UsageFlowMiddleware(
        echo, settings=Settings(spool_dir=str(tmp_path)), feed=feed(), recorder=recorder
    )
    with connect(serve(app) + "/live", additional_headers={"x-account": "a"}) as client:
        client.send("hello")
        client.recv()
        client.socket.close()
    wait_for(lambda: "TOKENS" in totals(recorder.events))
    assert totals(recorder.events)["MESSAGES"] == 2


def test_a_refused_handshake_keeps_its_answer(
    serve: Callable[[ASGIApp], str], recorder: Any, tmp_path: Path
) -> None:
    """Status and body of the app's refusal reach the client; nothing is counted."""

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        start = {"type": "websocket.http.response.start", "status": 402, "headers": []}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b"pay first"})

    app = UsageFlowMiddleware(
        refusing, settings=Settings(spool_dir=str(tmp_path)), feed=feed(), recorder=recorder
    )
    with pytest.raises(InvalidStatus) as refused, connect(serve(app) + "/live"):
        pass
    assert (refused.value.response.status_code, refused.value.response.body) == (402, b"pay first")
    assert recorder.events == []


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it holds, at most 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is the loop's own work that is waited for
            await asyncio.sleep(0.001)


class Peer:
    """The server's side of one WebSocket, by hand."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.outgoing: list[Message] = []

    async def send(self, message: Message) -> None:
        """Keep what the app sends."""
        self.outgoing.append(message)

    def give(self, *messages: Message) -> None:
        """Messages for the app."""
        for message in messages:
            self.incoming.put_nowait(message)

    async def serve(self, app: ASGIApp, **extra: Any) -> None:
        """One connection."""
        scope = {
            "type": "websocket",
            "path": "/live",
            "headers": [(b"x-account", b"acct_1")],
            "query_string": b"",
            **extra,
        }
        await app(scope, self.incoming.get, self.send)


CONNECT: Message = {"type": "websocket.connect"}
HELLO: Message = {"type": "websocket.receive", "text": "hello"}
BYE: Message = {"type": "websocket.receive", "text": "bye"}
GONE: Message = {"type": "websocket.disconnect", "code": 1006}


def metered(recorder: Any, tmp_path: Path, app: ASGIApp = echo, **changes: Any) -> Any:
    """The middleware around the app."""
    settings = Settings(spool_dir=str(tmp_path), **changes)
    return UsageFlowMiddleware(app, settings=settings, feed=feed(), recorder=recorder)


def test_usage_is_recorded_as_it_goes(recorder: Any, tmp_path: Path) -> None:
    """After so many messages, so that a crash bills what was delivered before."""

    async def run() -> None:
        peer = Peer()
        app = metered(recorder, tmp_path, part_messages=4)
        peer.give(CONNECT, *[HELLO] * 5)
        serving = asyncio.ensure_future(peer.serve(app))
        await until(lambda: len(peer.outgoing) == 6)
        seen = totals(recorder.events)
        assert seen == {"CONNECTIONS": 1, "MESSAGES": 8, "TOKENS": 8}
        peer.give(GONE)
        await serving
        assert totals(recorder.events) == {"CONNECTIONS": 1, "MESSAGES": 10, "TOKENS": 10}

    asyncio.run(run())


def test_usage_of_a_quiet_connection_is_recorded_by_time(recorder: Any, tmp_path: Path) -> None:
    """The clock records what messages do not."""

    async def run() -> None:
        peer = Peer()
        app = metered(recorder, tmp_path, part_interval_s=0.02)
        peer.give(CONNECT, HELLO)
        serving = asyncio.ensure_future(peer.serve(app))
        await until(lambda: "MESSAGES" in totals(recorder.events))
        assert not serving.done()
        peer.give(GONE)
        await serving

    asyncio.run(run())
    assert totals(recorder.events) == {"CONNECTIONS": 1, "MESSAGES": 2, "TOKENS": 2}


def test_the_close_waits_for_the_disk(recorder: Any, tmp_path: Path) -> None:
    """A client that was told the end of the conversation has its usage on disk."""
    recorder.at_once = False

    async def run() -> None:
        peer = Peer()
        peer.give(CONNECT, HELLO, BYE)
        serving = asyncio.ensure_future(peer.serve(metered(recorder, tmp_path)))
        await until(lambda: recorder.holds)
        await asyncio.sleep(0.01)
        assert [message["type"] for message in peer.outgoing] == [
            "websocket.accept",
            "websocket.send",
        ]
        recorder.holds[-1].set_result(True)
        await serving
        assert peer.outgoing[-1]["type"] == "websocket.close"

    asyncio.run(run())


def test_an_app_that_raises_is_recorded_and_raises(recorder: Any, tmp_path: Path) -> None:
    """What was delivered counts; the error is the app's."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": '{"tokens": 9}'})
        raise RuntimeError("mine")

    async def run() -> None:
        peer = Peer()
        peer.give(CONNECT)
        with pytest.raises(RuntimeError, match="mine"):
            await peer.serve(metered(recorder, tmp_path, failing))

    asyncio.run(run())
    assert totals(recorder.events) == {"CONNECTIONS": 1, "MESSAGES": 1, "TOKENS": 9}


@pytest.mark.parametrize(
    ("extensions", "answer"),
    [
        ({}, [("websocket.close", 1013)]),
        (
            {"websocket.http.response": {}},
            [("websocket.http.response.start", 503), ("websocket.http.response.body", None)],
        ),
    ],
)
def test_a_closed_policy_refuses_while_the_disk_takes_nothing(
    recorder: Any, tmp_path: Path, extensions: dict[str, Any], answer: list[tuple[str, Any]]
) -> None:
    """`on_ledger_failure = "closed"`: the handshake is refused before the app is called."""
    recorder.healthy = False
    closed = LIVE.replace(
        'match = "ANY /live"', 'match = "ANY /live"\non_ledger_failure = "closed"'
    )

    async def run() -> list[Message]:
        peer = Peer()
        peer.give(CONNECT)
        settings = Settings(spool_dir=str(tmp_path))
        app = UsageFlowMiddleware(echo, settings=settings, feed=feed(closed), recorder=recorder)
        await peer.serve(app, extensions=extensions)
        return peer.outgoing

    said = [(m["type"], m.get("code", m.get("status"))) for m in asyncio.run(run())]
    assert said == answer


def test_the_close_waits_for_the_part_before_it(recorder: Any, tmp_path: Path) -> None:
    """Nothing passed since the last part, but that part may not be on disk yet."""
    recorder.at_once = False

    async def run() -> None:
        peer = Peer()
        peer.give(CONNECT, HELLO)
        app = metered(recorder, tmp_path, part_messages=2)
        serving = asyncio.ensure_future(peer.serve(app))
        await until(lambda: "MESSAGES" in totals(recorder.events))
        before = len(recorder.events)
        peer.give(BYE)
        await until(lambda: len(recorder.events) > before or serving.done())
        await asyncio.sleep(0.01)
        assert peer.outgoing[-1]["type"] == "websocket.send"
        for hold in recorder.holds:
            hold.release(durable=True)
        await serving
        assert peer.outgoing[-1]["type"] == "websocket.close"

    asyncio.run(run())
