"""Which events count, and in which order they are read."""

from decimal import Decimal
from typing import TYPE_CHECKING

from usageflow.ledger.counted import Counted, select_counted

if TYPE_CHECKING:
    from tests.ledger.conftest import Ledger, LineOf


def test_only_counted_events_are_read_in_ledger_order(ledger: "Ledger", line: "LineOf") -> None:
    """Inbox, shadow, skipped and gap events are not among them."""
    ledger.append(line(quantity=1), line(quantity=2))
    states = ["inbox", "shadow", "skipped", "gap"]
    ledger.append(line(quantity=3), *(line(quantity=9, state=state) for state in states))
    with ledger.database.reading() as tx:
        events = [
            Counted(*row) for row in tx.session.execute(select_counted(ledger.organization_id))
        ]
    assert [event.quantity for event in events] == [Decimal(1), Decimal(2), Decimal(3)]
    assert events == sorted(events)
