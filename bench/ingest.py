"""Usage into the server over HTTP: batches of edges and of clients, and single events.

Each through one server process, over SQLite and over PostgreSQL; batches on PostgreSQL beside a
bare batched insert of the same rows. Every event counts: the windows are added up afterwards.
BENCH_INGEST_EVENTS makes it smaller than 100,000 events, BENCH_INGEST_TRACKS than 20,000.
"""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec
import psycopg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from uuid_utils import uuid7

from bench.closing import postgresql
from bench.load import p99_ms
from bench.posts import post, send_all
from bench.report import Line, show
from bench.servers import MEASURED_CORE, cpu_s, free_port, python, running, scratch
from usageflow.catalog import metrics
from usageflow.catalog.audit import Actor
from usageflow.catalog.keys import create_key
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.events import Identity, UsageEvent, encode_lines
from usageflow.ledger import derived, windows

EVENTS = int(os.environ.get("BENCH_INGEST_EVENTS", "100000"))
TRACKS = int(os.environ.get("BENCH_INGEST_TRACKS", "20000"))
BATCH = 1_000
CUSTOMERS = 1_000
SENDERS = 4
CONCURRENCY = 32
BATCH_PER_S_MIN, TRACK_PER_S_MIN, OF_BARE_MIN = 10_000, 1_500, 0.5
METRIC = "API_CALL"


class Server(NamedTuple):
    """A running server, and a key for it."""

    port: int
    pid: int
    key: str


@contextmanager
def serving(url: str) -> Iterator[Server]:
    """One server process over a new database with the metric."""
    database = Database.open(url)
    database.migrate()
    with database.transaction() as tx:
        organization_id = default_organization(tx)
        metrics.define(tx, organization_id, key=METRIC, actor=Actor("bench"))
        key = create_key(tx, organization_id, "bench", ["usage.write"]).secret
    database.close()
    port = free_port()
    command = python("usageflow", "serve", "--database", url, "--port", str(port))
    with running(command, port, MEASURED_CORE) as pid:
        yield Server(port, pid, key)


def edge_batches(key: str, events: int) -> list[bytes]:
    """Requests of edges."""
    now = datetime.now(UTC)
    return [
        post(
            "/api/edge/events",
            encode_lines([_edge_event(start + n, now) for n in range(BATCH)]),
            x_usageflow_api_key=key,
        )
        for start in range(0, events, BATCH)
    ]


def _edge_event(number: int, now: datetime) -> UsageEvent:
    return UsageEvent(
        id=str(uuid7()),
        policy="calls",
        policy_version="1",
        metric=METRIC,
        identity=Identity("account_id", f"acct_{number % CUSTOMERS}"),
        quantity=Decimal(1),
        occurred_at=now,
        state="counted",
        request_method="POST",
        request_route="/v1/chat",
        request_status=200,
    )


def client_batches(key: str, events: int) -> list[bytes]:
    """Requests of clients."""
    return [
        post(
            "/api/v1/usage/batch",
            msgspec.json.encode({"events": [_told(start + n) for n in range(BATCH)]}),
            x_api_key=key,
        )
        for start in range(0, events, BATCH)
    ]


def _told(number: int) -> dict[str, object]:
    return {
        "metric": METRIC,
        "amount": 1,
        "customerId": f"acct_{number % CUSTOMERS}",
        "idempotencyKey": str(uuid7()),
        "metadata": {"endpoint": "/v1/chat"},
    }


def tracks(key: str, events: int) -> list[bytes]:
    """Requests with one event each, as the product documents have them."""
    return [
        post(
            "/api/track",
            msgspec.json.encode(
                {name: value for name, value in _told(n).items() if name != "idempotencyKey"}
            ),
            x_usageflow_api_key=key,
            idempotency_key=str(uuid7()),
        )
        for n in range(events)
    ]


