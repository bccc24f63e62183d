"""Entries: usage events on their way into the ledger, and what follows from them.

`enter` is the only writer of usage events. What an event is, whose it is and whether it counts is
decided before: by `store` for edges, by `tracking` for clients of the API.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, Text, bindparam, func, select
from sqlalchemy.sql.dml import ReturningInsert

from usageflow.db import exact
from usageflow.db.columns import table
from usageflow.db.exact import UtcDateTime
from usageflow.db.session import Tx
from usageflow.db.statements import insert
from usageflow.db.tables import UsageEventRow
from usageflow.ledger import folding, values, windows
from usageflow.ledger.counted import Counted
from usageflow.ledger.given import Kind, encoded, given, looked_up, prepared

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
_PLACED: Final[dict[str, Kind]] = {"seq": "whole", **_KINDS}
_ID: Final[dict[str, Kind]] = {"organization_id": "text", "id": "text"}
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
    asked = encoded(tx, _ID, [(organization_id, one) for one in ids])
    result = tx.session.execute(_fingerprints(tx), {"asked": asked})
    return {row.id: row.fingerprint for row in result}


@prepared
def _fingerprints(tx: Tx) -> Select[Any]:
    events = table(UsageEventRow)
    return select(events.c.id, events.c.fingerprint).select_from(looked_up(tx, events, _ID))


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
    stored = tx.session.scalars(
        _insert(tx),
        {
            "new": encoded(tx, _PLACED, [(seq, *entry) for seq, entry in rows]),
            "organization": organization_id,
            "now": tx.now,
        },
    )
    return [(place, placed[place]) for place in sorted(stored)]


@prepared
def _insert(tx: Tx) -> ReturningInsert[Any]:
    new = given(tx, "new", _PLACED).add_columns(
        bindparam("organization", type_=Text()), bindparam("now", type_=UtcDateTime())
    )
    names = [*_PLACED, "organization_id", "received_at"]
    statement = insert(tx, UsageEventRow).from_select(names, new)
    return statement.on_conflict_do_nothing(index_elements=["organization_id", "id"]).returning(
        table(UsageEventRow).c.seq
    )
