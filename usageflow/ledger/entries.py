"""Entries: usage events on their way into the ledger, and what follows from them.

`enter` is the only writer of usage events. What an event is, whose it is and whether it counts is
decided before: by `store` for edges, by `tracking` for clients of the API.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy import func, literal, select

from usageflow.db import exact
from usageflow.db.columns import table
from usageflow.db.exact import UtcDateTime
from usageflow.db.session import Tx
from usageflow.db.statements import insert
from usageflow.db.tables import UsageEventRow
from usageflow.ledger import folding, values, windows
from usageflow.ledger.counted import Counted
from usageflow.ledger.given import Kind, given, looked_up

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Entry(NamedTuple):
    """One row of `usage_event` before it has a place: see `UsageEventRow`.

    With state `counted` it has a quantity, a customer and an identity value.
    """

    id: str
    metric: str
    quantity: Decimal | None
    occurred_at: datetime
    identity_field: str
    identity_value: str | None
    state: str
    fingerprint: str
    customer_id: str | None = None
    reason: str | None = None
    policy: str = ""
    policy_version: str = ""
    event_name: str | None = None
    request_method: str = ""
    request_route: str = ""
    request_status: int | None = None
    idempotency_key: str | None = None
    metadata: str | None = None
    unique_value: str | None = None


_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(Entry._fields, "text"),
    "quantity": "decimal",
    "occurred_at": "instant",
    "request_status": "whole",
}
_COLUMNS: Final = ("seq", "organization_id", "received_at", *Entry._fields)
_ON_SQLITE: Final = (
    f"INSERT INTO usage_event ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of our own
    f"VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (organization_id, id) DO NOTHING"
)


def enter(tx: Tx, organization_id: str, entries: Sequence[Entry]) -> set[str]:
    """Store those whose id is not there yet, in their order, each id once; the ids of these.

    Windows, values and units have them as well afterwards.
    """
    if not entries:
        return set()
    store = _on_sqlite if tx.dialect == "sqlite" else _on_postgresql
    new = store(tx, organization_id, entries)
    counted = [
        Counted(
            seq,
            entry.customer_id or "",
            entry.metric,
            entry.quantity,
            entry.occurred_at,
            entry.identity_field,
            entry.identity_value or "",
            entry.event_name,
            entry.unique_value,
        )
        for seq, entry in new
        if entry.state == "counted" and entry.quantity is not None
    ]
    windows.add(tx, organization_id, counted)
    values.add(tx, organization_id, counted)
    folding.assign(tx, organization_id, counted)
    return {entry.id for _, entry in new}


def known(tx: Tx, organization_id: str, ids: Collection[str]) -> dict[str, str]:
    """The fingerprints, by id, of those events that are in the ledger."""
    if not ids:
        return {}
    events = table(UsageEventRow)
    there = looked_up(tx, organization_id, events, {"id": "text"}, [(one,) for one in ids])
    result = tx.session.execute(select(events.c.id, events.c.fingerprint).select_from(there))
    return {row.id: row.fingerprint for row in result}


def _on_sqlite(tx: Tx, organization_id: str, entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
    """Nobody else writes meanwhile, so their places can be told beforehand.

    With the driver's own statement, which costs a third of what a row takes otherwise.
    """
    events = table(UsageEventRow).c
    last = tx.session.execute(select(func.max(events.seq))).scalar() or 0
    placed = list(enumerate(entries, start=last + 1))
    now = _microseconds(tx.now)
    rows = [
        (
            seq,
            organization_id,
            now,
            *entry[:2],
            None if entry.quantity is None else exact.plain(entry.quantity),
            _microseconds(entry.occurred_at),
            *entry[4:],
        )
        for seq, entry in placed
    ]
    stored = tx.session.connection().exec_driver_sql(_ON_SQLITE, rows).rowcount
    if stored == len(rows):
        return placed
    new = set(tx.session.scalars(select(events.seq).where(events.seq > last)))
    return [(seq, entry) for seq, entry in placed if seq in new]


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def _on_postgresql(
    tx: Tx, organization_id: str, entries: Sequence[Entry]
) -> list[tuple[int, Entry]]:
    """In one statement, in the order of their ids: it waits for another transaction that inserts
    the same id, and no two wait for each other. Their places are taken beforehand, in their order.
    """
    places = tx.session.scalars(
        select(func.nextval("usage_event_seq_seq")).select_from(
            func.generate_series(1, len(entries))
        )
    )
    placed = dict(zip(places, entries, strict=True))
    rows = sorted(placed.items(), key=lambda place: place[1].id)
    new = given(tx, "new", {"seq": "whole", **_KINDS}, [(seq, *entry) for seq, entry in rows])
    new = new.add_columns(literal(organization_id), literal(tx.now, UtcDateTime()))
    names = ["seq", *Entry._fields, "organization_id", "received_at"]
    seq = table(UsageEventRow).c.seq
    statement = insert(tx, UsageEventRow).from_select(names, new)
    stored = tx.session.scalars(
        statement.on_conflict_do_nothing(index_elements=["organization_id", "id"]).returning(seq)
    )
    return [(place, placed[place]) for place in sorted(stored)]
