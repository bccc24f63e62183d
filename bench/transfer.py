"""One very long body through the proxy, each way: resident memory, and throughput beside nginx's.

Both bodies belong to metered requests whose policy reads them. nginx is compared as the faithful
pipe that ours is (`proxy_buffering off; proxy_request_buffering off`), with buffers of 64 KiB where
its default of 4 or 8 KiB would make it slower. Its defaults, which put bodies on disk, are printed
beside it, for a smaller body.

BENCH_TRANSFER_GIB shortens the bodies from 10 GiB.
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bench.bulk import MIB, download, upload
from bench.proxies import Proxy, Start, nginx, nginx_version, usageflow
from bench.report import Line, show
from bench.servers import (
    OTHER_CORE,
    forget_peak,
    free_port,
    peak_rss_bytes,
    pinned,
    python,
    rss_bytes,
    running,
    scratch,
)

GIB = float(os.environ.get("BENCH_TRANSFER_GIB", "10"))
ON_DISK_MIB_MAX = 1_024
WARM_UP_MIB = 64
RSS_MIB_MAX, NGINX_SHARE_MIN = 16, 0.5

STREAMING = (
    "proxy_buffering off; proxy_request_buffering off; "
    "proxy_buffer_size 64k; proxy_buffers 8 64k; client_body_buffer_size 64k;"
)
POLICIES = """
[[policy]]
name = "downloads"
match = "GET /v1/stream/:mib"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "DOWNLOAD"
quantity = "response.body.never"

[[policy]]
name = "uploads"
match = "POST /v1/upload"
identify = [ { from = "header", name = "x-account-id" } ]
field = "account_id"
metric = "UPLOAD"
quantity = "request.body.never"
"""

Transfer = Callable[[int, int], None]
"""Moves so many MiB through the proxy on a port."""


def _mib_per_s(transfer: Transfer, proxy: Proxy, mib: int) -> float:
    with pinned(OTHER_CORE):
        began_s = time.perf_counter()
        transfer(proxy.port, mib)
        return mib / (time.perf_counter() - began_s)


def _ours(transfer: Transfer, proxy: Proxy, mib: int) -> tuple[float, float]:
    """MiB per second, and MiB of resident memory that were added at the most."""
    transfer(proxy.port, WARM_UP_MIB)  # imports, pools and buffers are there
    before = rss_bytes(proxy.pid)
    forget_peak(proxy.pid)
    speed = _mib_per_s(transfer, proxy, mib)
    return speed, (peak_rss_bytes(proxy.pid) - before) / MIB


def _lines(transfer: Transfer, ours: Proxy, others: dict[str, Proxy]) -> list[Line]:
    mib = int(GIB * 1_024)
    speed, grown = _ours(transfer, ours, mib)
    lines = [
        Line("RSS added", f"{grown:.1f} MiB", f"{RSS_MIB_MAX} MiB", grown <= RSS_MIB_MAX),
        Line("usageflow", f"{speed:,.0f} MiB/s"),
    ]
    for name, proxy in others.items():
        streams = name == "nginx"
        theirs = _mib_per_s(transfer, proxy, mib if streams else min(mib, ON_DISK_MIB_MAX))
        share = speed / theirs
        bar = (f"{NGINX_SHARE_MIN}", share >= NGINX_SHARE_MIN) if streams else ()
        lines += [
            Line(name, f"{theirs:,.0f} MiB/s"),
            Line("... usageflow's share of it", f"{share:.2f}", *bar),
        ]
    return lines


def main() -> None:
    """Measure and print."""
    version = nginx_version()
    found: dict[str, list[Line]] = {}
    with scratch() as directory, ExitStack() as stack:
        upstream = free_port()
        stack.enter_context(running(python("bench.bulk", str(upstream)), upstream, OTHER_CORE))
        ours = stack.enter_context(usageflow(directory, upstream, POLICIES))
        starts: dict[str, Start] = {
            "nginx": partial(nginx, options=STREAMING),
            "nginx, with its buffers": nginx,
        }
        others = {
            name: stack.enter_context(start(directory, upstream))
            for name, start in starts.items()
            if version
        }
        for transfer in (download, upload):
            found[transfer.__name__] = _lines(transfer, ours, others)
    for name, lines in found.items():
        show(f"Transfer: a metered {name} of {GIB:g} GiB through the proxy", lines)
