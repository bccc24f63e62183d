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
from typing import NamedTuple

from bench.bulk import MIB, download, upload
from bench.proxies import Proxy, Start, nginx, nginx_version, usageflow
from bench.report import Line, show
from bench.servers import (
    OTHER_CORE,
    cpu_s,
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

NGINX, NGINX_DEFAULTS = "nginx, streaming", "nginx, its defaults"
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


class Moved(NamedTuple):
    """How one transfer went."""

    mib_per_s: float
    cpu_s_per_gib: float
    rss_mib: float
    """Resident memory that was added at the most."""

    def line(self, name: str) -> Line:
        """The proxy of this name, its processor time too: that one others' load changes less."""
        what = f"{name} ({self.cpu_s_per_gib:.2f} s of CPU a GiB)"
        return Line(what, f"{self.mib_per_s:,.0f} MiB/s")


def _move(transfer: Transfer, proxy: Proxy, mib: int) -> Moved:
    transfer(proxy.port, WARM_UP_MIB)  # imports, pools and buffers are there
    before = rss_bytes(proxy.pid)
    forget_peak(proxy.pid)
    with pinned(OTHER_CORE):
        cpu, began_s = cpu_s(proxy.pid), time.perf_counter()
        transfer(proxy.port, mib)
        took_s, cpu = time.perf_counter() - began_s, cpu_s(proxy.pid) - cpu
    rss_mib = (peak_rss_bytes(proxy.pid) - before) / MIB
    return Moved(mib / took_s, cpu / mib * 1_024, rss_mib)


def _lines(transfer: Transfer, ours: Proxy, others: dict[str, Proxy]) -> list[Line]:
    mib = int(GIB * 1_024)
    moved = _move(transfer, ours, mib)
    grown = f"{moved.rss_mib:.1f} MiB"
    lines = [
        Line("RSS added", grown, f"{RSS_MIB_MAX} MiB", moved.rss_mib <= RSS_MIB_MAX),
        moved.line("usageflow"),
    ]
    for name, proxy in others.items():
        streams = name == NGINX
        theirs = _move(transfer, proxy, mib if streams else min(mib, ON_DISK_MIB_MAX))
        share = moved.mib_per_s / theirs.mib_per_s
        bar = (f"{NGINX_SHARE_MIN}", share >= NGINX_SHARE_MIN) if streams else ()
        lines += [theirs.line(name), Line("... usageflow's share of it", f"{share:.2f}", *bar)]
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
            NGINX: partial(nginx, options=STREAMING),
            NGINX_DEFAULTS: nginx,
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
