"""A thousand clients that dribble a byte of a header each second: what healthy ones notice of it.

The same evenly spaced load is sent without and with the slow ones, in turn.
"""

import math
import statistics
import subprocess
from contextlib import ExitStack

from bench.dribble import CONNECTIONS
from bench.load import drive, p99_ms
from bench.middleware import POLICIES
from bench.proxies import usageflow
from bench.report import Line, show
from bench.servers import OTHER_CORE, free_port, pinned, python, running, scratch

ROUNDS = 3
RATE_PER_S = 2_000
HEALTHY_S = 9
"""Within the ten seconds that slow clients are let live."""
P99_MAX, CLOSED_AFTER_S, CLOSED_WITHIN_S = 2, 10, 1


def _healthy_p99_ms(port: int) -> float:
    """Infinite when a request fails."""
    try:
        return p99_ms(drive(port, "/v1/items/7", RATE_PER_S * HEALTHY_S, RATE_PER_S))
    except ConnectionError as error:
        print(error)
        return math.inf


def _beside_slow(port: int) -> tuple[float, list[float]]:
    """The same while slow clients are there; how many were closed, and the first and last after."""
    with pinned(OTHER_CORE):
        slow = subprocess.Popen(python("bench.dribble", str(port)), stdout=subprocess.PIPE)
    assert slow.stdout
    slow.stdout.readline()  # all are open
    healthy_ms = _healthy_p99_ms(port)
    told, _ = slow.communicate(timeout=60)
    return healthy_ms, [float(word) for word in told.split()]


def main() -> None:
    """Measure and print."""
    alone_ms, beside_ms, fates = [], [], []
    with scratch() as directory, ExitStack() as stack:
        upstream = free_port()
        stack.enter_context(running(python("bench.upstream", str(upstream)), upstream, OTHER_CORE))
        proxy = stack.enter_context(usageflow(directory, upstream, POLICIES))
        drive(proxy.port, "/v1/items/7", 5_000)
        for _ in range(ROUNDS):
            alone_ms.append(_healthy_p99_ms(proxy.port))
            healthy_ms, fate = _beside_slow(proxy.port)
            beside_ms.append(healthy_ms)
            fates.append(fate)
    _show(alone_ms, beside_ms, fates)


def _show(alone_ms: list[float], beside_ms: list[float], fates: list[list[float]]) -> None:
    alone, beside = statistics.median(alone_ms), statistics.median(beside_ms)
    served = all(map(math.isfinite, alone_ms + beside_ms))
    ended, first_s, last_s = zip(*fates, strict=True)
    closed, first, last = int(min(ended)), min(first_s), max(last_s)
    low, high = CLOSED_AFTER_S - CLOSED_WITHIN_S, CLOSED_AFTER_S + CLOSED_WITHIN_S
    in_time = closed == CONNECTIONS and low <= first and last <= high
    lines = [
        Line("healthy requests", "all served" if served else "FAILED", "all served", served),
        Line("p99 of healthy requests without slow clients", f"{alone:.2f} ms"),
        Line("... beside them", f"{beside:.2f} ms"),
        Line("... ratio", f"{beside / alone:.2f}", f"{P99_MAX}", beside <= P99_MAX * alone),
        Line("slow clients closed", f"{closed:,}"),
        Line("... after", f"{first:.1f} to {last:.1f} s", f"{low} to {high} s", in_time),
    ]
    title = f"Slow: {CONNECTIONS:,} clients that dribble a head, {RATE_PER_S:,} healthy requests/s"
    show(f"{title}, median of {ROUNDS}", lines)
