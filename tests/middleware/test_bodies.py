"""Forms, uploads and compressed answers through real frameworks: they reach the app and the client
as they are, and are measured all the same.
"""

import asyncio
import gzip
import importlib
import json
import zlib
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
name = "pages"
match = "POST /convert"
identify = [ { from = "body", path = "account" } ]
field = "account_id"
metric = "PAGE"
quantity = "to_number(request.body.pages)"

[[policy]]
name = "uploads"
match = "POST /upload"
identify = [ { from = "body", path = "account" } ]
field = "account_id"
metric = "BYTE"
quantity = "request.body.document.bytes"

[[policy]]
name = "tokens"
match = "GET /chat/:account"
identify = [ { from = "path", name = "account" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"
"""
FORM = {"account": "acct_1", "pages": "3"}
PDF = b"%PDF-1.7\r\n\xff\x00" * 1_000
UPLOAD = {"data": {"account": "acct_2"}, "files": {"document": ("a.pdf", PDF, "application/pdf")}}
UPLOADS = 12
"""Two more than the vendor's middleware survived."""
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": importlib.import_module("brotli").compress,
    "zstd": importlib.import_module("backports.zstd").compress,
}
ANSWER = b'{"usage": {"total_tokens": 4321}}'
EVENTS = b'data: {"usage": null}\n\ndata: ' + ANSWER + b"\n\ndata: [DONE]\n\n"


def litestar_app(options: dict[str, Any]) -> Any:
    """Litestar, which reads forms with the package `multipart`."""
    from litestar import Litestar, Request, post

    @post("/convert", status_code=200)
    async def convert(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return dict(await request.form())

    @post("/upload", status_code=200)
    async def upload(request: Request[Any, Any, Any]) -> dict[str, Any]:
        form = await request.form()
        return {"account": form["account"], "bytes": len(await form["document"].read())}

    return UsageFlowMiddleware(Litestar([convert, upload]), **options)  # type: ignore[arg-type]


def quart_app(options: dict[str, Any]) -> Any:
    """Quart, which reads forms with Werkzeug."""
    from quart import Quart, request

    app = Quart(__name__)

    @app.post("/convert")
    async def convert() -> dict[str, Any]:
        return dict(await request.form)

    @app.post("/upload")
    async def upload() -> dict[str, Any]:
        form, files = await request.form, await request.files
        return {"account": form["account"], "bytes": len(files["document"].read())}

    return UsageFlowMiddleware(app, **options)  # type: ignore[arg-type]


def chat_app(options: dict[str, Any], content_type: str, encoding: str, body: bytes) -> Any:
    """Starlette with an answer that is compressed inside of the middleware, in small chunks."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    async def chat(_: Request) -> StreamingResponse:
        headers = {"content-type": content_type, "content-encoding": encoding}
        return StreamingResponse(chunks(), headers=headers)

    return UsageFlowMiddleware(Starlette(routes=[Route("/chat/{account}", chat)]), **options)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """What the three lines say."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    return {"policies": tmp_path / "policies.toml", "spool_dir": tmp_path / "spool"}


def talk(
    app: Any, spool_dir: Path, *requests: tuple[str, str, dict[str, Any]]
) -> tuple[list[tuple[int, bytes]], list[UsageEvent]]:
    """Status and bytes of the app's answers to these requests, and the events on disk."""

    async def ask() -> list[tuple[int, bytes]]:
        answers = []
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for method, path, sent in requests:
                async with client.stream(method, path, **sent) as answer:
                    chunks = [chunk async for chunk in answer.aiter_raw()]
                answers.append((answer.status_code, b"".join(chunks)))
        return answers

    answers = asyncio.run(ask())
    return answers, [decode(line) for line in read_spool(spool_dir)]


@pytest.mark.parametrize("build", [litestar_app, quart_app])
def test_forms_and_uploads_reach_the_app(
    build: Callable[[dict[str, Any]], Any], options: dict[str, Any]
) -> None:
    """Weakness 1: the vendor's middleware takes forms from the app; here both read them."""
    answers, events = talk(
        build(options),
        options["spool_dir"],
        ("POST", "/convert", {"data": FORM}),
        ("POST", "/upload", UPLOAD),
    )
    assert [(status, json.loads(content)) for status, content in answers] == [
        (200, FORM),
        (200, {"account": "acct_2", "bytes": len(PDF)}),
    ]
    assert [(event.identity.value, event.quantity, event.state) for event in events] == [
        ("acct_1", Decimal(3), "counted"),
        ("acct_2", Decimal(len(PDF)), "counted"),
    ]


@pytest.mark.parametrize("build", [litestar_app, quart_app])
def test_uploads_do_not_switch_metering_off(
    build: Callable[[dict[str, Any]], Any], options: dict[str, Any]
) -> None:
    """Weakness 2: ten uploads and the vendor's middleware meters nothing ever after."""
    requests = [("POST", "/upload", UPLOAD)] * UPLOADS + [("POST", "/convert", {"data": FORM})]
    answers, events = talk(build(options), options["spool_dir"], *requests)
    assert [status for status, _ in answers] == [200] * (UPLOADS + 1)
    assert [event.state for event in events] == ["counted"] * (UPLOADS + 1)


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize(
    ("content_type", "body"), [("application/json", ANSWER), ("text/event-stream", EVENTS)]
)
def test_compressed_answers_are_measured(
    content_type: str, body: bytes, encoding: str, options: dict[str, Any]
) -> None:
    """Weakness 23: gzip inside of the vendor's middleware bills 1, and so does a stream."""
    encoded = ENCODERS[encoding](body)
    app = chat_app(options, content_type, encoding, encoded)
    (answer,), (event,) = talk(app, options["spool_dir"], ("GET", "/chat/acct_3", {}))
    assert answer == (200, encoded)
    assert (event.quantity, event.state, event.reason) == (Decimal(4321), "counted", None)


def test_a_bomb_passes_and_is_unmeasured(options: dict[str, Any]) -> None:
    """The client gets its bytes, the app its request, and the inbox a reason."""
    bomb = gzip.compress(gzip.compress(bytes(64 << 20)))
    app = chat_app(options, "application/json", "gzip, gzip", bomb)
    (answer,), (event,) = talk(app, options["spool_dir"], ("GET", "/chat/acct_4", {}))
    assert answer == (200, bomb)
    assert (event.quantity, event.state) == (None, "inbox")
    assert str(event.reason).startswith("response body: ")
