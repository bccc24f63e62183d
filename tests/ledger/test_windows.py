"""Windows are the sum of their events, and can be made again from them."""

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import update

from usageflow.db.columns import table
from usageflow.db.tables import CustomerRow, UsageWindowRow
from usageflow.ledger import windows
from usageflow.ledger.windows import Difference, Sum, Window

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def filled(ledger: "Ledger", line: "LineOf") -> dict[str, str]:
    """Append events of two customers, two metrics and two hours; customer id by name."""
    noon = ledger.clock.now
    ledger.append(
        line(customer="a", quantity="0.1"),
        line(customer="a", quantity="0.2", occurred_at=noon + timedelta(minutes=59, seconds=59)),
        line(customer="a", quantity=5, occurred_at=noon + timedelta(hours=1)),
        line(customer="a", quantity=7, metric="TOKEN"),
        line(customer="b", quantity=0),
    )
    return {row.external_id: row.id for row in ledger.rows(CustomerRow)}


def test_events_add_up_per_customer_metric_and_hour(ledger: "Ledger", line: "LineOf") -> None:
    """The hour is half-open and UTC; 0 is an event like any other."""
    ids, noon = filled(ledger, line), ledger.clock.now
    ledger.append(line(customer="a", quantity=10))
    with ledger.database.reading() as tx:
        assert windows.totals(tx, ledger.organization_id) == {
            Window(ids["a"], "API_CALL", noon): Sum(Decimal("10.3"), 3),
            Window(ids["a"], "API_CALL", noon + timedelta(hours=1)): Sum(Decimal(5), 1),
            Window(ids["a"], "TOKEN", noon): Sum(Decimal(7), 1),
            Window(ids["b"], "API_CALL", noon): Sum(Decimal(0), 1),
        }


def test_a_wrong_window_is_found_and_made_right(ledger: "Ledger", line: "LineOf") -> None:
    """`verify` tells what is stored and what should be; `rebuild` leaves nothing to tell."""
    ids, noon = filled(ledger, line), ledger.clock.now
    wrong = table(UsageWindowRow)
    with ledger.database.transaction() as tx:
        assert windows.verify(tx, ledger.organization_id) == []
        change = update(wrong).where(wrong.c.customer_id == ids["b"])
        tx.session.execute(change.values(total=Decimal(1), metric="GHOST"))
    with ledger.database.reading() as tx:
        assert sorted(windows.verify(tx, ledger.organization_id)) == [
            Difference(Window(ids["b"], "API_CALL", noon), None, Sum(Decimal(0), 1)),
            Difference(Window(ids["b"], "GHOST", noon), Sum(Decimal(1), 1), None),
        ]
    with ledger.database.transaction() as tx:
        windows.rebuild(tx, ledger.organization_id)
    with ledger.database.reading() as tx:
        assert windows.verify(tx, ledger.organization_id) == []
        assert len(windows.totals(tx, ledger.organization_id)) == 4


def test_rebuilding_nothing_is_nothing(ledger: "Ledger") -> None:
    """An empty ledger has no windows."""
    with ledger.database.transaction() as tx:
        windows.rebuild(tx, ledger.organization_id)
        assert windows.totals(tx, ledger.organization_id) == {}
