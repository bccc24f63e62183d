"""Weaknesses 1 to 7 of the vendor's middleware: it breaks the API that it protects.

What clients get through ours is what they get without it.
"""

import contextlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from litestar import Litestar, post
from litestar import Request as LitestarRequest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from websockets.sync.client import connect

PDF = b"%PDF-1.7\r\n\xff\x00" * 10_000
FORM = {"account": "acct_1", "pages": "3"}
UPLOAD = {"data": {"account": "acct_2"}, "files": {"document": ("a.pdf", PDF, "application/pdf")}}
BY_BODY = '[ { from = "body", path = "account" } ]'


def forms() -> Litestar:
    """An app whose endpoints read forms and uploads, and say what they read."""

    @post("/convert", status_code=200)
    async def convert(request: LitestarRequest[Any, Any, Any]) -> dict[str, Any]:
        return dict(await request.form())

    @post("/upload", status_code=200)
    async def upload(request: LitestarRequest[Any, Any, Any]) -> dict[str, Any]:
        form = await request.form()
        return {"account": form["account"], "bytes": len(await form["document"].read())}

    return Litestar([convert, upload])


def of_forms(kit: Any) -> str:
    """Policies that need what the forms hold."""
    pages, size = "to_number(request.body.pages)", "request.body.document.bytes"
    return "".join(
        (
            kit.policy("POST /convert", identify=BY_BODY, metric="PAGE", quantity=pages),
            kit.policy("POST /upload", identify=BY_BODY, metric="BYTE", quantity=size),
        )
    )


def test_01_forms_and_uploads_reach_the_app(
    edge: Callable[..., Any], plain: Callable[..., str], kit: Any
) -> None:
    """Weakness: it reads forms before the app, which then finds an empty body. Ours reads along:
    a form and an upload arrive whole, although they are measured too.
    """
    bare = plain(forms())
    metered = edge(forms(), of_forms(kit))
    for path, sent in (("/convert", {"data": FORM}), ("/upload", UPLOAD)):
        with metered.client() as client:
            answer = client.post(path, **sent)
        expected = httpx.post(bare + path, trust_env=False, **sent)
        assert (answer.status_code, answer.content) == (200, expected.content)
    assert metered.measured() == [
        ("acct_1", Decimal(3), "counted"),
        ("acct_2", Decimal(len(PDF)), "counted"),
    ]


def test_02_uploads_do_not_switch_metering_off(edge: Callable[..., Any], kit: Any) -> None:
    """Weakness: ten uploads, of anyone, and it meters nothing and hears of no policy ever after.
    Ours counts each of them, what comes next, and under the policies of then.
    """
    metered = edge(forms(), of_forms(kit))
    with metered.client() as client:
        for _ in range(12):
            assert client.post("/upload", **UPLOAD).status_code == 200
        client.post("/convert", data=FORM)
        assert metered.measured()[12:] == [("acct_1", Decimal(3), "counted")]

        def counted_anew() -> bool:
            client.post("/convert", data=FORM)
            return any(event.quantity == 7 for event in metered.events)

        policies = Path(metered.settings.policies)
        policies.write_text(kit.policy("POST /convert", identify=BY_BODY, quantity=7))
        kit.wait_for(counted_anew, "the new policy is in force")
    assert {state for _, _, state in metered.measured()} == {"counted"}


def test_03_included_routers_are_served_and_metered(edge: Callable[..., Any], kit: Any) -> None:
    """Weakness: every route of an included router answers 500 since FastAPI 0.137. Ours reads no
    framework's insides: routers in routers are served, and counted by the policy's template.
    """
    inner, outer, app = APIRouter(), APIRouter(prefix="/v1"), FastAPI()

    @inner.get("/users/{uid}/profile")
    async def profile(uid: str) -> dict[str, str]:
        return {"uid": uid}

    outer.include_router(inner, prefix="/team")
    app.include_router(outer)
    metered = edge(app, kit.policy("GET /v1/team/users/:id/profile"))
    with metered.client(headers={"x-account": "a"}) as client:
        answer = client.get("/v1/team/users/u1/profile")
        assert (answer.status_code, answer.json()) == (200, {"uid": "u1"})
    (event,) = metered.events
    assert (event.request_route, event.state) == ("/v1/team/users/:id/profile", "counted")


def headers_app() -> Starlette:
    """An app that sets many headers, some of them twice."""

    async def login(_: Request) -> Response:
        answer = PlainTextResponse("hello")
        answer.set_cookie("a", "1")
        answer.set_cookie("b", "2")
        answer.raw_headers += [(b"X-Odd-Case", b"v"), (b"link", b"</1>"), (b"link", b"</2>")]
        return answer

    return Starlette(routes=[Route("/login", login)])


def test_04_every_header_of_the_answer_arrives(
    edge: Callable[..., Any], plain: Callable[..., str], kit: Any
) -> None:
    """Weakness: of two cookies that are set it lets one through. Ours leaves the header list alone:
    names, order and repetitions are the app's.
    """

    def raw(answer: httpx.Response) -> list[tuple[bytes, bytes]]:
        return [pair for pair in answer.headers.raw if pair[0].lower() != b"date"]

    bare = plain(headers_app())
    metered = edge(headers_app(), kit.policy("GET /login"))
    with metered.client(headers={"x-account": "a"}) as client:
        answer = client.get("/login")
    assert raw(answer) == raw(httpx.get(f"{bare}/login", trust_env=False))
    assert len(answer.headers.get_list("set-cookie")) == 2
    assert metered.measured() == [("a", Decimal(1), "counted")]


