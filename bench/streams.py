"""A stream of server-sent events through the middleware: CPU per chunk, and how long one is kept.

In process, like `bench.middleware`: the same app sends 1,000 chunks as a chat API does, bare and
metered. The last message is not among the chunks: it is held until the usage is on disk.
"""

import gc
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from bench.middleware import HEADERS
from bench.report import Line, show
from usageflow import UsageFlowMiddleware
from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.config import Settings

CHUNKS = 1_000
STREAMS = 20
ROUNDS = 7

POLICY = """
[[policy]]
name = "tokens"
match = "POST /v1/chat"
identify = [ {{ from = "header", name = "x-account-id" }} ]
field = "account_id"
metric = "AI_TOKEN"
quantity = "{quantity}"
stream = "{stream}"
"""
EVERY_CHUNK = "a number in every chunk, summed"
"""More than the bar is about, which is usage at the end: here each chunk is cut and read."""
CASES = {
    "usage in the last chunk": ("response.body.usage.total_tokens", "last"),
    "two members of the last chunk": (
        "add(response.body.usage.prompt_tokens, response.body.usage.completion_tokens)",
        "last",
    ),
    EVERY_CHUNK: ("response.body.n", "sum"),
}


def _chunk(n: int, **more: object) -> bytes:
    """What one token looks like; with usage asked for, every chunk has the member."""
    event = {
        "id": "chatcmpl-9a8b7c6d5e4f3a2b1c0d",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini",
        "system_fingerprint": "fp_1234567890",
        "choices": [{"index": 0, "delta": {"content": f" word{n}"}, "finish_reason": None}],
        "usage": None,
        "n": 1,
    }
    return b"data: " + msgspec.json.encode(event | more) + b"\n\n"


USAGE = {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300}
EVENTS = [*(_chunk(n) for n in range(CHUNKS - 2)), _chunk(0, choices=[], usage=USAGE)]
EVENTS.append(b"data: [DONE]\n\n")


def app_streaming(kept_ns: list[int]) -> ASGIApp:
    """An app that streams the chunks, and keeps the shortest time that each of its sends took."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        clock = time.perf_counter_ns
        for number, chunk in enumerate(EVENTS):
            message = {"type": "http.response.body", "body": chunk, "more_body": True}
            before = clock()
            await send(message)
            kept_ns[number] = min(kept_ns[number], clock() - before)
        await send({"type": "http.response.body"})

    return app


SCOPE: Scope = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "path": "/v1/chat",
    "raw_path": b"/v1/chat",
    "query_string": b"",
    "root_path": "",
    "headers": HEADERS,
}


async def _drive(app: ASGIApp, streams: int) -> float:
    """CPU µs per chunk."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Message) -> None:
        pass

    started = time.process_time()
    for _ in range(streams):
        await app(dict(SCOPE), receive, send)
    return (time.process_time() - started) / streams / CHUNKS * 1e6


def _once(app: ASGIApp) -> float:
    gc.collect()

    async def run() -> float:
        await _drive(app, 1)  # starts threads and files
        return await _drive(app, STREAMS)

    try:
        return uvloop.run(run())
    finally:
        if isinstance(app, UsageFlowMiddleware):
            app.close()


def _metered(app: ASGIApp, directory: Path, quantity: str, stream: str) -> UsageFlowMiddleware:
    policies = directory / "policies.toml"
    policies.write_text(POLICY.format(quantity=quantity, stream=stream))
    spool = tempfile.mkdtemp(prefix="spool-", dir=directory)
    return UsageFlowMiddleware(app, settings=Settings(policies=str(policies), spool_dir=spool))


def measure(directory: Path) -> dict[str, tuple[float, float]]:
    """For each case the CPU per chunk, the median of rounds, and the longest a chunk is kept.

    A chunk's time is the shortest of all rounds: others are the machine's.
    """
    kept_ns = {name: [10**9] * CHUNKS for name in ("bare app", *CASES)}
    seen: dict[str, list[float]] = {name: [] for name in kept_ns}
    for _ in range(ROUNDS):
        for name, kept in kept_ns.items():
            app = app_streaming(kept)
            if name in CASES:
                app = _metered(app, directory, *CASES[name])
            seen[name].append(_once(app))
    return {
        name: (statistics.median(times), max(kept_ns[name]) / 1_000) for name, times in seen.items()
    }


def main() -> None:
    """Measure and print."""
    directory = Path(tempfile.mkdtemp(prefix="usageflow-bench-", dir=Path.cwd()))
    try:
        found = measure(directory)
    finally:
        shutil.rmtree(directory)
    bare_us, bare_kept_us = found.pop("bare app")
    lines = [Line("bare app", f"{bare_us:.2f} µs")]
    for name, (each_us, kept_us) in found.items():
        added, kept = each_us - bare_us, kept_us - bare_kept_us
        bar = ("", None) if name == EVERY_CHUNK else ("5 µs", added <= 5)
        lines += [
            Line(f"added: {name}", f"{added:.2f} µs", *bar),
            Line("... the longest that one chunk is kept", f"{kept:.0f} µs", "1 ms", kept <= 1_000),
        ]
    show(f"Streams: {CHUNKS:,} chunks of server-sent events, per chunk, median of {ROUNDS}", lines)
