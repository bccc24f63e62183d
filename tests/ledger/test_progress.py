"""How far each account's usage has come: counts, ages, drift, and what a period's end is owed."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlmodel import col, select

from usageflow.db.session import Tx
from usageflow.db.tables import LaneRow, ReconciliationRow, StripeAccountRow, UnitRow
from usageflow.ledger import boundaries, resolution
from usageflow.ledger.progress import UNSETTLED, Progress, progress
from usageflow.ledger.verdicts import Accepted, Ambiguous, Parked, Quarantined, Verdict

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

HOUR = timedelta(hours=1)


def told(ledger: "Ledger", *, barrier_s: float = 600) -> Progress:
    """The progress of the one account."""
    with ledger.database.reading() as tx:
        (found,) = progress(tx, ledger.organization_id, barrier_s=barrier_s)
    return found


def counts(found: Progress) -> dict[str, int]:
    """Units by state, where there are any."""
    return {state: count for state, count in found.units.items() if count}


def send(ledger: "Ledger", *verdicts: Verdict) -> None:
    """Let one unit of each free lane come to its verdict, in the order of the lanes' age."""
    for claim, verdict in zip(ledger.claim(limit=len(verdicts) or 1), verdicts, strict=True):
        assert ledger.settle(claim, verdict)


def test_nothing_is_told_of_nothing(ledger: "Ledger") -> None:
    """Without an account there is no progress; a new account has none of anything."""
    with ledger.database.reading() as tx:
        assert progress(tx, ledger.organization_id, barrier_s=600) == []
    ledger.connect(used="sum")
    assert told(ledger) == Progress(
        account="own",
        livemode=False,
        state="active",
        units=dict.fromkeys(UNSETTLED, 0),
        waiting_since=None,
        unsettled_since=None,
        drift=Decimal(0),
        drifts=0,
        late=0,
    )


