"""The proxy that one would write first: uvicorn, Starlette and httpx. Measured beside ours."""

import os
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route


@asynccontextmanager
async def lifespan(app: Starlette) -> Any:
    """One client for all."""
    base = os.environ["BENCH_UPSTREAM"]
    async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
        app.state.client = client
        yield


async def forward(request: Request) -> StreamingResponse:
    """Forward one request."""
    client: httpx.AsyncClient = request.app.state.client
    outgoing = client.build_request(
        request.method, request.url.path, headers=request.headers.raw, content=request.stream()
    )
    answer = await client.send(outgoing, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        headers=dict(answer.headers),
        background=BackgroundTask(answer.aclose),
    )


app = Starlette(routes=[Route("/{path:path}", forward)], lifespan=lifespan)
