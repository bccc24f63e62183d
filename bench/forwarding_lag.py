"""Live lag: from a metered response to its usage being applied, through a real server.

An edge's batches arrive over HTTP as its shipper sends them. The first seconds, in which the server
learns who Stripe's customers are, are told apart. BENCH_LAG_S shortens the 60 s of each account.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sqlalchemy import select

from bench.forwarding import (
    KEY,
    Emulator,
    account_of,
    emulating,
    event,
    quiet,
    usageflow,
)
from bench.report import Line, show
from bench.servers import MEASURED_CORE, free_port, running, scratch
from usageflow.catalog.keys import create_key
from usageflow.config import Settings
from usageflow.db.columns import table
from usageflow.db.session import Database
from usageflow.db.tables import UnitRow, UsageEventRow
from usageflow.recorder.sink import Http, HttpSink

SECONDS = int(os.environ.get("BENCH_LAG_S", "60"))
WARM_UP_S = 10
EVENTS_PER_S = 200
OWN_CUSTOMERS, CONNECT_CUSTOMERS = 1_000, 100
APPLIED_S_MAX = 30.0
"""Longest wait for the last of it."""
P99_S_MAX = 3.0


def main() -> None:
    """Measure and print."""
    lines = []
    for name, connected, customers in (
        ("own live key", False, OWN_CUSTOMERS),
        ("Connect account", True, CONNECT_CUSTOMERS),
    ):
        first, lags, lost = _lags(customers, connected=connected)
        p50, p99 = (lags[int(len(lags) * share)] for share in (0.5, 0.99))
        lines += [
            Line(f"{name}, {customers:,} customers: p50", f"{p50:.2f} s"),
            Line("... p99", f"{p99:.2f} s", f"{P99_S_MAX:g} s", p99 <= P99_S_MAX),
            Line(f"... the longest of the first {WARM_UP_S} s", f"{max(first):.2f} s"),
            Line("... not applied", str(lost), "0", lost == 0),
        ]
    show(f"Live lag at {EVENTS_PER_S} events/s for {SECONDS} s, from response to applied", lines)


def _lags(customers: int, *, connected: bool) -> tuple[list[float], list[float], int]:
    """The seconds from response to applied, in order: while it warms up, and later; and of how many
    events nothing came.
    """
    with scratch() as directory, emulating(directory, connected=connected) as emulator:
        emulator.customers(customers, "sum")
        emulator.limit()
        database = f"sqlite:///{directory / 'usageflow.db'}"
        with _server(directory, database, emulator) as (url, api_key):
            _use(url, api_key, customers)
            _wait(database)
        applied = {
            row["identifier"]: datetime.fromisoformat(row["at"]) for row in emulator.journal()
        }
        carried = _carried(database)
    warm_at = min(at for _, at in carried) + timedelta(seconds=WARM_UP_S)
    found: tuple[list[float], list[float]] = ([], [])
    for identifier, at in carried:
        if identifier in applied:
            found[at >= warm_at].append((applied[identifier] - at).total_seconds())
    return sorted(found[0]), sorted(found[1]), len(carried) - sum(map(len, found))


@contextmanager
def _server(directory: Path, database: str, emulator: Emulator) -> Iterator[tuple[str, str]]:
    """Run a server that forwards to the emulator; its URL, and a key for an edge."""
    with closing(Database.open(database)) as opened:
        opened.migrate()
        organization_id, _ = account_of(opened, connected=emulator.connected)
        with opened.transaction() as tx:
            api_key = create_key(tx, organization_id, "edge", ["usage.write"]).secret
    port = free_port()
    command = quiet(
        usageflow("serve", "--database", database, "--port", str(port)), directory / "server.log"
    )
    environ = {"USAGEFLOW_STRIPE_API_KEY": KEY, "USAGEFLOW_STRIPE_API_BASE": emulator.url}
    if emulator.connected:
        environ["USAGEFLOW_STRIPE_CLIENT_ID"] = "ca_bench"
    with running(command, port, MEASURED_CORE, environ):
        yield f"http://127.0.0.1:{port}", api_key


def _use(url: str, api_key: str, customers: int) -> None:
    """Ship usage as an edge does: what came up since the last batch, after its pause."""
    settings, rng = Settings(), random.Random(customers)
    connection = Http(url, api_key, timeout_s=settings.ship_timeout_s)
    began_s, number = time.monotonic(), 0
    waiting: list[bytes] = []
    with closing(HttpSink(connection)) as sink:
        while number < (WARM_UP_S + SECONDS) * EVENTS_PER_S:
            shipped_s = time.monotonic()
            while time.monotonic() - shipped_s < settings.ship_interval_s:
                due_s = began_s + number / EVENTS_PER_S
                time.sleep(max(0.0, due_s - time.monotonic()))
                customer = f"acct_{rng.randrange(customers)}"
                waiting.append(event(number, customer, Decimal(1), datetime.now(UTC)))
                number += 1
            sink.deliver(b"".join(line + b"\n" for line in waiting), len(waiting))
            waiting.clear()


def _wait(database: str) -> None:
    """Let the server send what is left."""
    units, deadline = table(UnitRow).c, time.monotonic() + APPLIED_S_MAX
    with closing(Database.open(database, create=False)) as opened:
        while time.monotonic() < deadline:
            with opened.reading() as tx:
                left = select(units.id).where(units.state.not_in(("accepted", "settled"))).limit(1)
                if tx.session.execute(left).first() is None:
                    return
            time.sleep(0.5)


def _carried(database: str) -> list[tuple[str, datetime]]:
    """By which unit each event went, and when its response was complete."""
    units, events = table(UnitRow).c, table(UsageEventRow).c
    with closing(Database.open(database, create=False)) as opened, opened.reading() as tx:
        rows = tx.session.execute(
            select(units.identifier, events.occurred_at).join_from(
                events.seq.table, units.id.table, units.id == events.unit_id
            )
        )
        return [(row[0], row[1]) for row in rows]


if __name__ == "__main__":
    main()
