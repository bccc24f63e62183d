"""What is derived from the events, windows and values: compared with them, and made again.

Nothing is lost with them: the events are what was.
"""

from collections.abc import Iterator

from sqlalchemy import text

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import UsageEventRow
from usageflow.ledger import values, windows
from usageflow.ledger.counted import Counted, select_counted


def verify(tx: Tx, organization_id: str) -> list[windows.Difference | values.Difference]:
    """Where windows or values differ from what their events add up to; nowhere if all is well."""
    of_windows = windows.differences(
        windows.totals(tx, organization_id), windows.fold(_events(tx, organization_id))
    )
    of_values = values.differences(
        values.totals(tx, organization_id), values.fold(_telling(tx, organization_id))
    )
    return [*of_windows, *of_values]


def rebuild(tx: Tx, organization_id: str) -> None:
    """Make every window and value of the organization again. Ingest waits meanwhile."""
    if tx.dialect == "postgresql":
        # After this, every other transaction has either added its events to the windows and is
        # committed, or will add them after us; values are added after windows.
        tx.session.execute(text("LOCK TABLE usage_window IN SHARE ROW EXCLUSIVE MODE"))
    windows.clear(tx, organization_id)
    windows.put(tx, organization_id, windows.fold(_events(tx, organization_id)))
    values.clear(tx, organization_id)
    values.put(tx, organization_id, values.fold(_telling(tx, organization_id)))


def _events(tx: Tx, organization_id: str) -> Iterator[Counted]:
    rows = tx.session.execute(select_counted(organization_id).execution_options(yield_per=5_000))
    return (Counted(*row) for row in rows)


def _telling(tx: Tx, organization_id: str) -> Iterator[Counted]:
    """The events that tell a value."""
    telling = select_counted(organization_id).where(
        table(UsageEventRow).c.unique_value.is_not(None)
    )
    rows = tx.session.execute(telling.execution_options(yield_per=5_000))
    return (Counted(*row) for row in rows)
