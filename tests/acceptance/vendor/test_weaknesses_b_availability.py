"""Weaknesses 8 to 15 of the vendor's middleware: whatever its server does, the API pays for it.

Ours needs its server for nothing that a client waits for. Where a test says that nothing waited,
the server is still holding its answer back when all requests are done: no clock decides.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from usageflow import UsageFlowMiddleware
from usageflow._types import Receive, Scope, Send
from usageflow.config import Settings

REQUESTS = 100
CONCURRENCY = 32
BODY = b"x" * 100_000


def api() -> Starlette:
    """A metered endpoint, and one that is not."""

    async def call(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def health(_: Request) -> Response:
        return PlainTextResponse("well")

    return Starlette(routes=[Route("/call", call, methods=["POST"]), Route("/health", health)])


def burst(url: str, requests: int = REQUESTS, content: bytes = b"") -> Counter[str]:
    """Call the metered endpoint, CONCURRENCY at a time, and /health between; what was answered."""
    answers: Counter[str] = Counter()

    async def call(client: httpx.AsyncClient, turns: asyncio.Semaphore, number: int) -> None:
        async with turns:
            headers = {"x-account": f"a-{number}"}
            metered = await client.post("/call", content=content, headers=headers)
            health = await client.get("/health")
        answers[f"{metered.status_code} {metered.text}"] += 1
        answers[f"{health.status_code} {health.text}"] += 1

    async def call_all() -> None:
        turns = asyncio.Semaphore(CONCURRENCY)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
            await asyncio.gather(*(call(client, turns, number) for number in range(requests)))

    asyncio.run(call_all())
    return answers


def good(requests: int = REQUESTS, content: bytes = b"") -> dict[str, int]:
    """What a burst is answered that nothing disturbed."""
    return {f"200 {len(content)}": requests, "200 well": requests}


def await_policies(metered: Any, peer: Any, kit: Any) -> None:
    """Until the first policies are in force; start-up waits for them, so this is at once."""
    kit.wait_for(lambda: peer.answered[kit.policies_path, 200], "the policies were given")
    assert metered.served.server.started


def identities(rows: list[Any]) -> list[str]:
    """Of the burst's requests, in no order."""
    return sorted(row.identity_value for row in rows)


def expected(requests: int = REQUESTS) -> list[str]:
    """The identities of a burst."""
    return sorted(f"a-{number}" for number in range(requests))


def test_08_a_slow_server_serializes_nothing(edge: Callable[..., Any], peer: Any, kit: Any) -> None:
    """Weakness: each limited request blocks the event loop for a round trip to the server, so that
    all others stand in line. Ours answers them all while the server has not answered once.
    """
    peer.publish(kit.policy("POST /call"))
    peer.held.add(kit.events_path)
    metered = edge(api(), **peer.settings)
    await_policies(metered, peer, kit)
    assert burst(metered.url) == good()
    kit.wait_for(lambda: peer.waiting[kit.events_path], "a batch is on its way")
    assert peer.answered[kit.events_path, 200] == 0
    assert len(metered.events) == REQUESTS  # on disk, each of them
    peer.held.clear()
    assert identities(peer.await_ledger(REQUESTS)) == expected()


def test_09_a_server_that_stops_answering_stops_nothing(
    edge: Callable[..., Any], silent: Callable[..., Any], kit: Any
) -> None:
    """Weakness: one request to a server that went silent freezes the process for 30 s and is a 500
    then. Ours goes on; the events wait on disk, and are all there after the app has stopped.
    """
    mute = silent(reads=True)
    metered = edge(api(), kit.policy("POST /call"), **mute.settings)
    assert burst(metered.url) == good()
    kit.wait_for(lambda: mute.bytes_read, "a batch was sent")
    assert burst(metered.url) == good()
    metered.stop()  # ends although nobody answers
    assert len(metered.events) == 2 * REQUESTS


def test_10_a_refresh_of_the_policies_holds_up_nobody(
    edge: Callable[..., Any], peer: Any, kit: Any
) -> None:
    """Weakness: requests wait for a lock that is held during the server's slow answer to "which
    policies?", a list that is asked for twice. Ours decides by the set in force meanwhile; the list
    is fetched once, and then only asked for if it has changed.
    """
    peer.publish(kit.policy("POST /call"))
    metered = edge(api(), **peer.settings)
    await_policies(metered, peer, kit)
    kit.wait_for(lambda: peer.answered[kit.policies_path, 304] > 3, "some refreshes")
    assert peer.answered[kit.policies_path, 200] == 1
    peer.held.add(kit.policies_path)
    kit.wait_for(lambda: peer.waiting[kit.policies_path], "a refresh is on its way")
    refreshes = sum(peer.answered[kit.policies_path, status] for status in (200, 304))
    peer.publish(kit.policy("POST /call", quantity=7))
    assert burst(metered.url) == good()
    assert refreshes == sum(peer.answered[kit.policies_path, status] for status in (200, 304))
    rows = peer.await_ledger(REQUESTS)
    assert {(row.quantity, row.policy_version) for row in rows} == {(1, "1")}


def test_11_a_server_that_stops_reading_stops_nothing(
    edge: Callable[..., Any], silent: Callable[..., Any], kit: Any
) -> None:
    """Weakness: after 195 uploads of 100 kB the process hangs until its server reads again. Ours
    sends no body anywhere, and what it sends is sent by a thread that nobody waits for.
    """
    deaf = silent(reads=False)
    metered = edge(api(), kit.policy("POST /call"), **deaf.settings)
    assert burst(metered.url, content=BODY) == good(content=BODY)
    kit.wait_for(lambda: deaf.accepted, "the server was called")
    assert burst(metered.url, content=BODY) == good(content=BODY)
    assert len(metered.events) == 2 * REQUESTS


