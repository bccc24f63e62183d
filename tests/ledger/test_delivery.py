"""However a stream of events is delivered, the ledger ends up the same.

Batches are cut anywhere, repeated, reordered and interleaved with sending; then windows, units and
the distinct events must add up to the same sums.
"""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from usageflow.db.session import Database
from usageflow.db.tables import CustomerRow, LaneRow, StripeAccountRow, UnitRow, UsageEventRow
from usageflow.ledger import derived, folding, windows
from usageflow.ledger.verdicts import Accepted, Ambiguous, Busy, Verdict

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "customer": st.sampled_from("abc"),
            "metric": st.sampled_from(["CALL", "TOKEN"]),
            "event_name": st.sampled_from([None, "used", "each"]),
            "minutes": st.integers(-70, 70),
            "quantity": st.decimals(0, 10**14, places=3),
            "state": st.sampled_from(["counted"] * 4 + ["inbox", "shadow"]),
        }
    ),
    max_size=30,
)

EMPTIED = [
    *("usage_event", "unit", "lane", "usage_window", "stripe_meter", "stripe_account"),
    *("customer_identity", "customer", "metric", "ingest_rejection"),
]
VERDICTS: list[Verdict] = [Accepted(), Busy(), Ambiguous("timeout")]


def deliveries(count: int, data: st.DataObject) -> Iterator[list[int]]:
    """Batches of event numbers in which each number is at least once."""
    order = data.draw(st.permutations(range(count)))
    repeated = data.draw(st.lists(st.integers(0, count - 1), max_size=10)) if count else []
    rest = [*order, *repeated]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        yield rest[:size]
        rest = rest[size:]


@pytest.fixture
def database(tmp_path: Path, sqlite_template: bytes, clock: Any) -> Iterator[Database]:
    """SQLite: a property needs many databases, and one file emptied in between is fast."""
    path = tmp_path / "delivery.db"
    path.write_bytes(sqlite_template)
    opened = Database.open(f"sqlite:///{path}", clock=clock)
    yield opened
    opened.close()


def start_over(ledger: "Ledger") -> None:
    """Empty the ledger, past its triggers, and set the clock back."""
    ledger.clock.now = NOON
    with ledger.database.transaction() as tx:
        triggers = tx.session.execute(
            text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        ).all()
        for name, _ in triggers:
            tx.session.execute(text(f"DROP TRIGGER {name}"))
        for name in EMPTIED:
            tx.session.execute(text(f"DELETE FROM {name}"))
        for _, sql in triggers:
            tx.session.connection().exec_driver_sql(sql)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=EVENTS, connected_after=st.integers(0, 3), data=st.data())
def test_sums_do_not_depend_on_the_delivery(
    ledger: "Ledger",
    line: "LineOf",
    events: list[dict[str, Any]],
    connected_after: int,
    data: st.DataObject,
) -> None:
    """Windows are the sums over distinct counted events, units those of the forwarded ones."""
    start_over(ledger)
    for event in events:
        event["occurred_at"] = NOON + timedelta(minutes=event.pop("minutes"))
    lines = [line(id=f"e{number}", **event) for number, event in enumerate(events)]
    for turn, batch in enumerate(deliveries(len(lines), data)):
        if turn == connected_after:
            ledger.connect(used="sum", each="count")
        ledger.append(*(lines[number] for number in batch))
        for claim in ledger.claim(limit=2):
            ledger.clock.advance(1)
            ledger.settle(claim, data.draw(st.sampled_from(VERDICTS)))
    if not ledger.rows(StripeAccountRow):
        ledger.connect(used="sum", each="count")
    with ledger.database.transaction() as tx:
        folding.assign_unassigned(tx, ledger.organization_id, 100)
    check(ledger, events)


def check(ledger: "Ledger", events: list[dict[str, Any]]) -> None:
    """Compare the ledger with `events`, each counted once."""
    names = {row.id: row.external_id for row in ledger.rows(CustomerRow)}
    counted = [event for event in events if event["state"] == "counted"]
    expected: dict[Any, Decimal] = defaultdict(Decimal)
    by_lane: dict[Any, Decimal] = defaultdict(Decimal)
    for event in counted:
        hour = event["occurred_at"].replace(minute=0)
        expected[event["customer"], event["metric"], hour] += event["quantity"]
        if event["event_name"]:
            by_lane[event["customer"], event["event_name"], hour] += event["quantity"]
    with ledger.database.reading() as tx:
        stored = windows.totals(tx, ledger.organization_id)
        assert derived.verify(tx, ledger.organization_id) == []
    assert {(names[key[0]], *key[1:]): held.total for key, held in stored.items()} == expected
    lanes = {lane.id: (names[lane.customer_id], lane.event_name) for lane in ledger.rows(LaneRow)}
    sums: dict[Any, Decimal] = defaultdict(Decimal)
    units = {unit.id: unit for unit in ledger.rows(UnitRow)}
    for unit in units.values():
        sums[*lanes[unit.lane_id], unit.hour] += unit.quantity
    assert sums == by_lane
    rows = ledger.rows(UsageEventRow)
    assert len(rows) == len(events)
    for row in rows:
        assert (row.unit_id is not None) == (row.state == "counted" and row.event_name is not None)
    for unit in units.values():
        mine = [row for row in rows if row.unit_id == unit.id]
        parts = [one.quantity for one in units.values() if one.parent_id == unit.id]
        carried = Decimal(0) if unit.kind == "part" else sum(parts, unit.quantity)
        assert (sum(row.quantity for row in mine), len(mine)) == (carried, unit.events)
