"""The statement adds up in every state there is, says so when it does not, and is kept hourly."""

import logging
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, update
from sqlmodel import col, select

from usageflow.db.columns import table
from usageflow.db.exact import plain
from usageflow.db.session import Database, Tx
from usageflow.db.tables import LaneRow, StatementRow, UnitRow
from usageflow.ledger import resolution, statement
from usageflow.ledger.statement import Difference, Line
from usageflow.ledger.verdicts import Accepted, Ambiguous, Held, Parked, Quarantined, Verdict

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

EXACT = "1234567890123456789012345.123456789012"


def lines_of(ledger: "Ledger") -> list[Line]:
    """The statement of now."""
    with ledger.database.reading() as tx:
        return statement.statement(tx, ledger.organization_id)


def places(ledger: "Ledger", event_name: str = "used") -> dict[str, str]:
    """Where the usage of an event name is, empty places left out; fails if it does not add up."""
    (line,) = [line for line in lines_of(ledger) if line.event_name == event_name]
    assert not line.difference, line
    named = line._asdict()
    del named["event_name"]
    return {place: plain(quantity) for place, quantity in named.items() if quantity}


def verify(ledger: "Ledger") -> list[Difference]:
    """The lanes that are wrong."""
    with ledger.database.reading() as tx:
        return statement.verify(tx, ledger.organization_id)


def resolve(ledger: "Ledger", state: str, step: Callable[[Tx, UnitRow], Any]) -> None:
    """Take a step with every unit of a state."""
    with ledger.database.transaction() as tx:
        for unit in tx.session.exec(select(UnitRow).where(col(UnitRow.state) == state)).all():
            step(tx, unit)


def send(ledger: "Ledger", verdict: Verdict, *, after_s: float = 3_600) -> None:
    """Let time pass, send one unit of each free lane, and let all come to this verdict."""
    ledger.clock.advance(after_s)
    for claim in ledger.claim():
        assert ledger.settle(claim, verdict)


def test_every_state_has_its_place(ledger: "Ledger", line: "LineOf") -> None:
    """The same unit on its whole way; what is on its way is in flight until it is settled."""
    ledger.connect(used="sum")
    ledger.append(line(quantity=EXACT[-14:], event_name="used"))
    whole = EXACT[-14:]
    ways: list[tuple[Callable[[], object], str]] = [
        (lambda: None, "in_flight"),
        (lambda: send(ledger, Parked("no customer")), "parked"),
        (lambda: ledger.clock.advance(3_600), "parked"),
        (ledger.claim, "in_flight"),
        (lambda: send(ledger, Ambiguous("timeout")), "in_flight"),
        (lambda: send(ledger, Accepted()), "in_flight"),
        (lambda: resolve(ledger, "accepted", reject), "quarantined"),
        (lambda: resolve(ledger, "quarantined", reissue), "in_flight"),
        (lambda: send(ledger, Held("look at it")), "held"),
        (lambda: resolve(ledger, "held", resolution.send_again), "in_flight"),
        (lambda: send(ledger, Quarantined("no_meter", "none")), "quarantined"),
        (lambda: resolve(ledger, "quarantined", resolution.send_again), "in_flight"),
        (lambda: send(ledger, Accepted()), "in_flight"),
        (lambda: resolve(ledger, "accepted", settle), "settled"),
    ]
    for act, place in ways:
        act()
        assert places(ledger) == {"metered": whole, place: whole}
        assert verify(ledger) == []


def reject(tx: Tx, unit: UnitRow) -> None:
    """Stripe dropped it."""
    resolution.reject(tx, unit, "archived_meter", "gone")


def reissue(tx: Tx, unit: UnitRow) -> None:
    """Another unit carries its quantity."""
    resolution.reissue(tx, unit, reason="again")


def settle(tx: Tx, unit: UnitRow) -> None:
    """Stripe was seen to have it."""
    resolution.settled(tx, [unit])


def write_off(tx: Tx, unit: UnitRow) -> None:
    """It is given up."""
    resolution.write_off(tx, unit, "a gift")


