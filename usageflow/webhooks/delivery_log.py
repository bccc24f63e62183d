"""What was told to whom, for people: events, deliveries and attempts, and telling them anew.

Nothing is sent here; a delivery that is to be told anew waits for its turn like any other.
"""

from typing import TypeAlias

from sqlalchemy import ColumnElement, func
from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.db.outbox_tables import (
    WebhookAttemptRow,
    WebhookDeliveryRow,
    WebhookEndpointRow,
    WebhookEventRow,
)
from usageflow.db.session import Tx
from usageflow.webhooks import endpoints

Told: TypeAlias = tuple[WebhookDeliveryRow, WebhookEventRow]


def events(
    tx: Tx, organization_id: str, *, kind: str | None = None, offset: int, limit: int
) -> tuple[list[WebhookEventRow], int]:
    """What happened, the newest first, and how much that is in all. `kind` is a type of events."""
    wanted: list[ColumnElement[bool]] = [col(WebhookEventRow.organization_id) == organization_id]
    if kind is not None:
        wanted.append(col(WebhookEventRow.type) == kind)
    rows = tx.session.exec(
        select(WebhookEventRow)
        .where(*wanted)
        .order_by(col(WebhookEventRow.seq).desc())
        .offset(offset)
        .limit(limit)
    )
    total = tx.session.exec(select(func.count()).select_from(WebhookEventRow).where(*wanted))
    return list(rows), total.one()


def event(tx: Tx, organization_id: str, event_id: str) -> WebhookEventRow | None:
    """One event."""
    return tx.session.exec(
        select(WebhookEventRow)
        .where(WebhookEventRow.organization_id == organization_id)
        .where(WebhookEventRow.id == event_id)
    ).first()


def deliveries(
    tx: Tx,
    organization_id: str,
    endpoint_id: str,
    *,
    state: str | None = None,
    offset: int,
    limit: int,
) -> tuple[list[Told], int]:
    """An endpoint's deliveries, the newest first, and how many there are in all."""
    wanted = [
        col(WebhookDeliveryRow.organization_id) == organization_id,
        col(WebhookDeliveryRow.endpoint_id) == endpoint_id,
    ]
    if state is not None:
        wanted.append(col(WebhookDeliveryRow.state) == state)
    rows = tx.session.exec(
        select(WebhookDeliveryRow, WebhookEventRow)
        .join(WebhookEventRow, col(WebhookEventRow.seq) == col(WebhookDeliveryRow.event_seq))
        .where(*wanted)
        .order_by(col(WebhookDeliveryRow.seq).desc())
        .offset(offset)
        .limit(limit)
    )
    total = tx.session.exec(select(func.count()).select_from(WebhookDeliveryRow).where(*wanted))
    return list(rows), total.one()


def delivery(tx: Tx, organization_id: str, seq: int) -> Told | None:
    """One delivery and what it tells."""
    return tx.session.exec(
        select(WebhookDeliveryRow, WebhookEventRow)
        .join(WebhookEventRow, col(WebhookEventRow.seq) == col(WebhookDeliveryRow.event_seq))
        .where(WebhookDeliveryRow.organization_id == organization_id)
        .where(WebhookDeliveryRow.seq == seq)
    ).first()


def attempts(tx: Tx, organization_id: str, delivery_seq: int) -> list[WebhookAttemptRow]:
    """The attempts of a delivery whose outcome is known, in order.

    A number that is missing was begun by a server that died before it could note the outcome.
    """
    return list(
        tx.session.exec(
            select(WebhookAttemptRow)
            .where(WebhookAttemptRow.organization_id == organization_id)
            .where(WebhookAttemptRow.delivery_seq == delivery_seq)
            .order_by(col(WebhookAttemptRow.number))
        )
    )


def replay(tx: Tx, organization_id: str, delivery_seq: int, *, actor: Actor) -> Told | Refused:
    """Tell it anew: what still waits is tried at once, what is over is a new delivery."""
    found = delivery(tx, organization_id, delivery_seq)
    if found is None:
        return Refused("not_found", f"there is no delivery {delivery_seq}")
    old, what = found
    endpoint = _ready(tx, organization_id, old.endpoint_id)
    if isinstance(endpoint, Refused):
        return endpoint
    tx.session.refresh(old)  # its endpoint is ours from here on
    if old.state == "pending":
        old.next_at = endpoint.blocked_until = tx.now
        again = old
    else:
        again = _again(tx, endpoint, what)
    return _noted(tx, again, what, actor)


def replay_event(
    tx: Tx, organization_id: str, event_id: str, endpoint_id: str, *, actor: Actor
) -> Told | Refused:
    """Tell an event to an endpoint, whether it was told it before or not."""
    what = event(tx, organization_id, event_id)
    if what is None:
        return Refused("not_found", f"there is no event {event_id}")
    endpoint = _ready(tx, organization_id, endpoint_id)
    if isinstance(endpoint, Refused):
        return endpoint
    return _noted(tx, _again(tx, endpoint, what), what, actor)


def _ready(tx: Tx, organization_id: str, endpoint_id: str) -> WebhookEndpointRow | Refused:
    """The endpoint, locked, if it can be told something."""
    found = endpoints.find(tx, organization_id, endpoint_id, locked=True)
    if found is None:
        return endpoints.missing(endpoint_id)
    return found if found.enabled else endpoints.disabled(endpoint_id)


def _again(tx: Tx, endpoint: WebhookEndpointRow, what: WebhookEventRow) -> WebhookDeliveryRow:
    """A new delivery, behind those that wait."""
    before = tx.session.exec(
        select(func.max(WebhookDeliveryRow.replay))
        .where(WebhookDeliveryRow.organization_id == endpoint.organization_id)
        .where(WebhookDeliveryRow.endpoint_id == endpoint.id)
        .where(WebhookDeliveryRow.event_seq == what.seq)
    ).one()
    row = WebhookDeliveryRow(
        organization_id=endpoint.organization_id,
        endpoint_id=endpoint.id,
        event_seq=what.seq or 0,
        # 0 is the fan-out's, which may be about to come
        replay=(before or 0) + 1,
        state="pending",
        next_at=tx.now,
        created_at=tx.now,
    )
    tx.session.add(row)
    tx.session.flush()
    return row


def _noted(tx: Tx, row: WebhookDeliveryRow, what: WebhookEventRow, actor: Actor) -> Told:
    audit.record(
        tx,
        row.organization_id,
        actor=actor,
        action="webhook.replay",
        subject=row.endpoint_id,
        after={"event": what.id, "delivery": row.seq},
    )
    return row, what
