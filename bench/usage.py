"""What reading usage takes: one customer and month, with 10,000,000 events in the ledger.

BENCH_USAGE_EVENTS makes it smaller. Days are asked for one customer after the other, at random.
"""

import os
import random
import statistics
import time
from datetime import UTC, datetime, timedelta

from bench.closing import postgresql
from bench.filled import DAYS, METRIC, fill
from bench.load import p99_ms
from bench.report import Line, show
from bench.servers import scratch
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.ledger import reading
from usageflow.ledger.reading import Metered
from usageflow.periods import Period

EVENTS = int(os.environ.get("BENCH_USAGE_EVENTS", "10000000"))
CUSTOMERS = 10_000
QUERIES = 500
P99_MS_MAX = 20.0
END = datetime(2026, 11, 1, tzinfo=UTC)


def measure(url: str, events: int) -> list[Line]:
    """Fill a new database and read from it."""
    database = Database.open(url)
    database.migrate()
    with database.transaction() as tx:
        organization_id = default_organization(tx)
    began_s = time.perf_counter()
    fill(database, organization_id, customers=CUSTOMERS, events=events, end=END)
    filled_s = time.perf_counter() - began_s
    month = Period(END - timedelta(days=DAYS), END)
    days = reading.groups(month, "day", "UTC")
    assert days is not None
    chance, times, exact = random.Random(1), list[float](), True
    cpu_s = time.process_time()
    for number in range(QUERIES):
        customer = f"customer-{chance.randrange(CUSTOMERS)}"
        began_s = time.perf_counter()
        with database.reading() as tx:
            (found,) = reading.usage(
                tx,
                organization_id,
                [Metered(METRIC, "SUM")],
                customer_id=customer,
                interval=month,
                parts=days,
            )
        if number >= 10:  # what is prepared once is not counted
            times.append(time.perf_counter() - began_s)
        exact = exact and found.whole.quantity == events // CUSTOMERS
    cpu_ms = (time.process_time() - cpu_s) / QUERIES * 1000
    database.close()
    p99 = p99_ms(times)
    return [
        Line(
            "a month by days of one customer, median", f"{statistics.median(times) * 1000:.1f} ms"
        ),
        Line("... p99", f"{p99:.1f} ms", f"{P99_MS_MAX:.0f} ms", p99 <= P99_MS_MAX),
        Line("... CPU of one, of this process", f"{cpu_ms:.1f} ms"),
        Line("... every sum is exact", str(exact), "True", exact),
        Line("... (filled by SQL in)", f"{filled_s:.0f} s"),
    ]


def main() -> None:
    """Measure and print."""
    with scratch() as directory:
        lines = measure(f"sqlite:///{directory / 'usageflow.db'}", EVENTS)
        show(f"Reading usage, {EVENTS:,} events of {CUSTOMERS:,} customers, SQLite", lines)
    with postgresql() as url:
        fewer = EVENTS // 10
        show(f"... {fewer:,} events, PostgreSQL", measure(url, fewer))


if __name__ == "__main__":
    main()