def test_usage_is_metered_before_and_after_it_has_a_unit(ledger: "Ledger", line: "LineOf") -> None:
    """Without an account it is in flight; connecting one moves nothing; the rest is not in it."""
    ledger.append(
        line(quantity=EXACT, event_name="used"),
        line(quantity=5),
        line(quantity=7, event_name="used", state="shadow", reason="shadow"),
        line(quantity=2, event_name="other"),
    )
    assert places(ledger) == {"metered": EXACT, "in_flight": EXACT}
    ledger.connect(used="sum")
    ledger.append(line(quantity=1, event_name="used"))
    sum_ = EXACT.replace("345.", "346.")
    assert places(ledger) == {"metered": sum_, "in_flight": sum_}
    assert [line.event_name for line in lines_of(ledger)] == ["other", "used"]
    assert verify(ledger) == []


def test_parts_of_one_event_are_counted_once(ledger: "Ledger", line: "LineOf") -> None:
    """A quantity of too many digits goes in several units, of which each may end elsewhere."""
    ledger.connect(used="sum")
    ledger.append(line(quantity="12345678901234567.5", event_name="used"))
    whole = "12345678901234567.5"
    assert places(ledger) == {"metered": whole, "in_flight": whole}
    send(ledger, Accepted())
    resolve(ledger, "accepted", settle)
    found = places(ledger)
    assert found.keys() == {"metered", "settled", "in_flight"}
    send(ledger, Quarantined("no_meter", "none"))
    resolve(ledger, "quarantined", write_off)
    assert places(ledger)["written_off"]
    assert verify(ledger) == []


def test_a_correction_is_no_usage(ledger: "Ledger", line: "LineOf") -> None:
    """Neither on its way nor at its end; nor when it has to be issued again."""
    ledger.connect(used="sum")
    ledger.append(line(quantity=9, event_name="used"))
    with ledger.database.transaction() as tx:
        lane = tx.session.exec(select(LaneRow)).one()
        resolution.correct(
            tx,
            lane,
            stripe_customer_id="cus_acct_1",
            occurred_at=ledger.clock.now,
            quantity=Decimal(-4),
            reason="foreign writer",
        )
    assert places(ledger) == {"metered": "9", "in_flight": "9"}
    send(ledger, Accepted())
    send(ledger, Quarantined("no_meter", "none"))
    resolve(ledger, "quarantined", reissue)
    send(ledger, Accepted())
    resolve(ledger, "accepted", settle)
    assert {unit.state for unit in ledger.rows(UnitRow)} == {"settled", "reissued"}
    assert places(ledger) == {"metered": "9", "settled": "9"}
    assert verify(ledger) == []


@pytest.fixture
def broken(ledger: "Ledger", line: "LineOf") -> "Ledger":
    """A ledger that lost 3 of 10, and 2 of what was settled."""
    ledger.connect(used="sum")
    ledger.append(line(quantity=10, event_name="used"), line(quantity=1, event_name="other"))
    send(ledger, Accepted())
    resolve(ledger, "accepted", settle)
    lanes = table(LaneRow)
    with ledger.database.transaction() as tx:
        tx.session.execute(
            update(lanes)
            .where(lanes.c.event_name == "used")
            .values(metered=Decimal(7), settled=Decimal(8))
        )
    return ledger


def test_a_difference_is_told(broken: "Ledger") -> None:
    """By how much, and `verify` says of which lane, and which of its sums."""
    other, used = lines_of(broken)
    assert (other.difference, used.difference) == (Decimal(0), Decimal(-1))
    assert verify(broken) == [
        Difference("acct_1", "used", "metered", Decimal(7), Decimal(10)),
        Difference("acct_1", "used", "settled", Decimal(8), Decimal(10)),
    ]


def test_a_unit_that_lost_its_quantity_is_found(ledger: "Ledger", line: "LineOf") -> None:
    """All units of a lane carry what its events are, or `verify` tells."""
    ledger.connect(used="sum")
    ledger.append(line(quantity=10, event_name="used"))
    with ledger.database.transaction() as tx:
        tx.session.execute(update(table(UnitRow)).values(quantity=Decimal(4)))  # still open
    assert verify(ledger) == [Difference("acct_1", "used", "units", Decimal(10), Decimal(4))]


