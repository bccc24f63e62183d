"""Single events, which may not be folded: v1 at its limit, and the v2 stream as fast as it goes.

BENCH_RAW_S shortens the 30 s of v1, BENCH_STREAM_EVENTS the backlog of the stream.
"""

import os
import time
from datetime import UTC, datetime

from bench.forwarding import way
from bench.report import Line, show

SECONDS = float(os.environ.get("BENCH_RAW_S", "30"))
STREAM_EVENTS = int(os.environ.get("BENCH_STREAM_EVENTS", "160000"))
CUSTOMERS, STREAM_CUSTOMERS = 250, 4_000
LIMIT_PER_S = 1_000
WARM_UP_S = 2.0
USE_MIN, CORES_MAX, STREAM_PER_S_MIN = 0.85, 1.0, 8_000


def main() -> None:
    """Measure and print."""
    _v1()
    _stream()


def _v1() -> None:
    now = datetime.now(UTC)
    backlog = int((SECONDS + 2 * WARM_UP_S) * LIMIT_PER_S)
    with way("count", CUSTOMERS) as measured:
        measured.ingest(backlog, CUSTOMERS, lambda _: now)
        measured.emulator.limit(meter_events_per_s=LIMIT_PER_S)
        measured.forward_for(WARM_UP_S)
        before, began_s, cpu_s = measured.emulator.calls(), time.monotonic(), time.process_time()
        measured.forward_for(SECONDS)
        cpu_s, took_s = time.process_time() - cpu_s, time.monotonic() - began_s
        after = measured.emulator.calls()
    taken, refused = (after[status] - before[status] for status in ("200", "429"))
    use, cores = taken / took_s / LIMIT_PER_S, cpu_s / took_s
    show(
        f"Single events of {CUSTOMERS} customers, v1, at a limit of {LIMIT_PER_S:,} calls/s",
        [
            Line("share of the limit used", f"{use:.1%}", f"{USE_MIN:.0%}", use >= USE_MIN),
            Line("cores", f"{cores:.2f}", f"{CORES_MAX:g}", cores <= CORES_MAX),
            Line("refused", f"{refused / max(1, taken + refused):.1%}"),
        ],
    )


def _stream() -> None:
    now = datetime.now(UTC)
    with way("count", STREAM_CUSTOMERS, api="v2-stream") as measured:
        ingest_s = measured.ingest(STREAM_EVENTS, STREAM_CUSTOMERS, lambda _: now)
        measured.addresses.prepare()  # at 25 lists a second, it would be what is measured
        measured.emulator.limit()
        began_s, cpu_s = time.perf_counter(), time.process_time()
        measured.drain()
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        applied = sum(
            row["events"]
            for account in measured.emulator.state()["accounts"]
            for row in account["applied"]
        )
    per_s = applied / took_s
    show(
        f"Single events of {STREAM_CUSTOMERS:,} customers, v2 stream, in one process",
        [
            Line("ingested, each event a unit", f"{STREAM_EVENTS / ingest_s:,.0f}/s"),
            Line(
                "from the ledger to applied",
                f"{per_s:,.0f}/s",
                f"{STREAM_PER_S_MIN:,}/s",
                per_s >= STREAM_PER_S_MIN,
            ),
            Line("... cores", f"{cpu_s / took_s:.2f}"),
            Line(
                "each applied once",
                str(applied == STREAM_EVENTS),
                "True",
                applied == STREAM_EVENTS,
            ),
        ],
    )


if __name__ == "__main__":
    main()
