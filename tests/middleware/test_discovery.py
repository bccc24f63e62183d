"""Unmatched endpoints are counted exactly, few are looked at, and none is told by its path."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from litestar import get as litestar_get
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.middleware import discovery as module
from usageflow.middleware.discovery import LOOKS_FIRST, Discovery
from usageflow.middleware.endpoints import OTHERS, Endpoint, read_report
from usageflow.middleware.observation import Observation

NO_ROUTER = {"/orders": 200, "/boom": 500, "/moved": 308, "/private": 401}


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without a router that tells parameters; knows /users/* and a few paths."""
    path = scope["path"]
    status = 200 if path.startswith("/users/") else NO_ROUTER.get(path, 404)
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"usage": {"total": 1}}'})


class Edge:
    """What the middleware does with requests that no policy matches."""

    def __init__(self, app: ASGIApp, endpoints_max: int = 100) -> None:
        self.app = app
        self.discovery = Discovery(endpoints_max)
        self.looks: list[Observation] = []

    def asks(self, *requests: str) -> None:
        """Serve requests such as `GET /path`, one after the other."""
        asyncio.run(self._serve(requests))

    async def _serve(self, requests: tuple[str, ...]) -> None:
        for request in requests:
            method, _, path = request.rpartition(" ")
            await self.serve(scope(method or "GET", path))

    async def serve(self, one: Scope) -> None:
        """The three lines."""
        observation = self.discovery.begin(one, one["path"])
        if observation is None:
            await self.app(one, receiving(), send)
        else:
            self.looks.append(observation)
            await observation.through(self.app, receiving(), send)

    def told(self) -> dict[str, int]:
        """The next report, as requests by endpoint."""
        return {f"{one.method} {one.template}": one.requests for one in report(self.discovery)}


def scope(method: str, path: str) -> Scope:
    """A scope as a server makes it."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"page=1",
        "headers": [(b"x-account-id", b"acct_1"), (b"content-type", b"application/json")],
    }


def receiving() -> Receive:
    """A request with a small body, whose client then waits."""
    messages: list[Message] = [{"type": "http.request", "body": b'{"model": "x"}'}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    return receive


async def send(_: Message) -> None:
    """A client that takes everything."""


def report(discovery: Discovery) -> list[Endpoint]:
    """What is new, as the server reads it."""
    data = discovery.take()
    found = [] if data is None else read_report(data)
    assert isinstance(found, list)
    return sorted(found, key=lambda one: (one.template, one.method))


def starlette() -> ASGIApp:
    """Routes of every kind."""

    async def answer(request: Any) -> JSONResponse:
        await request.body()
        return JSONResponse({"usage": {"total_tokens": 3}})

    async def stream(_: Any) -> StreamingResponse:
        events = (b'data: {"delta": "x"}\n\n', b'data: {"usage": {"n": 1}}\n\n')
        return StreamingResponse(iter(events), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/health", answer),
            Route("/users/me", answer),
            Route("/users/{name}", answer),
            Route("/users/{name}/orders/{number:int}", answer, methods=["GET", "POST"]),
            Route("/files/{rest:path}", answer),
            Route("/stream", stream),
            Mount("/sub", routes=[Route("/{what}/x", answer)]),
        ]
    )


def test_the_app_s_own_templates() -> None:
    """Starlette's parameters name the segments; no name of a user is told."""
    edge = Edge(starlette())
    edge.asks("/health", "/users/ann", "/users/me", "/users/bob", "/users/ann", "/users/7")
    edge.asks("POST /users/ann/orders/1", "/users/bob/orders/2", "/files/a/b.txt", "/sub/bob/x")
    assert edge.told() == {
        "GET /files/{rest:path}": 1,
        "GET /health": 1,
        "GET /sub/{what}/x": 1,
        "GET /users/me": 1,
        "GET /users/{name}": 4,
        "POST /users/{name}/orders/{number}": 1,
        "GET /users/{name}/orders/{number}": 1,
    }
    assert edge.told() == {}


def fastapi() -> ASGIApp:
    """One route."""
    app = FastAPI()

    @app.get("/users/{name}")
    def user(name: str) -> dict[str, str]:
        return {"name": name}

    return app


