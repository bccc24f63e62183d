"""Values: what the metrics of aggregation UNIQUE_COUNT saw, per customer, metric and UTC hour.

Kept beside the windows, in the same transactions, and derived like them (`derived`).
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, TypeAlias

from sqlalchemy import Text, bindparam, delete, select, true
from sqlalchemy.dialects import postgresql

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import insert
from usageflow.db.tables import UsageValueRow
from usageflow.ledger.counted import Counted
from usageflow.ledger.given import Kind, encoded, given, prepared
from usageflow.periods import hour_start


class Value(NamedTuple):
    """What one row is about."""

    customer_id: str
    metric: str
    hour: datetime
    value: str


Tally: TypeAlias = dict[Value, int]
"""How many events told each value."""


class Difference(NamedTuple):
    """A value that is not as its events have it. None: it is missing, or should be."""

    value: Value
    stored: int | None
    expected: int | None


_COLUMNS: dict[str, Kind] = {
    "customer_id": "text",
    "metric": "text",
    "hour": "instant",
    "value": "text",
    "events": "whole",
}


def fold(events: Iterable[Counted]) -> Tally:
    """The values that these events tell."""
    return Counter(
        Value(event.customer_id, event.metric, hour_start(event.occurred_at), event.unique_value)
        for event in events
        if event.unique_value is not None
    )


def add(tx: Tx, organization_id: str, events: Iterable[Counted]) -> None:
    """Add what new events tell. In one order everywhere, as windows."""
    put(tx, organization_id, fold(events))


def put(tx: Tx, organization_id: str, tally: Tally) -> None:
    """Add to what is there."""
    if not tally:
        return
    rows = [(*value, tally[value]) for value in sorted(tally)]
    new = {"new": encoded(tx, _COLUMNS, rows), "organization": organization_id}
    tx.session.execute(_add(tx), new)


@prepared
def _add(tx: Tx) -> postgresql.Insert:
    new = given(tx, "new", _COLUMNS).add_columns(bindparam("organization", type_=Text()))
    statement = insert(tx, UsageValueRow).from_select(
        [*_COLUMNS, "organization_id"], new.where(true())
    )
    stored = table(UsageValueRow).c
    return statement.on_conflict_do_update(
        index_elements=["organization_id", *Value._fields],
        set_={"events": stored.events + statement.excluded.events},
    )


def totals(tx: Tx, organization_id: str) -> Tally:
    """Every value of the organization."""
    rows = table(UsageValueRow).c
    result = tx.session.execute(
        select(*(rows[name] for name in (*Value._fields, "events"))).where(
            rows.organization_id == organization_id
        )
    )
    return {Value(*row[:-1]): row[-1] for row in result}


def differences(stored: Tally, expected: Tally) -> list[Difference]:
    """Where the two differ, in order."""
    return [
        Difference(value, stored.get(value), expected.get(value))
        for value in sorted(stored.keys() | expected.keys())
        if stored.get(value) != expected.get(value)
    ]


def clear(tx: Tx, organization_id: str) -> None:
    """Forget every value of the organization, to `put` the right ones."""
    rows = table(UsageValueRow)
    tx.session.execute(delete(rows).where(rows.c.organization_id == organization_id))
