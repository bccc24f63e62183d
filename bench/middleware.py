"""CPU that the middleware adds to a request, in process: event loop and writer thread together.

Each case runs the same tiny ASGI app with the same driver; the bare app's time is subtracted.
Concurrency is what a busy worker has; the durable case commits every event with fsync.
"""

import asyncio
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251 - measured, not used

from bench.report import Line, show
from usageflow import UsageFlowMiddleware
from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Settings

REQUESTS = 20_000
CONCURRENCY = 100
ROUNDS = 5

POLICIES = """
[[policy]]
name = "calls"
match = "GET /v1/items/:id"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "API_CALL"

[[policy]]
name = "tokens"
match = "POST /v1/chat"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"
"""

JSON_BODY = msgspec.json.encode(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x" * 1700}},
            {"index": 1, "finish_reason": "stop", "logprobs": [0.25, -1.5, 3]},
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300},
        "system_fingerprint": "fp_1234567890",
    }
)
HEADERS = [
    (b"host", b"api.example.com"),
    (b"user-agent", b"bench"),
    (b"accept", b"*/*"),
    (b"x-account-id", b"acct_42"),
]


def app_answering(content: bytes) -> ASGIApp:
    """An ASGI app that does nothing but answer."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


class EmptyWrapper:
    """The least a pure ASGI middleware can do: pass every message through functions of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass all through."""

        async def receive_through() -> Message:
            return await receive()

        async def send_through(message: Message) -> None:
            await send(message)

        await self.app(scope, receive_through, send_through)


class EmptyBase(BaseHTTPMiddleware):
    """An empty Starlette BaseHTTPMiddleware."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        """Pass all through."""
        return await call_next(request)


async def _drive(app: ASGIApp, scope: Scope, requests: int) -> float:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    async def client() -> None:
        for _ in range(requests // CONCURRENCY):
            await app(dict(scope), receive, send)

    started = time.process_time()
    await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    return (time.process_time() - started) / requests * 1e6


def _scope(method: str, path: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": HEADERS,
    }


def _metered(app: ASGIApp, directory: Path) -> UsageFlowMiddleware:
    policies = directory / "policies.toml"
    policies.write_text(POLICIES)
    spool = tempfile.mkdtemp(prefix="spool-", dir=directory)
    return UsageFlowMiddleware(app, settings=Settings(policies=str(policies), spool_dir=spool))


def measure(directory: Path) -> dict[str, float]:
    """CPU µs per request of each case; the median of several interleaved rounds."""
    small, large = app_answering(b'{"ok":true}'), app_answering(JSON_BODY)
    hit, miss = _scope("GET", "/v1/items/7"), _scope("GET", "/health")
    chat = _scope("POST", "/v1/chat")
    cases: dict[str, tuple[Callable[[], Any], Scope, int]] = {
        "bare app": (lambda: small, hit, REQUESTS),
        "empty pure ASGI wrapper": (lambda: EmptyWrapper(small), miss, REQUESTS),
        "usageflow, unmatched": (lambda: _metered(small, directory), miss, REQUESTS),
        "usageflow, matched, durable": (lambda: _metered(small, directory), hit, REQUESTS),
        "usageflow, 2 KB JSON quantity, durable": (
            lambda: _metered(large, directory),
            chat,
            REQUESTS,
        ),
        "empty BaseHTTPMiddleware": (lambda: EmptyBase(small), hit, REQUESTS // 10),
    }
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (build, scope, requests) in cases.items():
            seen[name].append(_once(build(), scope, requests))
    return {name: statistics.median(times) for name, times in seen.items()}


def _once(app: ASGIApp, scope: Scope, requests: int) -> float:
    gc.collect()

    async def run() -> float:
        await _drive(app, scope, CONCURRENCY)  # starts threads and files
        return await _drive(app, scope, requests)

    try:
        return uvloop.run(run())
    finally:
        if isinstance(app, UsageFlowMiddleware):
            app.close()


def main() -> None:
    """Measure and print."""
    directory = Path(tempfile.mkdtemp(prefix="usageflow-bench-", dir=Path.cwd()))
    try:
        cpu = measure(directory)
    finally:
        shutil.rmtree(directory)
    bare = cpu["bare app"]
    added = {name: value - bare for name, value in cpu.items()}
    matched, unmatched = added["usageflow, matched, durable"], cpu["usageflow, unmatched"]
    over_wrapper = unmatched - cpu["empty pure ASGI wrapper"]
    body = added["usageflow, 2 KB JSON quantity, durable"]
    base = added["empty BaseHTTPMiddleware"]
    lines = [Line(name, f"{value:.1f} µs") for name, value in cpu.items()]
    lines += [
        Line("added: matched, durable", f"{matched:.1f} µs", "20 µs", matched <= 20),
        Line(
            "... of an empty BaseHTTPMiddleware",
            f"1/{base / matched:.1f}",
            "1/10",
            base >= 10 * matched,
        ),
        Line(
            "unmatched, over the empty wrapper",
            f"{over_wrapper:+.1f} µs",
            "2 µs",
            over_wrapper <= 2,
        ),
        Line("added: 2 KB JSON quantity, durable", f"{body:.1f} µs", "40 µs", body <= 40),
    ]
    show(f"Middleware: CPU per request, concurrency {CONCURRENCY}, median of {ROUNDS}", lines)
