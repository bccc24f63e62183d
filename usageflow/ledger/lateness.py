"""Until when usage may still come: some hours after the end of the period it lies in.

A period is that of a subscription: its current one, or an earlier one, which has an invoice. Usage
that lies in none belongs to its month of UTC. Reads only.
"""

from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, select, true, union_all

from usageflow.db.billing_tables import InvoiceRow, SubscriptionRow
from usageflow.db.columns import Row, table
from usageflow.db.session import Tx
from usageflow.ledger.given import Kind, looked_up
from usageflow.periods import Period

_CUSTOMER: Final[dict[str, Kind]] = {"organization_id": "text", "customer_id": "text"}


def periods_of(tx: Tx, organization_id: str, customers: Collection[str]) -> dict[str, list[Period]]:
    """The billing periods of these customers that there are or were, in no order."""
    found: dict[str, list[Period]] = defaultdict(list)
    if customers:
        asked = [
            _periods(tx, organization_id, row, customers) for row in (SubscriptionRow, InvoiceRow)
        ]
        for customer_id, start, end in tx.session.execute(union_all(*asked)):
            found[customer_id].append(Period(start, end))
    return found


def ends(at: datetime, periods: Collection[Period]) -> datetime:
    """When the period ends in which this moment lies; the latest, if it lies in several."""
    return max((period.end for period in periods if period.contains(at)), default=_month_end(at))


def is_late(at: datetime, periods: Collection[Period], late_hours: int, now: datetime) -> bool:
    """Whether usage of this moment comes too late."""
    return now > ends(at, periods) + timedelta(hours=late_hours)


def _month_end(at: datetime) -> datetime:
    month = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (month + timedelta(days=32)).replace(day=1)


def _periods(
    tx: Tx, organization_id: str, row: type[Row], customers: Collection[str]
) -> Select[Any]:
    rows = table(row)
    asked = [(organization_id, customer_id) for customer_id in customers]
    there = looked_up(tx, rows, _CUSTOMER, asked, name=f"{rows.name}_of")
    return (
        select(rows.c.customer_id, rows.c.period_start, rows.c.period_end)
        .select_from(there)
        .where(rows.c.kind == "period" if row is InvoiceRow else true())
    )
