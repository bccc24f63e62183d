"""The ledger's door: batches of usage events come in here, and nowhere else.

An event, its customer, its window and its unit commit in the caller's transaction. What a line may
hold is `lines`'s and `usageflow.events`'s; reading back is `usage`'s.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import select

from usageflow.config import UnknownMetric
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import IngestRejectionRow, MetricRow, UsageEventRow
from usageflow.events import UsageEvent, fingerprint
from usageflow.ledger import customers, folding, windows
from usageflow.ledger.counted import Counted
from usageflow.ledger.lines import Invalid, read

REJECTED_CHARS_MAX: Final = 16_384
"""How much of a line that is not in the ledger is kept for a human; the size of a whole event."""

Values: TypeAlias = dict[str, Any]
"""One row of `usage_event` before it is stored."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one line. `id` is None if the line has none that can be read."""

    id: str | None
    status: Literal["accepted", "duplicate", "conflict", "invalid"]
    reason: str | None = None


def append(
    tx: Tx, organization_id: str, lines: Sequence[bytes], *, unknown_metric: UnknownMetric
) -> list[ItemResult]:
    """Take a batch of encoded usage events; one result for each line, in order.

    Never raises for a line: what is no event (invalid) or has the id of another event (conflict)
    is kept aside with its reason, and the others count.
    """
    items = [read(line) for line in lines]
    events: dict[str, UsageEvent] = {}
    for item in items:
        if isinstance(item, UsageEvent):
            events.setdefault(item.id, item)
    rows = _rows(tx, organization_id, events.values(), unknown_metric)
    new = _insert(tx, rows)
    counted = [_counted(row) for row in new.values() if row["state"] == "counted"]
    windows.add(tx, organization_id, counted)
    folding.assign(tx, organization_id, counted)
    known = _fingerprints(tx, organization_id, events.keys() - new.keys())
    known |= {event_id: row["fingerprint"] for event_id, row in new.items()}
    results = _results(items, set(new), known)
    _keep_aside(tx, organization_id, zip(lines, results, strict=True))
    return results


def _rows(
    tx: Tx, organization_id: str, events: Collection[UsageEvent], unknown_metric: UnknownMetric
) -> list[Values]:
    """The rows of these events; their customers and metrics exist afterwards."""
    # A gap may belong to no policy, so it makes no metric; it is a row for a human.
    named = {event.metric for event in events if event.state != "gap"}
    unknown = _unknown_metrics(tx, organization_id, named)
    barred = unknown if unknown_metric == "inbox" else set()
    rows = [_row(tx, organization_id, event, barred) for event in events]
    payers = customers.resolve(
        tx,
        organization_id,
        {_identity(row) for row in rows if row["state"] == "counted"},
    )
    for row in rows:
        row["customer_id"] = payers[_identity(row)] if row["state"] == "counted" else None
    metrics = [
        {"organization_id": organization_id, "key": key, "name": key, "created_at": tx.now}
        for key in unknown - barred
    ]
    insert_new(tx, MetricRow, metrics, key=["organization_id", "key"], give="key")
    return rows


def _unknown_metrics(tx: Tx, organization_id: str, metrics: set[str]) -> set[str]:
    rows = table(MetricRow).c
    return metrics - set(
        tx.session.scalars(
            select(rows.key).where(rows.organization_id == organization_id, rows.key.in_(metrics))
        )
    )


def _row(tx: Tx, organization_id: str, event: UsageEvent, barred: Collection[str]) -> Values:
    state, reason = event.state, event.reason
    if event.metric in barred and state in ("counted", "inbox"):
        problem = f'metric "{event.metric}" is not defined'
        state, reason = "inbox", f"{reason}; {problem}" if reason else problem
    return {
        "organization_id": organization_id,
        "id": event.id,
        "metric": event.metric,
        "quantity": event.quantity,
        "occurred_at": event.occurred_at,
        "received_at": tx.now,
        "identity_field": event.identity.field,
        "identity_value": event.identity.value,
        "policy": event.policy,
        "policy_version": event.policy_version,
        "event_name": event.event_name,
        "state": state,
        "reason": reason,
        "request_method": event.request_method,
        "request_route": event.request_route,
        "request_status": event.request_status,
        "fingerprint": fingerprint(event),
    }


def _identity(row: Values) -> customers.Identified:
    return row["identity_field"], row["identity_value"]


def _insert(tx: Tx, rows: Sequence[Values]) -> dict[str, Values]:
    """Insert the rows whose id is new; those, by id, in ledger order and with their `seq`."""
    key = ["organization_id", "id"]
    given = {row.id: row.seq for row in insert_new(tx, UsageEventRow, rows, key=key, give="seq")}
    new = [row | {"seq": given[row["id"]]} for row in rows if row["id"] in given]
    return {row["id"]: row for row in sorted(new, key=lambda row: int(row["seq"]))}


def _counted(row: Values) -> Counted:
    return Counted(**{name: row[name] for name in Counted._fields})


def _fingerprints(tx: Tx, organization_id: str, ids: Collection[str]) -> dict[str, str]:
    if not ids:
        return {}
    rows = table(UsageEventRow).c
    result = tx.session.execute(
        select(rows.id, rows.fingerprint).where(
            rows.organization_id == organization_id, rows.id.in_(ids)
        )
    )
    return {row.id: row.fingerprint for row in result}


def _results(
    items: Iterable[UsageEvent | Invalid], new: set[str], known: dict[str, str]
) -> list[ItemResult]:
    """What became of each item. Takes the ids out of `new` that it reports as accepted."""
    results = []
    for item in items:
        if isinstance(item, Invalid):
            results.append(ItemResult(item.id, "invalid", item.reason))
        elif known[item.id] != fingerprint(item):
            results.append(ItemResult(item.id, "conflict", "this id belongs to another event"))
        elif item.id in new:
            new.discard(item.id)
            results.append(ItemResult(item.id, "accepted"))
        else:
            results.append(ItemResult(item.id, "duplicate"))
    return results


def _keep_aside(tx: Tx, organization_id: str, results: Iterable[tuple[bytes, ItemResult]]) -> None:
    """Store what is not in the ledger, once however often it is sent."""
    refused = {
        hashlib.sha256(line).hexdigest(): (line, result)
        for line, result in results
        if result.status in ("conflict", "invalid")
    }
    rows = [
        {
            "organization_id": organization_id,
            "event_key": result.id,
            "body": line.decode("utf-8", "replace").replace("\0", "\ufffd")[:REJECTED_CHARS_MAX],
            "digest": digest,
            "reason": result.reason,
            "received_at": tx.now,
        }
        for digest, (line, result) in refused.items()
    ]
    key = ["organization_id", "digest"]
    insert_new(tx, IngestRejectionRow, rows, key=key, give="seq")
