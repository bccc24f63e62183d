"""From an event to its deliveries: one for each endpoint that wants it, once, in order.

Nothing is sent here.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import update
from sqlmodel import col, select

from usageflow.db.columns import table
from usageflow.db.outbox_tables import WebhookDeliveryRow, WebhookEndpointRow, WebhookEventRow
from usageflow.db.session import Database, Tx
from usageflow.db.statements import among, insert
from usageflow.webhooks.endpoints import wanted

EVENTS_MAX: Final = 500
"""Events in one transaction: the closing of a period may make tens of thousands."""


def fan_out_due(db: Database) -> int:
    """Fan out what is there, at most EVENTS_MAX events; how many."""
    with db.transaction() as tx:
        return fan_out(tx)


def fan_out(tx: Tx, *, events_max: int = EVENTS_MAX) -> int:
    """Make the deliveries of the oldest events without; how many events these were.

    Endpoints that are disabled or deleted now get none. Who does the same at the same time waits
    for the oldest event's lock and finds them done: so deliveries are made in the order of events.
    """
    events = list(
        tx.session.exec(
            select(WebhookEventRow)
            .where(col(WebhookEventRow.fanned_out_at).is_(None))
            .order_by(col(WebhookEventRow.seq))
            .limit(events_max)
            .with_for_update()
        )
    )
    if not events:
        return 0
    if deliveries := list(_deliveries(tx, events)):
        tx.session.execute(insert(tx, WebhookDeliveryRow), deliveries)
    rows = table(WebhookEventRow)
    tx.session.execute(
        update(rows)
        .where(among(tx, rows.c.seq, [event.seq or 0 for event in events]))
        .values(fanned_out_at=tx.now)
    )
    return len(events)


def _deliveries(tx: Tx, events: Iterable[WebhookEventRow]) -> Iterator[dict[str, Any]]:
    endpoints = _endpoints(tx, {event.organization_id for event in events})
    for event in events:
        for endpoint_id, types in endpoints[event.organization_id]:
            if _wants(endpoint_id, types, event):
                yield {
                    "organization_id": event.organization_id,
                    "endpoint_id": endpoint_id,
                    "event_seq": event.seq,
                    "replay": 0,
                    "state": "pending",
                    "attempts": 0,
                    "next_at": tx.now,
                    "created_at": tx.now,
                }


def _wants(endpoint_id: str, types: list[str], event: WebhookEventRow) -> bool:
    if event.endpoint_id is not None:
        return event.endpoint_id == endpoint_id
    return not types or event.type in types


def _endpoints(tx: Tx, organization_ids: set[str]) -> dict[str, list[tuple[str, list[str]]]]:
    """Ids and types of the enabled endpoints, by organization."""
    found: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    rows = tx.session.exec(
        select(WebhookEndpointRow)
        .where(col(WebhookEndpointRow.organization_id).in_(organization_ids))
        .where(col(WebhookEndpointRow.enabled), col(WebhookEndpointRow.deleted_at).is_(None))
        .order_by(col(WebhookEndpointRow.id))
    )
    for row in rows:
        found[row.organization_id].append((row.id, wanted(row)))
    return found