def bare_per_s(url: str, events: int) -> float:
    """Rows per second of a batched insert and nothing else: no customer, window or check."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    columns = (
        *("organization_id", "id", "customer_id", "metric", "quantity", "occurred_at"),
        *("received_at", "identity_field", "identity_value", "policy", "policy_version", "state"),
        *("request_method", "request_route", "request_status", "fingerprint"),
    )
    with psycopg.connect(plain) as connection:
        found = connection.execute("SELECT organization_id, id FROM customer").fetchall()
        now = datetime.now(UTC)
        names = ", ".join(columns)
        insert = f"INSERT INTO usage_event ({names}) VALUES ({', '.join(['%s'] * len(columns))})"
        rows = [
            (
                *(found[n % len(found)][0], str(uuid7()), found[n % len(found)][1], METRIC),
                *(Decimal(1), now, now, "account_id", "acct_1", "calls", "1", "counted"),
                *("POST", "/v1/chat", 200, "f" * 64),
            )
            for n in range(events)
        ]
        began_s = time.perf_counter()
        for start in range(0, events, BATCH):
            with connection.cursor() as cursor:
                cursor.executemany(insert, rows[start : start + BATCH])
            connection.commit()
        return events / (time.perf_counter() - began_s)


def counted(url: str) -> tuple[Decimal, bool]:
    """What all windows come to, and whether the events say the same."""
    database = Database.open(url)
    with database.reading() as tx:
        organization_id = tx.session.execute(text("SELECT id FROM organization")).scalar_one()
        total = sum(
            (held.total for held in windows.totals(tx, organization_id).values()), Decimal(0)
        )
        exact = derived.verify(tx, organization_id) == []
    database.close()
    return total, exact


class Sent(NamedTuple):
    """What came of some requests: events per second, CPU of the server for one, and latencies."""

    per_s: float
    cpu_us: float
    times: list[float]


def send(server: Server, requests: list[bytes], connections: int, events: int) -> Sent:
    """Send them all, which hold so many events."""
    before_s = cpu_s(server.pid)
    took_s, times = send_all(server.port, requests, connections)
    return Sent(events / took_s, (cpu_s(server.pid) - before_s) / events * 1e6, times)


def _measured(url: str, *, beside_bare: bool) -> list[Line]:
    with serving(url) as server:
        send_all(server.port, edge_batches(server.key, 10 * BATCH), SENDERS)  # customers are there
        edges = send(server, edge_batches(server.key, EVENTS), SENDERS, EVENTS)
        clients = send(server, client_batches(server.key, EVENTS), SENDERS, EVENTS)
        single = send(server, tracks(server.key, TRACKS), CONCURRENCY, TRACKS)
        total, exact = counted(url)
        bare = bare_per_s(url, EVENTS // 2) if beside_bare else None
    whole = total == 10 * BATCH + 2 * EVENTS + TRACKS and exact
    median_ms = statistics.median(single.times) * 1000
    return [
        *_batch_lines("batches of edges", edges, bare),
        *_batch_lines("batches of clients", clients, bare),
        *([] if bare is None else [Line("bare batched insert of the rows", f"{bare:,.0f}/s")]),
        Line(
            f"single events, concurrency {CONCURRENCY}",
            f"{single.per_s:,.0f}/s",
            f"{TRACK_PER_S_MIN:,}",
            single.per_s >= TRACK_PER_S_MIN,
        ),
        Line("... CPU of the server for one", f"{single.cpu_us:.0f} µs"),
        Line("... median and p99", f"{median_ms:.1f}, {p99_ms(single.times):.1f} ms"),
        Line("every event counted once, exactly", str(whole), "True", whole),
    ]


def _batch_lines(what: str, sent: Sent, bare: float | None) -> list[Line]:
    cpu = Line("... CPU of the server for an event", f"{sent.cpu_us:.0f} µs")
    if bare is None:
        met = sent.per_s >= BATCH_PER_S_MIN
        return [Line(what, f"{sent.per_s:,.0f}/s", f"{BATCH_PER_S_MIN:,}", met), cpu]
    share = sent.per_s / bare
    return [
        Line(what, f"{sent.per_s:,.0f}/s"),
        cpu,
        Line("... of the bare insert", f"{share:.2f}", f"{OF_BARE_MIN}", share >= OF_BARE_MIN),
    ]


def main() -> None:
    """Measure and print."""
    title = f"Ingest over HTTP, one server process, {BATCH:,} events in a batch"
    with scratch() as directory:
        url = f"sqlite:///{directory / 'usageflow.db'}"
        show(f"{title}, SQLite", _measured(url, beside_bare=False))
    with postgresql() as url:
        show(f"{title}, PostgreSQL", _measured(url, beside_bare=True))


if __name__ == "__main__":
    main()
