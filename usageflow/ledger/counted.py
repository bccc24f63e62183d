"""A counted usage event as windows and units need it. Only `entries` makes them from new events."""

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Select, select

from usageflow.db.columns import table
from usageflow.db.tables import UsageEventRow


class Counted(NamedTuple):
    """One event of state `counted`, complete as its CHECK demands; `seq` is its place.

    `unique_value` is what a metric of aggregation UNIQUE_COUNT tells apart, None for any other.
    """

    seq: int
    customer_id: str
    metric: str
    quantity: Decimal
    occurred_at: datetime
    identity_field: str
    identity_value: str
    event_name: str | None
    unique_value: str | None = None


def select_counted(organization_id: str) -> Select[Any]:
    """Rows for `Counted(*row)`, every one of the organization, in ledger order."""
    events = table(UsageEventRow)
    return (
        select(*(events.c[name] for name in Counted._fields))
        .where(events.c.organization_id == organization_id, events.c.state == "counted")
        .order_by(events.c.seq)
    )