def test_05_a_handler_that_raises_is_settled(edge: Callable[..., Any], kit: Any) -> None:
    """Weakness: an error of the app leaves a reservation that nobody ever settles. Ours settles in
    any case, once: by default as no usage, by a policy's wish as the 500 or the cut answer it is.
    """

    async def boom(_: Request) -> Response:
        raise RuntimeError

    async def broken() -> Any:
        yield b"so far"
        raise RuntimeError

    async def stream(_: Request) -> Response:
        return StreamingResponse(broken())

    async def fine(_: Request) -> Response:
        return PlainTextResponse("fine")

    routes = [Route("/boom", boom), Route("/stream", stream), Route("/fine", fine)]
    policies = kit.policy("GET /*", metric="GOOD") + kit.policy(
        "GET /*", metric="ALL", when="request"
    )
    metered = edge(Starlette(routes=routes), policies)
    # uvicorn closes the connection of an app that raised; a new one for each request is not told.
    with metered.client(headers={"x-account": "a", "connection": "close"}) as client:
        assert client.get("/boom").status_code == 500
        with pytest.raises(httpx.TransportError):
            client.get("/stream")
        assert client.get("/fine").text == "fine"
    assert [(e.metric, e.request_status, e.reason and e.reason[:7]) for e in metered.events] == [
        ("ALL", 500, "aborted"),
        ("GOOD", 200, "aborted"),
        ("ALL", 200, "aborted"),
        ("GOOD", 200, None),
        ("ALL", 200, None),
    ]


@pytest.mark.parametrize("failure", ["open", "closed"])
def test_06_the_edge_has_one_status_of_its_own(
    failure: str, edge: Callable[..., Any], tmp_path: Path, kit: Any
) -> None:
    """Weakness: 478 for who has used enough, 500 where the meter fails. Ours refuses nobody; while
    no disk takes its events, an open policy lets every answer of the app through, and a closed one
    answers 503 with Retry-After before the app is called.
    """
    calls = []

    async def answer(request: Request) -> Response:
        calls.append(request.path_params["status"])
        return PlainTextResponse("the app's", request.path_params["status"])

    no_directory = tmp_path / "file"
    no_directory.touch()
    metered = edge(
        Starlette(routes=[Route("/{status:int}", answer)]),
        kit.policy("GET /:status", when="response", on_ledger_failure=failure),
        spool_dir=str(no_directory),
    )
    statuses = [200, 201, 302, 400, 402, 403, 404, 418, 429, 478, 500, 503]
    with metered.client(headers={"x-account": "a"}) as client:
        if failure == "open":
            answers = [client.get(f"/{status}") for status in statuses]
            assert [(a.status_code, a.text) for a in answers] == [
                (s, "the app's") for s in statuses
            ]
            no_directory.unlink()  # now the directory can be made
            kit.wait_for(no_directory.is_dir, "the disk takes events")
            kit.wait_for(lambda: len(metered.events) == len(statuses), "what waited is on it")
            return
        kit.wait_for(lambda: client.get("/200").status_code == 503, "the disk is known to fail")
        calls.clear()
        refused = client.get("/200")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["error"]["code"] == "metering_unavailable"
    assert calls == []


def test_07_websockets_and_mounted_apps_are_seen(edge: Callable[..., Any], kit: Any) -> None:
    """Weakness: WebSockets pass unseen, and all paths of a mounted app are one endpoint. Ours
    counts a WebSocket's messages, and endpoints of a mounted app one by one.
    """
    app = FastAPI()

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(Exception):
            while True:
                await websocket.send_text(await websocket.receive_text())

    async def where(request: Request) -> Response:
        return JSONResponse({"path": request.url.path})

    app.mount(
        "/sub", Starlette(routes=[Mount("/", routes=[Route("/x", where), Route("/y", where)])])
    )
    policies = "".join(
        (
            kit.policy("WEBSOCKET /talk", metric="MESSAGE", quantity="websocket.messages_in"),
            kit.policy("GET /sub/x", metric="X"),
            kit.policy("GET /sub/y", metric="Y", quantity=5),
        )
    )
    metered = edge(app, policies)
    address = metered.url.replace("http", "ws") + "/talk"
    with connect(address, additional_headers={"x-account": "a"}) as talking:
        for text in ("one", "two", "three"):
            talking.send(text)
            assert talking.recv() == text
    with metered.client(headers={"x-account": "a"}) as client:
        for path in ("/sub/x", "/sub/y"):
            assert client.get(path).json() == {"path": path}

    def totals() -> dict[str, Decimal]:
        found: dict[str, Decimal] = {}
        for event in metered.events:
            found[event.metric] = found.get(event.metric, Decimal(0)) + event.quantity
        return found

    kit.wait_for(lambda: totals() == {"MESSAGE": 3, "X": 1, "Y": 5}, "all is counted once")