def test_a_statement_is_kept_for_each_hour_once(ledger: "Ledger", line: "LineOf") -> None:
    """What came after it is not in it; the next hour has its own."""
    ledger.connect(used="sum")
    hour = ledger.clock.now
    assert statement.store_hourly(ledger.database) == 0
    ledger.append(line(quantity=1, event_name="used"), line(quantity=5, event_name="other"))
    ledger.clock.advance(500)
    assert statement.store_hourly(ledger.database) == 2
    ledger.append(line(quantity=1, event_name="used"), line(quantity=1, event_name="new"))
    assert statement.store_hourly(ledger.database) == 0
    ledger.clock.advance(3_599)
    assert statement.store_hourly(ledger.database) == 3
    with ledger.database.reading() as tx:
        first, second = (
            statement.stored(tx, ledger.organization_id, at)
            for at in (hour, hour + timedelta(hours=1))
        )
        assert statement.latest(tx, ledger.organization_id) == hour + timedelta(hours=1)
        assert statement.stored(tx, "another", hour) == []
        assert statement.latest(tx, "another") is None
    metered = {line.event_name: line.metered for line in first}
    assert metered == {"other": Decimal(5), "used": Decimal(1)}
    assert second == lines_of(ledger)


def test_a_statement_is_made_at_its_hour_or_not_at_all(ledger: "Ledger", line: "LineOf") -> None:
    """A server that was away, or usage that came first in the middle, makes none of that hour."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"))
    ledger.clock.advance(600)
    assert statement.store_hourly(ledger.database) == 0
    ledger.clock.advance(3_000)
    assert statement.store_hourly(ledger.database) == 1


def test_the_second_of_two_servers_changes_nothing(ledger: "Ledger") -> None:
    """The statement of who came first stays; the other is told that nothing was new."""
    hour, organization_id = ledger.clock.now, ledger.organization_id
    with ledger.database.transaction() as tx:
        mine = [Line("used", metered=Decimal(1), settled=Decimal(1))]
        assert statement.store(tx, organization_id, hour, mine) == mine
        assert statement.store(tx, organization_id, hour, [Line("used")]) == []
    assert [row.metered for row in ledger.rows(StatementRow)] == [1]


def test_what_does_not_add_up_is_an_error_in_the_log(
    broken: "Ledger", caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each hour, with the event name and by how much."""
    with caplog.at_level(logging.ERROR, "usageflow"):
        statement.store_hourly(broken.database)
        statement.store_hourly(broken.database)
    (record,) = caplog.records
    assert "2026-11-21 13:00 UTC does not add up: event name 'used' differs by -1;" in (
        record.getMessage()
    )


def test_another_organization_is_not_in_it(ledger: "Ledger", line: "LineOf") -> None:
    """Each has its own statement."""
    ledger.connect(used="sum")
    ledger.append(line(quantity=1, event_name="used"))
    with ledger.database.reading() as tx:
        assert statement.statement(tx, "another") == []
        assert statement.verify(tx, "another") == []


def test_no_settled_unit_and_no_old_event_is_read(sqlite_template: bytes, tmp_path: Path) -> None:
    """By the partial indexes; on SQLite, whose plan is the same for few rows and for many."""
    (tmp_path / "usageflow.db").write_bytes(sqlite_template)
    steps: list[str] = []

    def explain(connection: Any, cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        steps.extend(row[-1] for row in cursor.fetchall())

    with (
        closing(Database.open(f"sqlite:///{tmp_path / 'usageflow.db'}")) as database,
        database.reading() as tx,
    ):
        event.listen(tx.session.connection(), "before_cursor_execute", explain)
        statement.statement(tx, "anyone")
    of_tables = [step for step in steps if step.startswith(("SEARCH", "SCAN"))]
    assert not [step for step in of_tables if step.startswith("SCAN")]
    for index in (
        "unit USING INDEX ix_unit_unsettled",
        "usage_event USING INDEX ix_usage_event_un",
    ):
        assert [step for step in of_tables if index in step], of_tables