@pytest.mark.parametrize("kind", ["refusing", "silent"])
def test_12_a_start_without_the_server_ends_and_recovers(
    kind: str, edge: Callable[..., Any], peer: Any, silent: Callable[..., Any], kit: Any
) -> None:
    """Weakness: a server that accepts and says nothing blocks the constructor for 10 s, and is not
    tried again. Ours is constructed without a word, waits for the first policies as long as
    `policy_wait_s`, serves, tells how many requests passed unmetered, and meters as soon as it can.
    """
    peer.publish(kit.policy("POST /call"))
    peer.stop()
    mute = silent(reads=True)
    port = peer.port if kind == "refusing" else mute.port
    settings = {
        "server": f"http://127.0.0.1:{port}",
        "api_key": peer.api_key,
        "policy_wait_s": 0.2,
        "ship_timeout_s": 0.2,
    }
    UsageFlowMiddleware(api(), settings=Settings(**settings))
    assert not mute.accepted
    metered = edge(api(), **settings)  # returns: it has started
    assert burst(metered.url, 10) == good(10)
    peer.port = port
    mute.stop()
    peer.start()
    await_policies(metered, peer, kit)

    def counted() -> bool:
        with metered.client(headers={"x-account": "a"}) as client:
            client.post("/call")
        return any(row.state == "counted" for row in peer.ledger())

    kit.wait_for(counted, "requests are metered")
    (gap,) = (row for row in peer.ledger() if row.state == "gap")
    assert gap.quantity >= 20  # 10 calls and 10 looks at /health
    assert "before any policy could be loaded" in gap.reason


def test_13_no_task_no_queue_no_wrapper_per_request(edge: Callable[..., Any], kit: Any) -> None:
    """Weakness: a request costs three times the CPU, much of it for BaseHTTPMiddleware's tasks and
    queues. Ours is not one: a request runs in the server's own task, and where no policy matches,
    the app is given the server's own callables.
    """
    seen: list[tuple[bool, bool, int]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": f"{(await receive())['type']}.complete"})
            return
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        owners = [getattr(given, "__self__", None) for given in (receive, send)]
        of_server = type(owners[0]).__name__ == "RequestResponseCycle" and owners[0] is owners[1]
        cycle = "RequestResponseCycle.run_asgi" in str(asyncio.current_task())
        seen.append((of_server, cycle, len(asyncio.all_tasks())))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    metered = edge(app, kit.policy("GET /metered"))
    with metered.client(headers={"x-account": "a"}) as client:
        for path in ("/metered", "/other"):
            assert client.get(path).status_code == 204
    (_, in_cycle, tasks), (of_server, other_in_cycle, other_tasks) = seen
    assert (in_cycle, other_in_cycle, of_server) == (True, True, True)
    assert tasks == other_tasks  # none was added for the metered one
    assert len(metered.events) == 1
    bases = {base.__name__ for base in UsageFlowMiddleware.__mro__}
    assert bases == {"UsageFlowMiddleware", "object"}


def test_14_answers_that_vanish_lose_and_double_nothing(
    edge: Callable[..., Any], peer: Any, kit: Any
) -> None:
    """Weakness: a connection that dies silently counts as connected, and messages on it vanish; two
    calls of connect() lock each other out. Ours believes what the ledger answers: what has no
    answer is sent again, and counted once. Starting twice is starting once.
    """
    peer.publish(kit.policy("POST /call"))
    peer.lost_answers = 3
    before = set(threading.enumerate())
    metered = edge(api(), ship_timeout_s=0.2, **peer.settings)
    await_policies(metered, peer, kit)
    for _ in range(2):
        metered.middleware.meter.feed.start()
        metered.middleware.meter.recorder.start()
    threads = Counter(thread.name for thread in set(threading.enumerate()) - before)
    assert {threads[f"usageflow-{name}"] for name in ("feed", "writer", "shipper")} == {1}
    assert burst(metered.url) == good()
    assert identities(peer.await_ledger(REQUESTS)) == expected()
    kit.wait_for(lambda: not metered.events, "the spool is empty")
    assert peer.lost_answers == 0
    sent = sum(heard.text.count(b"\n") for heard in peer.heard if heard.path == kit.events_path)
    assert sent > REQUESTS  # some came twice


def test_15_few_sockets_and_an_end(edge: Callable[..., Any], peer: Any, kit: Any) -> None:
    """Weakness: ten sockets for each worker, and no way to close them. Ours has one for policies
    and one for events. When the app ends, what is spooled is shipped, sockets and threads end.
    """
    before = {thread.name for thread in threading.enumerate()}
    peer.publish(kit.policy("POST /call"))
    metered = edge(api(), **peer.settings)
    await_policies(metered, peer, kit)
    assert burst(metered.url) == good()
    metered.stop()
    assert identities(peer.ledger()) == expected()  # without waiting: the end shipped it
    assert peer.connections_max <= 2
    connections = peer.served.server.server_state.connections
    kit.wait_for(lambda: not connections, "both sockets are closed")
    ours = {t.name for t in threading.enumerate() if t.name.startswith("usageflow")}
    assert ours <= before
    assert metered.events == []
