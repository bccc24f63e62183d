"""Several threads, workers and connections at one ledger, as several servers would be."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, LaneRow, UnitRow, UsageWindowRow
from usageflow.ledger import derived, folding, units, windows
from usageflow.ledger.counted import Counted
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import Accepted

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def at_once(*steps: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own, all starting together; what they returned."""
    start = threading.Barrier(len(steps))
    results: list[Any] = [None] * len(steps)

    def run(number: int) -> None:
        start.wait()
        results[number] = steps[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_senders_of_one_batch_count_it_once(ledger: "Ledger", line: "LineOf") -> None:
    """Every event is accepted from exactly one of them, in whatever order they send."""
    ledger.connect(used="sum")
    batch = [line(customer=f"c{n % 7}", event_name="used") for n in range(200)]
    forward, backward = at_once(
        lambda: ledger.append(*batch), lambda: ledger.append(*reversed(batch))
    )
    for one, other in zip(forward, reversed(backward), strict=True):
        assert {one, other} == {"accepted", "duplicate"}
    assert sum(row.total for row in ledger.rows(UsageWindowRow)) == 200
    assert sum(row.events for row in ledger.rows(UnitRow)) == 200
    assert len(ledger.rows(CustomerRow)) == 7


def test_senders_of_the_same_customers_do_not_block_each_other_for_ever(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """Overlapping customers, metrics and lanes in opposite orders: no deadlock, nothing lost."""
    ledger.connect(used="sum", each="count")

    def sender(names: Sequence[str]) -> Callable[[], object]:
        batches = [
            [
                line(customer=name, metric=f"M{n}", event_name=("used", "each")[n % 2], quantity=n)
                for name in names
                for n in (1, 2, 3)
            ]
            for _ in range(8)
        ]
        return lambda: [ledger.append(*batch) for batch in batches]

    names = [f"c{n}" for n in range(6)]
    at_once(*(sender(order) for order in (names, names[::-1], names[3:] + names[:3])))
    with ledger.database.reading() as tx:
        assert derived.verify(tx, ledger.organization_id) == []
    assert sum(row.total for row in ledger.rows(UsageWindowRow)) == 3 * 8 * 6 * (1 + 2 + 3)
    assert sum(row.quantity for row in ledger.rows(UnitRow)) == 3 * 8 * 6 * (1 + 2 + 3)
    assert len(ledger.rows(LaneRow)) == 12


def test_workers_claim_different_lanes(ledger: "Ledger", line: "LineOf") -> None:
    """Together they get every lane, none twice."""
    ledger.connect(used="sum")
    ledger.append(*(line(customer=f"c{n}", event_name="used") for n in range(20)))
    workers = [lambda n=n: ledger.claim(limit=5, owner=f"w{n}", bind=False) for n in range(4)]
    claims: list[Claim] = [claim for got in at_once(*workers) for claim in got]
    lanes = [claim.lane_id for claim in claims]
    assert len(lanes) == len(set(lanes))
    lanes += [claim.lane_id for claim in ledger.claim(limit=20, bind=False)]
    assert len(set(lanes)) == len(lanes) == 20


def test_sending_and_receiving_at_once_lose_nothing(ledger: "Ledger", line: "LineOf") -> None:
    """Two workers drain what two senders append; a lane never has two units in flight."""
    ledger.connect(used="sum", each="count")
    finished = threading.Event()
    in_flight: Counter[int] = Counter()
    sent: list[Claim] = []
    guard = threading.Lock()

    def send(name: str) -> Callable[[], object]:
        lines = [
            line(customer=f"c{n % 3}", event_name=("used", "each")[n % 2], id=f"{name}{n}")
            for n in range(120)
        ]
        return lambda: [ledger.append(*lines[n : n + 10]) for n in range(0, 120, 10)]

    def work(name: str) -> None:
        for _ in range(2_000):
            done = finished.is_set()
            claims = ledger.claim(limit=3, owner=name)
            with guard:
                in_flight.update(claim.lane_id for claim in claims)
                assert max(in_flight.values(), default=0) <= 1
            for claim in claims:
                with guard:
                    in_flight[claim.lane_id] -= 1
                    sent.append(claim)
                assert ledger.settle(claim, Accepted())
            if done and not claims:
                return

    def senders() -> None:
        at_once(send("a"), send("b"))
        finished.set()

    at_once(senders, lambda: work("one"), lambda: work("two"))
    for _ in range(200):  # what the two skipped because the other was just looking at its lane
        for claim in ledger.claim():
            sent.append(claim)
            ledger.settle(claim, Accepted())
    assert sum(claim.quantity for claim in sent) == 240
    assert len({claim.identifier for claim in sent}) == len(sent)
    with ledger.database.reading() as tx:
        assert units.pending(tx) == 0


def test_old_usage_is_assigned_once(ledger: "Ledger", line: "LineOf") -> None:
    """Two servers that pick up unassigned events at once share them."""
    ledger.append(*(line(event_name="used") for _ in range(100)))
    ledger.connect(used="sum")

    def assign() -> int:
        with ledger.database.transaction() as tx:
            return folding.assign_unassigned(tx, ledger.organization_id, 60)

    counts = at_once(assign, assign)
    while assign():
        pass
    assert sum(counts) <= 100
    (unit,) = ledger.rows(UnitRow)
    assert (unit.quantity, unit.events) == (Decimal(100), 100)


def test_windows_are_rebuilt_while_usage_arrives(
    ledger: "Ledger", line: "LineOf", monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives between the two halves of a rebuild waits, and is added afterwards."""
    ledger.append(line(customer="a"))
    arriving = threading.Thread(target=ledger.append, args=(line(customer="b"),))
    read = derived._events

    def interrupted(tx: Tx, organization_id: str) -> Iterator[Counted]:
        arriving.start()
        arriving.join(timeout=0.2)
        assert arriving.is_alive()
        return read(tx, organization_id)

    monkeypatch.setattr(derived, "_events", interrupted)
    with ledger.database.transaction() as tx:
        derived.rebuild(tx, ledger.organization_id)
    arriving.join()
    monkeypatch.undo()
    with ledger.database.reading() as tx:
        assert derived.verify(tx, ledger.organization_id) == []
        assert len(windows.totals(tx, ledger.organization_id)) == 2
