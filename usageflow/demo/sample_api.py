"""A small API to meter: JSON, a stream, plain text and an endpoint that fails."""

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


async def chat(request: Request) -> JSONResponse:
    """Answer like an LLM API: the tokens are in the answer."""
    prompt = str((await request.json()).get("prompt", ""))
    used = 7 + len(prompt)
    return JSONResponse({"reply": prompt[::-1], "usage": {"total_tokens": used}})


async def item(request: Request) -> PlainTextResponse:
    """Plain text."""
    return PlainTextResponse(f"item {request.path_params['item']}\n")


async def stream(_: Request) -> StreamingResponse:
    """Server-sent events, without a Content-Length."""
    return StreamingResponse(_ticks(), media_type="text/event-stream")


async def fail(_: Request) -> Response:
    """Never succeeds, so it is never billed."""
    return Response("no\n", status_code=500)


async def _ticks() -> AsyncIterator[str]:
    for tick in range(5):
        yield f"data: {tick}\n\n"
        await asyncio.sleep(0.002)


app = Starlette(
    routes=[
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/items/{item}", item),
        Route("/v1/stream", stream),
        Route("/v1/fail", fail),
    ]
)
