"""The ledger's door for edges: batches of usage events, line by line.

What a line may hold is `lines`'s and `usageflow.events`'s; what becomes of an event is `entries`'s;
reading back is `usage`'s. Everything commits in the caller's transaction.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Select, select

from usageflow.config import UnknownMetric
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import IngestRejectionRow, MetricRow
from usageflow.events import UsageEvent, fingerprint
from usageflow.ledger import customers, entries
from usageflow.ledger.entries import Entry
from usageflow.ledger.given import Kind, encoded, looked_up, prepared
from usageflow.ledger.lines import Invalid, read

REJECTED_CHARS_MAX: Final = 16_384
"""How much of a line that is not in the ledger is kept for a human; the size of a whole event."""
_KEY: Final[dict[str, Kind]] = {"organization_id": "text", "key": "text"}


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
    rows = _entries(tx, organization_id, events.values(), unknown_metric)
    new = entries.enter(tx, organization_id, rows)
    known = entries.known(tx, organization_id, events.keys() - new)
    known |= {row.id: row.fingerprint for row in rows if row.id in new}
    results = _results(items, events, known, new)
    _keep_aside(tx, organization_id, zip(lines, results, strict=True))
    return results


def _entries(
    tx: Tx, organization_id: str, events: Collection[UsageEvent], unknown_metric: UnknownMetric
) -> list[Entry]:
    """The entries of these events; their customers and metrics exist afterwards."""
    # A gap may belong to no policy, so it makes no metric; it is a row for a human.
    named = {event.metric for event in events if event.state != "gap"}
    aggregations = _aggregations(tx, organization_id, named)
    unknown = named - aggregations.keys()
    barred = unknown if unknown_metric == "inbox" else set()
    rows = [_entry(event, barred, aggregations) for event in events]
    payers = customers.resolve(
        tx, organization_id, {_identity(row) for row in rows if row.state == "counted"}
    )
    metrics = [
        {"organization_id": organization_id, "key": key, "name": key, "created_at": tx.now}
        for key in unknown - barred
    ]
    insert_new(tx, MetricRow, metrics, key=["organization_id", "key"], give="key")
    return [
        row._replace(customer_id=payers[_identity(row)]) if row.state == "counted" else row
        for row in rows
    ]


def _aggregations(tx: Tx, organization_id: str, metrics: Collection[str]) -> dict[str, str]:
    """How each of these metrics aggregates; unknown ones are missing."""
    if not metrics:
        return {}
    asked = encoded(tx, _KEY, [(organization_id, key) for key in metrics])
    found = tx.session.execute(_metrics(tx), {"asked": asked})
    return {row.key: row.aggregation for row in found}


@prepared
def _metrics(tx: Tx) -> Select[Any]:
    rows = table(MetricRow)
    return select(rows.c.key, rows.c.aggregation).select_from(looked_up(tx, rows, _KEY))


def _entry(event: UsageEvent, barred: Collection[str], aggregations: Mapping[str, str]) -> Entry:
    """Without its customer. Metrics that tell values apart are told the identity's."""
    state, reason = event.state, event.reason
    if event.metric in barred and state in ("counted", "inbox"):
        problem = f'metric "{event.metric}" is not defined'
        state, reason = "inbox", f"{reason}; {problem}" if reason else problem
    tells_apart = aggregations.get(event.metric) == "UNIQUE_COUNT"
    return Entry(
        id=event.id,
        metric=event.metric,
        quantity=event.quantity,
        occurred_at=event.occurred_at,
        identity_field=event.identity.field,
        identity_value=event.identity.value,
        state=state,
        fingerprint=fingerprint(event),
        reason=reason,
        policy=event.policy,
        policy_version=event.policy_version,
        event_name=event.event_name,
        request_method=event.request_method,
        request_route=event.request_route,
        request_status=event.request_status,
        unique_value=event.identity.value if tells_apart else None,
    )


def _identity(row: Entry) -> customers.Identified:
    return row.identity_field, row.identity_value or ""


def _results(
    items: Iterable[UsageEvent | Invalid],
    first: Mapping[str, UsageEvent],
    known: Mapping[str, str],
    new: Collection[str],
) -> list[ItemResult]:
    """What became of each item; of several with one id that is new, the first was accepted."""
    results = []
    for item in items:
        if isinstance(item, Invalid):
            results.append(ItemResult(item.id, "invalid", item.reason))
        elif first[item.id] is item and item.id in new:
            results.append(ItemResult(item.id, "accepted"))
        elif known[item.id] != fingerprint(item):
            results.append(ItemResult(item.id, "conflict", "this id belongs to another event"))
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
