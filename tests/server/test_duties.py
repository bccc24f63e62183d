"""What the server does for all accounts."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlmodel import select

from usageflow.catalog.organizations import default_organization
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import LaneRow, StatementRow, UnitRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import boundaries, store
from usageflow.server import duties
from usageflow.server.ways import Ways
from usageflow.stripe.accounts import ensure_own

NOON = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is told otherwise."""

    now = NOON

    def __call__(self) -> datetime:
        """The time it shows."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of `db`."""
    return Clock()


@pytest.fixture
def db(database_url: str, clock: Clock) -> Iterator[Database]:
    """An open database, on SQLite and on PostgreSQL in turn."""
    opened = Database.open(database_url, clock=clock)
    yield opened
    opened.close()


def use(db: Database) -> None:
    """Record one event that is to be forwarded."""
    event = UsageEvent(
        id="event-1",
        policy="p",
        policy_version="1",
        metric="CALL",
        identity=Identity("account_id", "acct_1"),
        quantity=Decimal(3),
        occurred_at=NOON,
        state="counted",
        event_name="calls",
    )
    with db.transaction() as tx:
        store.append(tx, default_organization(tx), [encode(event)], unknown_metric="create")


def connect(db: Database) -> None:
    """Give the organization an account."""
    with db.transaction() as tx:
        ensure_own(tx, default_organization(tx), livemode=False)


def test_usage_from_before_the_account_gets_its_units(db: Database) -> None:
    """Once there is an account, and once only."""
    use(db)
    assert duties.assign(db) == 0
    connect(db)
    assert (duties.assign(db), duties.assign(db)) == (1, 0)
    with db.reading() as tx:
        assert [unit.quantity for unit in tx.session.exec(select(UnitRow))] == [Decimal(3)]


def test_the_statement_of_an_hour_is_kept_once(db: Database, clock: Clock) -> None:
    """However often the duty is done."""
    connect(db)
    use(db)
    for minutes in (0, 35, 1, 60):  # half past twelve: too late for that hour
        clock.now += timedelta(minutes=minutes)
        assert duties.keep_statement(db) == 0
    with db.reading() as tx:
        kept = tx.session.exec(select(StatementRow)).all()
        assert [(row.metered, row.in_flight) for row in kept] == [(Decimal(3), Decimal(3))] * 2


def test_usage_of_an_ended_period_raises_an_alarm(
    db: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten minutes after the period, while there is still time before the invoice is final."""
    connect(db)
    use(db)
    with db.transaction() as tx:
        lane = tx.session.exec(select(LaneRow)).one()
        assert lane.id is not None
        boundaries.add(tx, [lane.id], NOON + timedelta(minutes=5), "period")
    clock.now += timedelta(minutes=14)
    assert duties.mind_periods(db, Settings()) == 0
    assert caplog.records == []
    clock.now += timedelta(minutes=2)
    with caplog.at_level(logging.ERROR):
        duties.mind_periods(db, Settings())
    (record,) = caplog.records
    assert "1 units of a billing period that has ended are not at Stripe yet" in record.getMessage()


def test_the_duties_are_named_and_paced(db: Database) -> None:
    """Each has its interval; periods are minded as often as their alarm waits."""
    settings = Settings(stripe_barrier_s=77)
    found = duties.for_all_accounts(db, settings, Ways(db, settings))
    assert [duty.interval_s for duty in found] == [1, 10, 10, 60, 77]
    assert [duty.do() for duty in found] == [0] * 5
