"""Traps that peers' code fell into: those that concern an edge and have no other test as a whole.

Each is what we do instead. The other ones: weaknesses 8 to 15 (blocking calls, pools), 14 (a batch
sent again after it was taken), 16 (tokens), 24 (zero, missing, text), 27 (outages), 28 (bodies kept
whole), 29 and 30 (lists and empty sets of policies), all in this folder.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

REQUESTS = 150
APP = """
from usageflow import UsageFlowMiddleware

async def answer(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})

app = UsageFlowMiddleware(answer)
"""


def api() -> Starlette:
    """One endpoint."""

    async def answer(_: Request) -> Response:
        return PlainTextResponse("fine")

    return Starlette(routes=[Route("/call", answer, methods=["GET", "POST"])])


def call_at_once(url: str, requests: int, **sent: Any) -> Counter[int]:
    """The same request many times, 50 at a time; the statuses of the answers."""

    async def call_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=20) as client:
            calls = (client.post(f"{url}/call", **sent) for _ in range(requests))
            return await asyncio.gather(*calls)

    return Counter(answer.status_code for answer in asyncio.run(call_all()))


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_trap_03_a_stopped_process_has_written_what_it_answered(
    lifespan: str, peer: Any, program: Callable[..., Any], tmp_path: Path, kit: Any
) -> None:
    """Trap: an exit handler that a SIGTERM never reaches. Here each complete answer is on disk
    before it ends: after SIGTERM every event is in the ledger or in the spool, with a lifespan or
    without, and the next start ships what was left.
    """
    (tmp_path / "stopped.py").write_text(APP)
    peer.publish(kit.policy("POST /call"))
    command = ("uvicorn", "--port", "{port}", "--log-level", "critical", "stopped:app")
    settings = {
        "USAGEFLOW_SERVER": peer.settings["server"],
        "USAGEFLOW_API_KEY": peer.settings["api_key"],
        "USAGEFLOW_SPOOL_DIR": "spool",
    }
    app = program(*command, "--lifespan", lifespan, **settings)
    assert call_at_once(app.url, REQUESTS, headers={"x-account": "a"}) == {200: REQUESTS}
    app.stop()
    left = len(list(kit.read_spool(tmp_path / "spool")))
    assert len(peer.ledger()) + left >= REQUESTS
    if lifespan == "on":
        assert left == 0
    if left:
        program(*command, "--lifespan", "on", **settings)
    peer.await_ledger(REQUESTS)


def test_trap_06_clients_have_no_say_in_what_is_the_same(
    edge: Callable[..., Any], peer: Any, kit: Any
) -> None:
    """Trap: a client's own key merges charges. Here an event's id is minted by the edge: the same
    request under the same idempotency key, request id and trace is as many events as it was made.
    """
    peer.publish(kit.policy("POST /call"))
    metered = edge(api(), **peer.settings)
    known = "01900000-0000-7000-8000-000000000000"
    headers = {
        "x-account": "a",
        **dict.fromkeys(("idempotency-key", "x-idempotency-key", "x-request-id", "id"), known),
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    with metered.client(headers=headers) as client:
        for _ in range(5):
            assert client.post("/call", json={"id": known, "event_id": known}).status_code == 200
    rows = peer.await_ledger(5)
    assert len({row.id for row in rows} - {known}) == 5
    assert [row.quantity for row in rows] == [1] * 5


@pytest.mark.parametrize("status", [401, 404, 413, 503])
def test_trap_07_no_refusal_is_final(
    status: int, edge: Callable[..., Any], peer: Any, kit: Any
) -> None:
    """Trap: an outcome that may change is kept as if it were final. Here whatever the server says,
    only its answer for each event makes an edge forget one; policies are asked for again.
    """
    peer.publish(kit.policy("POST /call"))
    metered = edge(api(), **peer.settings)
    peer.broken = dict.fromkeys((kit.events_path, kit.policies_path), (status, b"{}"))
    with metered.client(headers={"x-account": "a"}) as client:
        for _ in range(3):
            assert client.post("/call").status_code == 200
        kit.wait_for(lambda: peer.answered[kit.events_path, status] > 1, "it was refused")
        kit.wait_for(lambda: peer.answered[kit.policies_path, status] > 1, "and so were policies")
        assert client.post("/call").status_code == 200
        assert len(metered.events) == 4
        peer.publish(kit.policy("POST /call", quantity=7))
        peer.broken.clear()
        assert [row.quantity for row in peer.await_ledger(4)] == [1] * 4
        kit.wait_for(lambda: peer.answered[kit.policies_path, 200] > 1, "the new policies")

        def counted_anew() -> bool:
            client.post("/call")
            return 7 in {row.quantity for row in peer.ledger()}

        kit.wait_for(counted_anew, "they are in force")


@pytest.mark.parametrize("answer", [b"", b"{}", b"<html>Sign in</html>"])
def test_trap_11_an_answer_without_policies_is_no_empty_set(
    answer: bytes, edge: Callable[..., Any], peer: Any, kit: Any
) -> None:
    """Trap: empty is taken for unchanged, or what is broken for empty. Here a 200 that is not the
    server's document leaves the last good set in force, and an empty set is one (weakness 30).
    """
    peer.publish(kit.policy("POST /call"))
    metered = edge(api(), **peer.settings)
    peer.broken = {kit.policies_path: (200, answer)}
    before = peer.answered[kit.policies_path, 200]
    kit.wait_for(lambda: peer.answered[kit.policies_path, 200] > before + 2, "it was answered")
    with metered.client(headers={"x-account": "a"}) as client:
        assert client.post("/call").status_code == 200
    assert [row.state for row in peer.await_ledger(1)] == ["counted"]


def test_trap_16_events_of_one_moment_stay_apart(
    edge: Callable[..., Any], peer: Any, kit: Any
) -> None:
    """Trap: events of one customer in the same millisecond become one. Here equal requests at once
    are as many events; their times may be equal, their ids are not.
    """
    peer.publish(kit.policy("POST /call") + kit.policy("POST /call", metric="SECOND"))
    metered = edge(api(), **peer.settings)
    sent = {"headers": {"x-account": "a"}}
    assert call_at_once(metered.url, REQUESTS, **sent) == {200: REQUESTS}
    rows = peer.await_ledger(2 * REQUESTS)
    assert len({row.id for row in rows}) == 2 * REQUESTS
    assert Counter(row.metric for row in rows) == {"API_CALL": REQUESTS, "SECOND": REQUESTS}
    assert len({row.occurred_at.replace(microsecond=0) for row in rows}) < REQUESTS
