"""Resident memory while a million different callers are metered: nothing may grow with them.

In a process of its own, so that what other benchmarks left behind does not hide it. Every event
goes through the spool to a sink that takes everything.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import uvloop

from bench.middleware import app_answering
from bench.report import Line, show
from bench.servers import rss_bytes
from usageflow import UsageFlowMiddleware
from usageflow._types import Message
from usageflow.config import Settings
from usageflow.recorder import Recorder

MIB = 1_048_576
WARM_UP = 50_000
IDENTITIES = 1_000_000
QUEUED_MAX = 4_000
"""Half of the default queue: what is beyond it would be counted and not recorded one by one."""
LOOK_EVERY = 10_000

POLICIES = """
[[policy]]
name = "calls"
match = "GET /v1/items/:id"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "API_CALL"
"""


class Counting:
    """A sink that takes everything and keeps a number."""

    def __init__(self) -> None:
        self.events = 0

    def deliver(self, lines: bytes, events: int) -> Counter[str]:  # noqa: ARG002 - see Sink
        """See Sink."""
        self.events += events
        return Counter(accepted=events)

    def close(self) -> None:
        """Nothing is open."""


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    pass


async def _meter(app: UsageFlowMiddleware, recorder: Recorder, first: int, callers: int) -> int:
    """One request of each caller; the most resident memory seen meanwhile."""
    peak = 0
    writer = recorder.start()
    for number in range(first, first + callers):
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/v1/items/{number}",
            "raw_path": b"/v1/items/%d" % number,
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"api.example.com"), (b"x-account-id", b"account_%d" % number)],
        }
        await app(scope, _receive, _send)
        if number % LOOK_EVERY == 0:
            peak = max(peak, rss_bytes(os.getpid()))
        if writer.waiting_events > QUEUED_MAX:
            await asyncio.sleep(0.005)
    return peak


def measure(directory: Path) -> tuple[float, int]:
    """MiB that were added after a warm-up, and how many events came out at the end."""
    policies = directory / "policies.toml"
    policies.write_text(POLICIES)
    settings = Settings(
        policies=str(policies), spool_dir=str(directory / "spool"), durability="relaxed"
    )
    sink = Counting()
    recorder = Recorder(settings, sink)
    app = UsageFlowMiddleware(app_answering(b"{}"), settings=settings, recorder=recorder)
    uvloop.run(_meter(app, recorder, 0, WARM_UP))
    before = rss_bytes(os.getpid())
    peak = uvloop.run(_meter(app, recorder, WARM_UP, IDENTITIES))
    app.close()
    return (max(peak, rss_bytes(os.getpid())) - before) / MIB, sink.events


def main() -> None:
    """Measure in another process, and print."""
    child = subprocess.run(
        [sys.executable, "-m", "bench.identities"], check=True, capture_output=True, text=True
    )
    mib, events = child.stdout.split()
    recorded = int(events) == WARM_UP + IDENTITIES
    show(
        f"Memory: RSS added by {IDENTITIES:,} different callers",
        [
            Line("through the middleware", f"{mib} MiB", "64 MiB", float(mib) <= 64),
            Line("events recorded", f"{int(events):,}", "all", recorded),
        ],
    )


if __name__ == "__main__":
    where = Path(tempfile.mkdtemp(prefix="usageflow-bench-", dir=Path.cwd()))
    try:
        print("{:.1f} {}".format(*measure(where)))
    finally:
        shutil.rmtree(where)
