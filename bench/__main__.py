"""`make bench`: everything, or the parts named, such as `middleware hold`."""

import os
import sys
import time
from importlib import import_module

from bench.servers import machine_busy_s

PARTS = (
    "policies",
    "middleware",
    "tokens",
    "streams",
    "hostile",
    "identities",
    "hold",
    "memory",
    "proxy",
    "transfer",
    "idle",
    "slow",
    "workers",
    "stripe",
    "closing",
    "ingest",
    "usage",
)
QUIET_SHARE_MAX = 0.02


def run(part: str) -> None:
    """Run a part, and say so if the machine was not its own: latencies then mean little."""
    began_s, busy_s, own_s = time.monotonic(), machine_busy_s(), _own_s()
    import_module(f"bench.{part}").main()
    others_s = machine_busy_s() - busy_s - (_own_s() - own_s)
    share = others_s / (time.monotonic() - began_s) / (os.cpu_count() or 1)
    if share > QUIET_SHARE_MAX:
        print(f"  (the machine was not quiet: {share:.0%} of it went to other processes)")


def _own_s() -> float:
    """Processor time of this process and of all that it started and that have ended."""
    return sum(os.times()[:4])


for name in sys.argv[1:] or PARTS:
    run(name)
