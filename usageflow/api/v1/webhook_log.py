"""/api/v1/webhook-events and -deliveries: what happened, who was told it, and telling it anew."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Path, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog.refusals import Refused
from usageflow.db.outbox_tables import WebhookAttemptRow, WebhookDeliveryRow, WebhookEventRow
from usageflow.webhooks import delivery_log, endpoints

router = v1_router("webhooks")

State = Literal["pending", "delivered", "failed", "cancelled"]
DeliveryId = Annotated[int, Path(ge=1, le=2**63 - 1)]

_decoder: Final = msgspec.json.Decoder(float_hook=Decimal)


class EventReplay(Body):
    """Whom to tell an event."""

    endpoint_id: Id


class EventOut(Answer):
    """Something that happened; `body` is what is told of it."""

    id: str
    type: str
    created_at: datetime
    body: dict[str, Any]


class DeliveryOut(Answer):
    """An event on its way to an endpoint. `replay`: how often it was asked for anew."""

    id: int
    endpoint_id: str
    event_id: str
    type: str
    state: State
    replay: int
    attempts: int
    next_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    ended_at: datetime | None


class AttemptOut(Answer):
    """One try, and the beginning of what was answered."""

    number: int
    at: datetime
    status: int | None
    error: str | None
    duration_ms: int
    answer: str


class DeliveryDetails(DeliveryOut):
    """A delivery with what it tells and its attempts."""

    body: dict[str, Any]
    log: list[AttemptOut]


@router.get("/webhooks/{endpoint}/deliveries", response_model=Listed[DeliveryOut])
def list_deliveries(
    *,
    endpoint: Id,
    access: Annotated[Access, needs("webhooks.read")],
    rest: RestDep,
    page: PageDep,
    state: State | None = None,
) -> Response:
    """What an endpoint is told, the newest first."""
    with rest.db.reading() as tx:
        if endpoints.find(tx, access.organization_id, endpoint) is None:
            refusal(endpoints.missing(endpoint))
        found, total = delivery_log.deliveries(
            tx,
            access.organization_id,
            endpoint,
            state=state,
            offset=page.offset,
            limit=page.limit,
        )
        return listed([DeliveryOut(**_delivery(*one)) for one in found], total, page)


@router.get("/webhook-deliveries/{delivery}", response_model=DeliveryDetails)
def read_delivery(
    delivery: DeliveryId, access: Annotated[Access, needs("webhooks.read")], rest: RestDep
) -> Response:
    """One delivery, with what it tells and the log of its attempts."""
    with rest.db.reading() as tx:
        found = delivery_log.delivery(tx, access.organization_id, delivery)
        if found is None:
            refusal(Refused("not_found", f"there is no delivery {delivery}"))
        log = delivery_log.attempts(tx, access.organization_id, delivery)
        return answer(
            DeliveryDetails(
                **_delivery(*found), body=_body(found[1]), log=[_attempt(one) for one in log]
            )
        )


@router.post("/webhook-deliveries/{delivery}/replay", response_model=DeliveryOut, status_code=202)
def replay_delivery(
    delivery: DeliveryId, access: Annotated[Access, needs("webhooks.write")], rest: RestDep
) -> Response:
    """Tell it anew: what waits is tried at once, what is over becomes a new delivery."""
    with rest.db.transaction() as tx:
        again = delivery_log.replay(tx, access.organization_id, delivery, actor=access.actor)
        if isinstance(again, Refused):
            refusal(again)
        content = answer(DeliveryOut(**_delivery(*again)), 202)
    rest.on_billing()
    return content


@router.get("/webhook-events", response_model=Listed[EventOut])
def list_events(
    *,
    access: Annotated[Access, needs("webhooks.read")],
    rest: RestDep,
    page: PageDep,
    type: Id | None = None,  # noqa: A002 - the name it has in the query
) -> Response:
    """What happened, the newest first."""
    with rest.db.reading() as tx:
        rows, total = delivery_log.events(
            tx, access.organization_id, kind=type, offset=page.offset, limit=page.limit
        )
        return listed([_event(row) for row in rows], total, page)


@router.get("/webhook-events/{event}", response_model=EventOut)
def read_event(
    event: Id, access: Annotated[Access, needs("webhooks.read")], rest: RestDep
) -> Response:
    """One event."""
    with rest.db.reading() as tx:
        row = delivery_log.event(tx, access.organization_id, event)
        if row is None:
            refusal(Refused("not_found", f"there is no event {event}"))
        return answer(_event(row))


@router.post("/webhook-events/{event}/replay", response_model=DeliveryOut, status_code=202)
def replay_event(
    event: Id,
    body: EventReplay,
    access: Annotated[Access, needs("webhooks.write")],
    rest: RestDep,
) -> Response:
    """Tell an event to an endpoint, whether it was told it before or not."""
    with rest.db.transaction() as tx:
        again = delivery_log.replay_event(
            tx, access.organization_id, event, body.endpoint_id, actor=access.actor
        )
        if isinstance(again, Refused):
            refusal(again)
        content = answer(DeliveryOut(**_delivery(*again)), 202)
    rest.on_billing()
    return content


def _delivery(row: WebhookDeliveryRow, event: WebhookEventRow) -> dict[str, Any]:
    return {
        "id": row.seq,
        "endpoint_id": row.endpoint_id,
        "event_id": event.id,
        "type": event.type,
        "state": row.state,
        "replay": row.replay,
        "attempts": row.attempts,
        "next_at": row.next_at if row.state == "pending" else None,
        "last_status": row.last_status,
        "last_error": row.last_error,
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }


def _attempt(row: WebhookAttemptRow) -> AttemptOut:
    return AttemptOut(
        number=row.number,
        at=row.at,
        status=row.status,
        error=row.error,
        duration_ms=row.duration_ms,
        answer=row.answer,
    )


def _event(row: WebhookEventRow) -> EventOut:
    return EventOut(id=row.id, type=row.type, created_at=row.created_at, body=_body(row))


def _body(row: WebhookEventRow) -> dict[str, Any]:
    content: dict[str, Any] = _decoder.decode(row.body)
    return content
