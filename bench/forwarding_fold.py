"""Hours of usage folded into units, and drained at the limit of a connected account.

BENCH_FOLD_EVENTS makes it smaller than 4,320,000 events.
"""

import os
import time
from datetime import UTC, datetime, timedelta

from bench.forwarding import way
from bench.report import Line, show
from usageflow.ledger import statement
from usageflow.periods import HOUR, hour_start

EVENTS = int(os.environ.get("BENCH_FOLD_EVENTS", "4320000"))
CUSTOMERS, HOURS = 1_000, 6
LIMIT_PER_S = 100
DRAIN_S_MAX = 120.0


def main() -> None:
    """Measure and print."""
    began = hour_start(datetime.now(UTC)) - HOURS * HOUR
    step = timedelta(microseconds=HOURS * HOUR // timedelta(microseconds=1) // EVENTS)
    with way("sum", CUSTOMERS, connected=True) as measured:
        measured.emulator.limit(global_per_s=LIMIT_PER_S)
        ingest_s = measured.ingest(EVENTS, CUSTOMERS, lambda number: began + number * step)
        units = measured.left()
        began_s, cpu_s = time.perf_counter(), time.process_time()
        measured.drain()
        took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        exact = measured.applied_exactly()
        with measured.database.reading() as tx:
            lines = statement.statement(tx, measured.organization_id)
    adds_up = not any(line.difference for line in lines)
    show(
        f"Folding: {EVENTS:,} events of {CUSTOMERS:,} customers over {HOURS} h, at a limit of "
        f"{LIMIT_PER_S} calls/s",
        [
            Line("ingested, each event into its unit", f"{ingest_s:.0f} s"),
            Line("... events/s", f"{EVENTS / ingest_s:,.0f}"),
            Line("units", f"{units:,}"),
            Line(
                "from the end of ingest to all applied",
                f"{took_s:.1f} s",
                f"{DRAIN_S_MAX:.0f} s",
                took_s <= DRAIN_S_MAX,
            ),
            Line("... CPU of the forwarding process", f"{cpu_s:.1f} s"),
            Line("applied is what was ingested, exactly", str(exact), "True", exact),
            Line("the statement adds up", str(adds_up), "True", adds_up),
        ],
    )


if __name__ == "__main__":
    main()
