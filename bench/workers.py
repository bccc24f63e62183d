"""Throughput of two workers beside one.

The bar is for free cores: two for the workers, two for load and upstream. Where there are fewer
these take turns with what is measured: the ratio says little and is printed without a verdict. What
can be said anywhere is what the workers themselves cost: where a request takes the same processor
time in one as in two, twice the cores carry twice the requests, until something else is full.
"""

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.load import drive
from bench.middleware import POLICIES
from bench.proxies import Proxy, usageflow
from bench.report import Line, show
from bench.servers import CORES, cpu_s, free_port, python, running, scratch

ROUNDS = 5
REQUESTS = 40_000
CONNECTIONS = 64
"""Twice the usual, as the kernel deals connections to workers by chance: each has enough to do."""
RATIO_MIN = 1.7
CORES_MIN = 4
FREE = len(CORES) >= CORES_MIN
WORKER_CORES = set(CORES[:2])
LOAD_CORES = set(CORES[2:]) if FREE else set(CORES)


@dataclass
class Seen:
    """What the rounds of one number of workers showed."""

    rate_per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)


def _measure(proxy: Proxy, seen: Seen) -> None:
    drive(proxy.port, "/v1/items/7", CONNECTIONS * 10, connections=CONNECTIONS, cores=LOAD_CORES)
    cpu, began_s = cpu_s(proxy.pid), time.perf_counter()
    drive(proxy.port, "/v1/items/7", REQUESTS, connections=CONNECTIONS, cores=LOAD_CORES)
    took_s, cpu = time.perf_counter() - began_s, cpu_s(proxy.pid) - cpu
    seen.rate_per_s.append(REQUESTS / took_s)
    seen.cpu_us.append(cpu / REQUESTS * 1e6)
    seen.cores.append(cpu / took_s)


def main() -> None:
    """Measure interleaved and print."""
    seen = {1: Seen(), 2: Seen()}
    with scratch() as directory, ExitStack() as stack:
        upstream = free_port()
        stack.enter_context(running(python("bench.upstream", str(upstream)), upstream, LOAD_CORES))
        proxies = {
            workers: stack.enter_context(
                usageflow(
                    directory, upstream, POLICIES, "--workers", str(workers), cores=WORKER_CORES
                )
            )
            for workers in seen
        }
        for _ in range(ROUNDS):
            for workers, proxy in proxies.items():
                _measure(proxy, seen[workers])
    _show(seen)


def _show(seen: dict[int, Seen]) -> None:
    median = statistics.median
    lines = [
        Line(
            f"{workers} worker{'s' * (workers > 1)} ({median(what.cores):.2f} cores used, "
            f"{median(what.cpu_us):.1f} µs of CPU a request)",
            f"{median(what.rate_per_s):,.0f}/s",
        )
        for workers, what in seen.items()
    ]
    ratio = median(seen[2].rate_per_s) / median(seen[1].rate_per_s)
    by_cpu = 2 * median(seen[1].cpu_us) / median(seen[2].cpu_us)
    lines += [
        Line("throughput ratio", f"{ratio:.2f}", f"{RATIO_MIN}", ratio >= RATIO_MIN)
        if FREE
        else Line(f"throughput ratio, but only {len(CORES)} cores for all", f"{ratio:.2f}"),
        Line("ratio by what a request costs, cores being free", f"{by_cpu:.2f}"),
    ]
    show(f"Workers: {CONNECTIONS} connections, metered and durable, median of {ROUNDS}", lines)