def litestar() -> ASGIApp:
    """One route."""

    @litestar_get("/users/{name:str}")
    async def user(name: FromPath[str]) -> dict[str, str]:
        return {"name": name}

    return Litestar([user])  # type: ignore[return-value]  # its own types of ASGI


@pytest.mark.parametrize("build", [fastapi, litestar])
def test_other_frameworks_tell_too(build: Any) -> None:
    """Where the framework puts them into the scope."""
    edge = Edge(build())
    edge.asks("/users/ann", "/users/bob")
    (one,) = report(edge.discovery)
    assert (one.template, one.requests, one.routed) == ("/users/{name}", 2, True)


def test_a_sketch_comes_with_the_count() -> None:
    """What was seen in the first requests: names and types."""
    edge = Edge(starlette())
    edge.asks("POST /users/ann/orders/1", "/stream")
    stream, order = report(edge.discovery)
    assert order.sketch.request == {"model": ("string",)}
    assert order.sketch.response == {"usage.total_tokens": ("integer",)}
    assert order.sketch.query == ("page",)
    assert order.sketch.headers == ("x-account-id",)
    assert order.sketch.statuses == (200,)
    assert stream.sketch.response == {"usage.n": ("integer",), "delta": ("string",)}


def test_without_a_router_many_names_become_one() -> None:
    """Words are told as words until they are too many; then all are one, and nothing is lost."""
    edge = Edge(plain)
    names = [f"/users/name{chr(97 + n)}" for n in range(20)]
    edge.asks(*names, *names, "/orders")
    assert edge.told() == {f"GET {name}": 2 for name in names} | {"GET /orders": 1}
    edge.asks(*names, "/users/zoe", "/users/yan", "/users/7")
    assert edge.told() == {"GET /users/{id}": 23}
    edge.asks(*names)
    assert edge.told() == {"GET /users/{id}": 20}


def test_answers_that_prove_nothing_are_no_endpoints() -> None:
    """404 and 405, and what an app answers to any path."""
    edge = Edge(plain)
    edge.asks("/wp-login.php", "/private", "/moved", "/private", "/wp-login.php")
    assert edge.told() == {}
    edge.asks("/boom")
    assert edge.told() == {"GET /boom": 1}
    now = NO_ROUTER | {"/private": 200}
    edge.app = switched(now)
    edge.asks("/private")
    assert edge.told() == {"GET /private": 3}, "what was counted before it was proved is told then"


def switched(statuses: dict[str, int]) -> ASGIApp:
    """An app with these answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status = statuses.get(scope["path"], 404)
        await send({"type": "http.response.start", "status": status, "headers": []})

    return app


def test_scanners_do_not_merge_routes() -> None:
    """However many paths they try: what is not there has no place among the templates."""
    edge = Edge(plain)
    edge.asks("/orders", *(f"/probe-{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(300)))
    assert edge.told() == {"GET /orders": 1}


def test_preflights_prove_nothing() -> None:
    """CORS middleware welcomes them on any path."""
    edge = Edge(switched({"/a": 200}))
    edge.asks("OPTIONS /a", "OPTIONS /a", "/a")
    assert edge.told() == {"GET /a": 1}


def test_unauthenticated_probes_are_not_metered() -> None:
    """Weakness 22: the vendor's middleware makes ledgers of its 404s and 405s."""
    edge = Edge(starlette())
    edge.asks("/.env", "/wp-admin/setup.php", "DELETE /health", "PUT /users/ann", "/users")
    assert edge.told() == {}


