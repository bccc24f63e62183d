"""CPU per request and latency of our proxy, metered and durable, beside nginx and uvicorn + httpx.

Same upstream, same load, same run; each proxy is one process on one core, load and upstream are on
the others.

The bars of CPU are for connections that ask again as soon as they were answered, so that every
proxy is as busy as it can be; how much of its core it used is printed too. A proxy with less to do
wakes up more often, for fewer requests each time, and each costs more.

The bar of latency is for requests that arrive evenly spaced, as many for both as are half of what
ours can carry: what clients see of a machine that is not overloaded. What the other load shows of
either is printed without a bar.
"""

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from bench.load import CONNECTIONS, drive, p99_ms
from bench.middleware import POLICIES
from bench.proxies import Proxy, Start, httpx_proxy, nginx, nginx_version, usageflow
from bench.report import Line, show
from bench.servers import OTHER_CORE, cpu_s, free_port, python, running, scratch

ROUNDS = 5
REQUESTS = 20_000
REQUESTS_HTTPX = 1_600
SPACED_S = 3
"""How long each round of evenly spaced requests takes."""
METERED, UNMETERED = "/v1/items/7", "/v1/unmatched"
OURS, OURS_UNMETERED, NGINX, HTTPX = "usageflow", "usageflow, unmetered", "nginx", "uvicorn + httpx"

NGINX_MAX, HTTPX_MIN, P99_MAX = 4, 30, 3


@dataclass
class Seen:
    """What the rounds of one proxy showed."""

    cpu_us: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    rate_per_s: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    spaced_p99_ms: list[float] = field(default_factory=list)
    spaced_cpu_us: list[float] = field(default_factory=list)


Compared = dict[str, tuple[Proxy, str, int, Seen]]
"""Name -> the proxy, the path it is asked for, how often in a round, and what was seen."""


def main() -> None:
    """Measure interleaved and print."""
    version = nginx_version()
    with scratch() as directory, ExitStack() as stack:
        upstream = free_port()
        stack.enter_context(running(python("bench.upstream", str(upstream)), upstream, OTHER_CORE))

        def start(proxy: Start) -> Proxy:
            return stack.enter_context(proxy(directory, upstream))

        ours = start(partial(usageflow, policies=POLICIES))
        compared: Compared = {
            OURS: (ours, METERED, REQUESTS, Seen()),
            OURS_UNMETERED: (ours, UNMETERED, REQUESTS, Seen()),
            HTTPX: (start(httpx_proxy), METERED, REQUESTS_HTTPX, Seen()),
        }
        if version:
            compared[NGINX] = (start(nginx), METERED, REQUESTS, Seen())
        _measure(compared)
        rate_per_s = statistics.median(compared[OURS][3].rate_per_s) / 2
        _measure_spaced(compared, rate_per_s)
    seen = {name: what for name, (_, _, _, what) in compared.items()}
    _show_cpu(seen, version or "no nginx")
    _show_rest(seen, rate_per_s)


def _measure(compared: Compared) -> None:
    for _ in range(ROUNDS):
        for proxy, path, requests, seen in compared.values():
            drive(proxy.port, path, CONNECTIONS * 10)
            cpu, began_s = cpu_s(proxy.pid), time.perf_counter()
            times = drive(proxy.port, path, requests)
            took_s, cpu = time.perf_counter() - began_s, cpu_s(proxy.pid) - cpu
            seen.cpu_us.append(cpu / requests * 1e6)
            seen.busy.append(cpu / took_s)
            seen.rate_per_s.append(requests / took_s)
            seen.p99_ms.append(p99_ms(times))


def _measure_spaced(compared: Compared, rate_per_s: float) -> None:
    for _ in range(ROUNDS):
        for name in (OURS, NGINX):
            if name in compared:
                proxy, path, _, seen = compared[name]
                requests, cpu = int(rate_per_s * SPACED_S), cpu_s(proxy.pid)
                times = drive(proxy.port, path, requests, rate_per_s)
                seen.spaced_cpu_us.append((cpu_s(proxy.pid) - cpu) / requests * 1e6)
                seen.spaced_p99_ms.append(p99_ms(times))


def _show_cpu(seen: dict[str, Seen], version: str) -> None:
    cpu = {name: statistics.median(what.cpu_us) for name, what in seen.items()}
    lines = [
        Line(
            f"{name} (core {statistics.median(what.busy):.0%} busy, "
            f"{statistics.median(what.rate_per_s):,.0f} requests a second)",
            f"{cpu[name]:.1f} µs",
        )
        for name, what in seen.items()
    ]
    if NGINX in cpu:
        times = cpu[OURS] / cpu[NGINX]
        lines.append(Line("usageflow / nginx", f"{times:.1f}", f"{NGINX_MAX}", times <= NGINX_MAX))
    below = cpu[HTTPX] / cpu[OURS]
    lines.append(
        Line("uvicorn + httpx / usageflow", f"{below:.1f}", f"{HTTPX_MIN}", below >= HTTPX_MIN)
    )
    title = "Proxy, metered and durable: CPU per request, one core"
    show(f"{title}, {version}, median of {ROUNDS}", lines)


def _show_rest(seen: dict[str, Seen], rate_per_s: float) -> None:
    spaced = f"{CONNECTIONS} connections, {rate_per_s:,.0f} requests a second in all"
    at_once = f"{CONNECTIONS} connections that ask again at once"
    latency = {name: what.spaced_p99_ms for name, what in seen.items()}
    show(f"... p99 latency, {spaced}", _beside_nginx(latency, "ms", P99_MAX))
    latency = {name: what.p99_ms for name, what in seen.items()}
    show(f"... p99 latency, {at_once}", _beside_nginx(latency, "ms"))
    cpu = {name: what.spaced_cpu_us for name, what in seen.items()}
    show(f"... CPU per request, {spaced}", _beside_nginx(cpu, "µs"))


def _beside_nginx(rounds: dict[str, list[float]], unit: str, most: int | None = None) -> list[Line]:
    median = {name: statistics.median(values) for name, values in rounds.items() if values}
    lines = [Line(name, f"{value:.2f} {unit}") for name, value in median.items()]
    if NGINX in median:
        times = median[OURS] / median[NGINX]
        bar = (f"{most}", times <= most) if most else ()
        lines.append(Line("usageflow / nginx", f"{times:.1f}", *bar))
    return lines