def test_units_are_counted_by_state_and_dated_by_their_usage(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """Accepted is no longer on its way, settled is done with; what is parked waits by itself."""
    noon = ledger.clock.now
    ledger.connect(used="sum")
    for minutes, customer in enumerate(("parked", "accepted", "lost", "refused", "open")):
        at = noon + timedelta(minutes=minutes)
        ledger.append(line(customer=customer, event_name="used", occurred_at=at))
    ledger.clock.advance(600)
    assert told(ledger).waiting_since == noon
    send(ledger, Parked("none"), Accepted(), Ambiguous("timeout"), Quarantined("no_meter", "none"))
    found = told(ledger)
    assert counts(found) == dict.fromkeys(
        ("parked", "accepted", "ambiguous", "quarantined", "open"), 1
    )
    assert found.waiting_since == noon + timedelta(minutes=2)
    assert found.unsettled_since == noon
    with ledger.database.transaction() as tx:
        for unit in tx.session.exec(select(UnitRow).where(col(UnitRow.state) == "parked")).all():
            resolution.write_off(tx, unit, "a gift")
        accepted = tx.session.exec(select(UnitRow).where(col(UnitRow.state) == "accepted")).all()
        resolution.settled(tx, accepted)
    assert told(ledger).unsettled_since == noon + timedelta(minutes=2)
    assert counts(told(ledger)) == dict.fromkeys(("ambiguous", "quarantined", "open"), 1)


def test_a_lost_unit_is_on_its_way_though_its_lane_rests(ledger: "Ledger", line: "LineOf") -> None:
    """Past the time in which it may be sent again, until reconciliation has decided."""
    ledger.connect(used="sum")
    noon = ledger.clock.now
    ledger.append(line(event_name="used"))
    send(ledger, Ambiguous("timeout"))
    ledger.clock.advance(80_000)
    send(ledger)
    assert [lane.waiting for lane in ledger.rows(LaneRow)] == [False]
    assert told(ledger).waiting_since == noon


def test_usage_without_a_unit_waits_for_the_account_it_goes_to(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """Of several the first that is connected; a withdrawn one gets nothing."""
    ledger.append(line(event_name="used", occurred_at=ledger.clock.now - HOUR), line(quantity=3))
    ledger.connect(used="sum")
    with ledger.database.transaction() as tx:
        tx.session.add(
            StripeAccountRow(
                kind="connect",
                id="account-0",
                organization_id=ledger.organization_id,
                account="acct_0",
                livemode=True,
                state="deauthorized",
                created_at=tx.now - HOUR,
            )
        )
    with ledger.database.reading() as tx:
        first, second = progress(tx, ledger.organization_id, barrier_s=600)
        assert progress(tx, "another", barrier_s=600) == []
    assert (first.account, first.livemode, first.waiting_since) == ("acct_0", True, None)
    assert second.waiting_since == second.unsettled_since == ledger.clock.now - HOUR


def test_drift_is_the_sum_of_what_is_open(ledger: "Ledger") -> None:
    """Too much and too little do not cancel each other; what is dealt with is no drift."""
    ledger.connect(used="sum")
    rows: list[dict[str, Any]] = [
        {"expected": "10", "observed": "7.5", "state": "open"},
        {"expected": "0.1", "observed": "0.4", "state": "open"},
        {"expected": "9", "observed": "1", "state": "applied"},
        {"expected": "9", "observed": "1", "state": "resolved"},
    ]
    with ledger.database.transaction() as tx:
        for number, row in enumerate(rows):
            tx.session.add(
                ReconciliationRow(
                    organization_id=ledger.organization_id,
                    account_id="account-1",
                    stripe_customer_id="cus_1",
                    event_name="used",
                    hour=tx.now + number * HOUR,
                    expected=Decimal(row["expected"]),
                    observed=Decimal(row["observed"]),
                    classification="late",
                    reason="late at Stripe",
                    state=row["state"],
                    first_seen_at=tx.now,
                    observed_at=tx.now,
                    checked_at=tx.now,
                )
            )
    assert (told(ledger).drift, told(ledger).drifts) == (Decimal("2.8"), 2)


def test_usage_of_a_month_is_late_after_the_barrier(ledger: "Ledger", line: "LineOf") -> None:
    """From ten minutes after the month until Stripe has accepted it; what came later is not."""
    ledger.connect(used="sum")
    end = datetime(2026, 12, 1, tzinfo=UTC)
    ledger.append(
        line(event_name="used", occurred_at=end - timedelta(seconds=1)),
        line(event_name="used", occurred_at=end, customer="next"),
    )
    for after_s, late in ((599, 0), (600, 1), (86_400 * 31 + 599, 1), (86_400 * 31 + 600, 2)):
        ledger.clock.now = end + timedelta(seconds=after_s)
        assert told(ledger).late == late, after_s
    ledger.clock.now = end + timedelta(seconds=600)
    send(ledger, Accepted(), Accepted())
    assert told(ledger).late == 0


def test_usage_of_a_billing_period_is_late_after_the_barrier(
    ledger: "Ledger", line: "LineOf"
) -> None:
    """Where a lane's period ends within the month; where it became another's, nothing ended."""
    ledger.connect(used="sum")
    noon = ledger.clock.now
    ledger.append(line(event_name="used"), line(event_name="used", customer="other"))
    mine, other = (lane.id for lane in ledger.rows(LaneRow))
    with ledger.database.transaction() as tx:
        boundaries.add(tx, [mine], noon + timedelta(minutes=30), "period")
        boundaries.add(tx, [other], noon + timedelta(minutes=30), "customer")
    ledger.append(line(event_name="used", occurred_at=noon + timedelta(minutes=30)))
    for minutes, late in ((39, 0), (40, 1)):
        ledger.clock.now = noon + timedelta(minutes=minutes)
        assert told(ledger).late == late


def test_a_correction_of_an_earlier_period_is_not_late(ledger: "Ledger", line: "LineOf") -> None:
    """It comes after the period by its nature, and is no usage."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"))
    send(ledger, Accepted())
    with ledger.database.transaction() as tx:
        lane = tx.session.exec(select(LaneRow)).one()
        resolution.correct(
            tx,
            lane,
            stripe_customer_id="cus_acct_1",
            occurred_at=tx.now - timedelta(days=30),
            quantity=Decimal(-1),
            reason="foreign writer",
        )
    assert told(ledger).late == 0
    assert counts(told(ledger)) == {"accepted": 1, "sealed": 1}


@contextmanager
def plans(tx: Tx) -> Iterator[list[str]]:
    """How SQLite reads each table, of the statements in the block."""
    steps: list[str] = []

    def explain(connection: Any, cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        steps.extend(row[-1] for row in cursor.fetchall())

    event.listen(tx.session.connection(), "before_cursor_execute", explain)
    yield steps


def test_a_scrape_reads_by_indexes(ledger: "Ledger", line: "LineOf") -> None:
    """No table is read in full on SQLite; PostgreSQL plans by how many rows there are."""
    ledger.connect(used="sum")
    ledger.append(line(event_name="used"))
    with ledger.database.reading() as tx:
        if tx.dialect != "sqlite":
            return
        with plans(tx) as steps:
            progress(tx, ledger.organization_id, barrier_s=600)
    assert not [step for step in steps if step.startswith("SCAN")]
    for index in ("ix_unit_unsettled", "ix_lane_waiting", "ix_reconciliation_open"):
        assert [step for step in steps if index in step], index
