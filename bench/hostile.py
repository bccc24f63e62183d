"""What a hostile client or app can make the event loop wait: the longest stall for each kind.

A stall is what is done without a break: for one body, one header, or one chunk of a stream or of an
encoded body. Processor time of the thread: the median of a few runs of each input, and the maximum
of all inputs, which the line names. The collector is off: when it runs is the app's affair.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

from bench.hostile_inputs import KINDS, Work, bombs
from bench.report import Line, show

RUNS = 5
STALL_MS_MAX, BOMB_MS_MAX = 20, 100


def _stalls_ms(work: Work) -> list[float]:
    gc.collect()
    gc.disable()
    try:
        return _steps_ms(work)
    finally:
        gc.enable()


def _steps_ms(work: Work) -> list[float]:
    stalls: list[float] = []
    steps = work()
    while True:
        began_ns = time.thread_time_ns()
        if next(steps, work) is work:
            return stalls
        stalls.append((time.thread_time_ns() - began_ns) / 1e6)


def _worst(works: Mapping[str, Work], of: Callable[[list[float]], float]) -> tuple[float, str]:
    return max(
        (statistics.median(of(_stalls_ms(work)) for _ in range(RUNS)), name)
        for name, work in works.items()
    )


def _line(
    kind: str, works: Mapping[str, Work], of: Callable[[list[float]], float], bar_ms: int
) -> Line:
    worst_ms, name = _worst(works, of)
    what = f"{kind}: {name}"
    return Line(what, f"{worst_ms:.1f} ms", f"{bar_ms} ms", worst_ms <= bar_ms)


def main() -> None:
    """Measure and print."""
    lines = [_line(kind, begin(), max, STALL_MS_MAX) for kind, begin in KINDS.items()]
    for coding, works in bombs().items():
        lines += [
            _line(f"{coding} bombs, one chunk", works, max, STALL_MS_MAX),
            _line(f"{coding} bombs, in all", works, sum, BOMB_MS_MAX),
        ]
    show(f"Hostile inputs: the longest stall and what makes it, median of {RUNS}", lines)
