"""What the held last byte costs a lone client, beside the disk's own fdatasync."""

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from bench.middleware import POLICIES, _scope, app_answering
from bench.report import Line, show
from usageflow import UsageFlowMiddleware
from usageflow._types import ASGIApp, Message
from usageflow.config import Settings

SAMPLES = 400


def fdatasync_ms(directory: Path) -> list[float]:
    """Write and fdatasync 4 KiB again and again, over the same bytes as a WAL does."""
    path = directory / "fdatasync"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    block = os.urandom(4096)
    os.pwrite(fd, block * 64, 0)
    os.fsync(fd)
    times = []
    for number in range(SAMPLES):
        started = time.perf_counter()
        os.pwrite(fd, block, (number % 64) * 4096)
        os.fdatasync(fd)
        times.append((time.perf_counter() - started) * 1000)
    os.close(fd)
    return times


async def request_ms(app: ASGIApp) -> list[float]:
    """Latency of requests, one after the other."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    times = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        await app(_scope("GET", "/v1/items/7"), receive, send)
        times.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(0)
    return times


def main() -> None:
    """Measure both interleaved and print."""
    directory = Path(tempfile.mkdtemp(prefix="usageflow-bench-", dir=Path.cwd()))
    try:
        (directory / "policies.toml").write_text(POLICIES)
        settings = Settings(
            policies=str(directory / "policies.toml"), spool_dir=str(directory / "spool")
        )
        app = UsageFlowMiddleware(app_answering(b'{"ok":true}'), settings=settings)
        disk, held = [], []
        for _ in range(3):
            disk += fdatasync_ms(directory)
            held += uvloop.run(request_ms(app))
        app.close()
    finally:
        shutil.rmtree(directory)
    sync, hold = statistics.median(disk), statistics.median(held)
    show(
        "Hold: latency at concurrency 1, median",
        [
            Line("one fdatasync of this disk", f"{sync:.3f} ms"),
            Line("a held request", f"{hold:.3f} ms"),
            Line("ratio", f"{hold / sync:.2f}", "4", hold <= 4 * sync),
        ],
    )