def test_no_secret_leaves_the_edge() -> None:
    """Weakness 17: the vendor's middleware sends tokens, cookies and passwords."""
    secret = "hunter2-SECRET"

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        headers = [(b"content-type", b"application/json"), (b"set-cookie", secret.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    edge = Edge(echo)
    one = scope("POST", "/login/7")
    one["query_string"] = f"token={secret}".encode()
    one["headers"] = [
        (b"authorization", f"Bearer {secret}".encode()),
        (b"cookie", f"sid={secret}".encode()),
        (b"x-api-key", secret.encode()),
    ]
    observation = edge.discovery.begin(one, "/login/7")
    assert observation

    async def receive() -> Message:
        return {"type": "http.request", "body": f'{{"password": "{secret}"}}'.encode()}

    asyncio.run(observation.through(echo, receive, send))
    data = edge.discovery.take()
    assert data
    assert b"password" in data
    assert b"sid" in data
    assert secret.encode() not in data


def test_an_app_that_says_nothing_proves_nothing() -> None:
    """The client may have gone; one that raises has failed, which is an answer."""

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/raises":
            raise LookupError

    edge = Edge(silent)
    edge.asks("/silent")
    with pytest.raises(LookupError):
        edge.asks("/raises")
    (one,) = report(edge.discovery)
    assert (one.template, one.sketch.statuses) == ("/raises", (500,))


def test_fewer_and_fewer_requests_are_looked_at() -> None:
    """The first five, then one each time their number doubled, then one in a thousand."""
    edge = Edge(plain)
    edge.asks(*["/orders"] * 10_000)
    assert len(edge.looks) == LOOKS_FIRST + len((10, 20, 40, 80, 160, 320, 640)) + len(
        (1_280, 2_280, 3_280, 4_280, 5_280, 6_280, 7_280, 8_280, 9_280)
    )
    assert edge.told() == {"GET /orders": 10_000}


def test_numbers_need_no_look() -> None:
    """A path with an id that was never seen before is counted without the app's help."""
    edge = Edge(plain)
    edge.asks(*[f"/users/{n}" for n in range(1_000)])
    assert len(edge.looks) == LOOKS_FIRST + len((10, 20, 40, 80, 160, 320, 640))
    assert edge.told() == {"GET /users/{id}": 1_000}


def test_new_names_are_looked_at_closely_as_seldom() -> None:
    """Only the app knows what a new name is, so it is watched; its bodies are not kept."""
    edge = Edge(starlette())
    letters = "abcdefghij"
    edge.asks(
        *[f"/users/{one}{two}{three}" for one in letters for two in letters for three in "xy"]
    )
    assert len(edge.looks) == 200
    assert sum(one.closely for one in edge.looks) == LOOKS_FIRST + len((10, 20, 40, 80, 160))
    assert edge.told() == {"GET /users/{name}": 200}


def test_few_are_looked_at_closely_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bodies are in memory; what is known already is counted only."""
    monkeypatch.setattr(module, "LOOKS_AT_ONCE_MAX", 2)
    edge = Edge(plain)
    edge.asks("/orders")
    discovery = edge.discovery
    waiting = [discovery.begin(scope("GET", path), path) for path in ("/a", "/b", "/c", "/orders")]
    assert [one and one.closely for one in waiting] == [True, True, False, None]
    for one in waiting[:2]:
        assert one
        asyncio.run(one.through(plain, receiving(), send))
    again = discovery.begin(scope("GET", "/orders"), "/orders")
    assert again
    assert again.closely
    assert edge.told() == {"GET /orders": 3}


def test_what_is_beyond_the_limit_is_counted_together() -> None:
    """No memory grows with the paths that clients think of."""
    edge = Edge(plain, endpoints_max=2)
    edge.asks("/orders", "/users/ann", "/users/bob", "/users/cy", "/users/bob", "POST /orders")
    others = " ".join(OTHERS)
    assert edge.told() == {"GET /orders": 1, "GET /users/ann": 1, others: 4}
    edge.asks("/orders", "/users/bob", "/users/" + "x" * 1_000, "/users/a//b")
    assert edge.told() == {"GET /orders": 1, others: 3}


def test_a_method_that_nobody_has_is_counted_with_the_others() -> None:
    """It is not kept, however often and however long clients think of another one."""
    edge = Edge(plain)
    edge.asks("X" * 33 + " /orders", "Y" * 60_000 + " /orders", "X" * 32 + " /orders")
    assert edge.told() == {"X" * 32 + " /orders": 1, " ".join(OTHERS): 2}
    assert {len(method) for method, _ in edge.discovery._paths} == {32}


def test_remembered_paths_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """When they are too many they are learned again, and counts stay exact."""
    monkeypatch.setattr(module, "PATHS_MAX", 5)
    edge = Edge(starlette())
    names = [f"/users/name{chr(97 + n)}" for n in range(26)]
    edge.asks(*names, *names)
    assert len(edge.discovery._paths) <= 5
    assert edge.told() == {"GET /users/{name}": 52}


def test_a_report_that_is_lost_is_told_again() -> None:
    """With what came meanwhile; one that is delivered is not."""
    edge = Edge(starlette(), endpoints_max=2)
    edge.asks("/health", "/users/ann", "/stream", "/stream")
    first = report(edge.discovery)
    assert edge.discovery.take() is None
    edge.discovery.restore()
    assert edge.told() == {}, "nothing was taken, so there is nothing to restore"
    edge.asks("/health")
    second = report(edge.discovery)
    edge.discovery.restore()
    edge.discovery.restore()
    edge.asks("/health", "/stream")
    third = report(edge.discovery)
    assert [one.requests for one in first] == [1, 1, 2]
    assert [one.requests for one in second] == [1]
    assert [(one.template, one.requests) for one in third] == [("/health", 2), ("/{rest:path}", 1)]
    edge.discovery.restore()
    assert report(edge.discovery) == third
    assert edge.discovery.take() is None


def test_a_report_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit waits for the next one."""
    monkeypatch.setattr(module, "REPORT_BYTES_MAX", 400)
    edge = Edge(starlette())
    edge.asks("/health", "/users/me", "/users/ann", "/stream", "/files/a", "/files/a")
    reports = list(iter(edge.discovery.take, None))
    assert len(reports) > 1
    assert all(len(data) < 700 for data in reports)
    found = [one for data in reports for one in read(data)]
    assert sum(one.requests for one in found) == 6
    assert len({one.template for one in found}) == len(found) == 5


def read(data: bytes) -> Iterator[Endpoint]:
    """The endpoints of a report."""
    found = read_report(data)
    assert isinstance(found, list)
    return iter(found)


def test_a_child_tells_nothing_of_its_parent() -> None:
    """What the parent counted is the parent's to tell."""
    edge = Edge(plain)
    edge.asks("/orders")
    child = os.fork()
    if child == 0:
        os._exit(0 if edge.discovery.take() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert edge.told() == {"GET /orders": 1}


def test_a_fault_of_ours_is_told_once_and_harms_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is served."""

    class Unreadable(dict[str, Any]):
        """Parameters that no framework would set."""

        def items(self) -> Any:
            raise RuntimeError

    served: list[str] = []

    async def odd(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        scope["path_params"] = Unreadable()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    edge = Edge(odd)
    edge.asks("/a", "/b")
    assert served == ["/a", "/b"]
    monkeypatch.setattr(edge.discovery, "_first", None)
    edge.asks("/c")
    assert served == ["/a", "/b", "/c"]
    assert [record.message for record in caplog.records] == [
        "an endpoint could not be observed; requests are served"
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from(["GET", "POST"]), st.text(alphabet="ab/7{}.é\n")), max_size=60
    ),
    st.integers(1, 5),
)
def test_no_request_is_lost_or_told_twice(requests: list[tuple[str, str]], often: int) -> None:
    """Whatever the paths are, and whenever a report is taken or lost."""

    async def welcoming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    edge = Edge(welcoming, endpoints_max=8)
    total = 0

    async def run() -> None:
        nonlocal total
        for number, (method, path) in enumerate(requests):
            await edge.serve(scope(method, "/" + path))
            if number % often == 0:
                taken = sum(one.requests for one in report(edge.discovery))
                if number % 2:
                    edge.discovery.restore()
                else:
                    total += taken

    asyncio.run(run())
    total += sum(edge.told().values())
    assert total == len(requests)


def test_a_report_is_what_the_page_says() -> None:
    """One JSON document."""
    edge = Edge(starlette())
    edge.asks("/health")
    data = edge.discovery.take()
    assert data
    (one,) = msgspec.json.decode(data)["endpoints"]
    assert one == {
        "method": "GET",
        "template": "/health",
        "requests": 1,
        "routed": True,
        "sketch": {
            "request": {"model": ["string"]},
            "response": {"usage.total_tokens": ["integer"]},
            "headers": ["x-account-id"],
            "query": ["page"],
            "request_types": ["application/json"],
            "response_types": ["application/json"],
            "statuses": [200],
        },
    }
