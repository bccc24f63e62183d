"""The three lines on Starlette, FastAPI, Litestar and Quart, and around each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from usageflow import UsageFlowMiddleware
from usageflow.events import UsageEvent, decode
from usageflow.recorder import read_spool

POLICIES = """
[[policy]]
name = "items"
match = "GET /items/:id"
identify = [ { from = "path", name = "id" } ]
field = "account_id"
metric = "API_CALL"

[[policy]]
name = "tokens"
match = "POST /chat"
identify = [ { from = "body", path = "account" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"

[[policy]]
name = "stream"
match = "GET /stream"
identify = [ { from = "query", name = "account" } ]
field = "account_id"
metric = "STREAM"
"""
Options = dict[str, Any]


def starlette_app(options: Options) -> Any:
    """Added with add_middleware."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def item(request: Request) -> JSONResponse:
        return JSONResponse({"id": request.path_params["item"]})

    async def chat(request: Request) -> JSONResponse:
        return JSONResponse({"echo": await request.json(), "usage": {"total_tokens": 42}})

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(_chunks())

    app = Starlette(
        routes=[
            Route("/items/{item}", item),
            Route("/chat", chat, methods=["POST"]),
            Route("/stream", stream),
        ]
    )
    app.add_middleware(UsageFlowMiddleware, **options)
    return app


def fastapi_app(options: Options) -> Any:
    """With include_router, whose routes are not the app's own."""
    from fastapi import APIRouter, FastAPI
    from fastapi.responses import StreamingResponse

    router = APIRouter()

    @router.get("/items/{item}")
    async def item(item: str) -> dict[str, str]:
        return {"id": item}

    @router.post("/chat")
    async def chat(echo: dict[str, str]) -> dict[str, object]:
        return {"echo": echo, "usage": {"total_tokens": 42}}

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(_chunks())

    app = FastAPI()
    app.include_router(router)
    app.add_middleware(UsageFlowMiddleware, **options)
    return app


def litestar_app(options: Options) -> Any:
    """Wrapped: Litestar builds its own middleware once per route."""
    from litestar import Litestar, Request, get, post
    from litestar.params import FromPath
    from litestar.response import Stream

    @get("/items/{item:str}")
    async def item(item: FromPath[str]) -> dict[str, str]:
        return {"id": item}

    @post("/chat", status_code=200)
    async def chat(request: Request[Any, Any, Any]) -> dict[str, object]:
        return {"echo": await request.json(), "usage": {"total_tokens": 42}}

    @get("/stream")
    async def stream() -> Stream:
        return Stream(_chunks())

    return UsageFlowMiddleware(Litestar([item, chat, stream]), **options)  # type: ignore[arg-type]


def quart_app(options: Options) -> Any:
    """Wrapped at asgi_app, as Quart's documentation says."""
    from quart import Quart, Response, request

    app = Quart(__name__)

    @app.get("/items/<item>")
    async def item(item: str) -> dict[str, str]:
        return {"id": item}

    @app.post("/chat")
    async def chat() -> dict[str, object]:
        return {"echo": await request.get_json(), "usage": {"total_tokens": 42}}

    @app.get("/stream")
    async def stream() -> Response:
        return Response(_chunks())

    wrapped: Any = UsageFlowMiddleware(app.asgi_app, **options)  # type: ignore[arg-type]
    app.asgi_app = wrapped  # type: ignore[method-assign]
    return app


async def _chunks() -> AsyncIterator[bytes]:
    for part in (b"one ", b"two ", b"three"):
        yield part


@pytest.mark.parametrize("build", [starlette_app, fastapi_app, litestar_app, quart_app])
def test_the_three_lines_meter_every_framework(
    build: Callable[[Options], Any], tmp_path: Path
) -> None:
    """Path identity, body identity with a quantity from the response, and a stream."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    options = {"policies": tmp_path / "policies.toml", "spool_dir": tmp_path / "spool"}
    answers, events = asyncio.run(_talk(build(options), tmp_path / "spool"))
    assert answers == [
        (200, {"id": "acct_1"}),
        (200, {"echo": {"account": "acct_2"}, "usage": {"total_tokens": 42}}),
        (200, "one two three"),
        (404, None),
    ]
    assert [(e.metric, e.identity.value, e.quantity) for e in events] == [
        ("API_CALL", "acct_1", Decimal(1)),
        ("AI_TOKEN", "acct_2", Decimal(42)),
        ("STREAM", "acct_3", Decimal(1)),
    ]


async def _talk(app: Any, spool: Path) -> tuple[list[tuple[int, object]], list[UsageEvent]]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        item = await client.get("/items/acct_1")
        chat = await client.post("/chat", json={"account": "acct_2"})
        stream = await client.get("/stream", params={"account": "acct_3"})
        missing = await client.get("/nowhere")
    answers = [
        (item.status_code, item.json()),
        (chat.status_code, chat.json()),
        (stream.status_code, stream.text),
        (missing.status_code, None),
    ]
    return answers, [decode(line) for line in read_spool(spool)]
