"""Windows and values are what the events add up to, and can be made again from them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import delete, update

from usageflow.db.columns import table
from usageflow.db.tables import CustomerRow, UsageValueRow, UsageWindowRow
from usageflow.ledger import derived, values, windows
from usageflow.ledger.values import Value
from usageflow.ledger.windows import Sum, Window

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ONE = Sum(Decimal(1), 1, Decimal(1), Decimal(1), NOON, 1, Decimal(0))


def filled(ledger: "Ledger", line: "LineOf") -> str:
    """One event that tells a value, and a few of another customer; the id of the first one's."""
    ledger.declare({"UNIQUE_COUNT": "ACTIVE_USER"})
    ledger.append(line(customer="a", metric="ACTIVE_USER"))
    ledger.append(*(line(customer="b", quantity=n) for n in range(3)))
    return {row.external_id: str(row.id) for row in ledger.rows(CustomerRow)}["a"]


def test_what_is_wrong_is_found_and_made_right(ledger: "Ledger", line: "LineOf") -> None:
    """`verify` tells what is stored and what should be; `rebuild` leaves nothing to tell."""
    payer, wrong, lost = filled(ledger, line), table(UsageWindowRow), table(UsageValueRow)
    with ledger.database.transaction() as tx:
        assert derived.verify(tx, ledger.organization_id) == []
        change = update(wrong).where(wrong.c.customer_id == payer)
        tx.session.execute(change.values(total=Decimal(9), metric="GHOST"))
        tx.session.execute(delete(lost))
    with ledger.database.reading() as tx:
        assert derived.verify(tx, ledger.organization_id) == [
            windows.Difference(Window(payer, "ACTIVE_USER", NOON), None, ONE),
            windows.Difference(Window(payer, "GHOST", NOON), ONE._replace(total=Decimal(9)), None),
            values.Difference(Value(payer, "ACTIVE_USER", NOON, "a"), None, 1),
        ]
    with ledger.database.transaction() as tx:
        derived.rebuild(tx, ledger.organization_id)
    with ledger.database.reading() as tx:
        assert derived.verify(tx, ledger.organization_id) == []
        assert len(windows.totals(tx, ledger.organization_id)) == 2
        assert len(values.totals(tx, ledger.organization_id)) == 1


def test_what_was_counted_twice_is_counted_once_again(ledger: "Ledger", line: "LineOf") -> None:
    """Nothing of what was wrong is left in what is made again."""
    filled(ledger, line)
    with ledger.database.transaction() as tx:
        for row in (UsageWindowRow, UsageValueRow):
            tx.session.execute(update(table(row)).values(events=7))
        assert len(derived.verify(tx, ledger.organization_id)) == 3
        derived.rebuild(tx, ledger.organization_id)
        assert derived.verify(tx, ledger.organization_id) == []


def test_rebuilding_nothing_is_nothing(ledger: "Ledger") -> None:
    """An empty ledger has no windows."""
    with ledger.database.transaction() as tx:
        derived.rebuild(tx, ledger.organization_id)
        assert windows.totals(tx, ledger.organization_id) == {}


def test_late_events_come_to_their_own_hour(ledger: "Ledger", line: "LineOf") -> None:
    """An event that tells of last week is added to last week's window, and verified there."""
    ledger.append(line())
    ledger.append(line(occurred_at=NOON - timedelta(days=7)))
    with ledger.database.reading() as tx:
        assert derived.verify(tx, ledger.organization_id) == []
        hours = {window.hour for window in windows.totals(tx, ledger.organization_id)}
    assert hours == {NOON, NOON - timedelta(days=7)}
