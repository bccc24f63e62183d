"""/api/v1/events and the events of meters: what was told, one by one.

Events are never changed here; how a list of what needs a human is worked off is the inbox's.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Query, Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Exact, Id, Number, answer
from usageflow.api.moments import Moment
from usageflow.api.paging import PAGE_SIZE, PAGE_SIZE_MAX, Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog import customers, metrics
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.tables import MetricRow, UsageEventRow
from usageflow.ledger import history
from usageflow.ledger.history import Story, Wanted

router = v1_router("events")
meters = v1_router("meters")
routers = [router, meters]

Reader = Annotated[Access, needs("usage.read")]
State = Literal["counted", "inbox", "shadow", "skipped", "gap"]
_CURSOR: Final = r"^[0-9]{1,18}$"
_metadata: Final = msgspec.json.Decoder(float_hook=Decimal)
"""Metadata is told as it was sent, its numbers with every digit."""


class EventOut(Answer):
    """A usage event."""

    id: str
    metric: str
    customer_id: str | None
    quantity: Number | None
    state: State
    reason: str | None
    occurred_at: datetime
    received_at: datetime
    idempotency_key: str | None
    metadata: dict[str, Any] | None


class EventsMeta(Answer):
    """Where the list goes on: `cursor` of the next request; none at its end."""

    next_cursor: str | None


class EventsOut(Answer):
    """Some events, the latest to come in first."""

    data: list[EventOut]
    meta: EventsMeta


class RequestOut(Answer):
    """The request that was metered, or told the event, and under which policy."""

    method: str
    route: str
    status: int | None
    policy: str
    policy_version: str


class IdentityOut(Answer):
    """Who was calling, as extracted."""

    field: str
    value: str | None


class CustomerOut(Answer):
    """Whose event it is."""

    id: str
    external_id: str


class WindowOut(Answer):
    """The hour that the event was added to, as it is now."""

    hour: datetime
    total: Number
    events: int
    maximum: Number
    last: Number


class StripeOut(Answer):
    """What carries the event to Stripe, and how far it has come."""

    event_name: str
    state: str
    identifier: str | None = None
    quantity: Number | None = None
    stripe_customer_id: str | None = None
    first_attempt_at: datetime | None = None
    accepted_at: datetime | None = None
    reason: str | None = None


class EventStory(EventOut):
    """A usage event, from its request to where it counts."""

    unique_value: str | None
    request: RequestOut
    identity: IdentityOut
    customer: CustomerOut | None
    window: WindowOut | None
    stripe: StripeOut | None


class MeterEvent(Answer):
    """A usage event, in the words of meters."""

    id: str
    customer_id: str | None
    meter_id: str
    quantity: str | None
    timestamp: datetime
    ingested_at: datetime
    idempotency_key: str | None
    meta_data: dict[str, Any] | None


@router.get("/events", response_model=EventsOut)
def list_events(
    *,
    access: Reader,
    rest: RestDep,
    metric: Annotated[Id | None, Query()] = None,
    customer_id: Annotated[Id | None, Query(description="an id of ours or an external id")] = None,
    state: Annotated[State | None, Query()] = None,
    since: Annotated[Moment | None, Query(description="of the usage, inclusive")] = None,
    until: Annotated[Moment | None, Query(description="of the usage, exclusive")] = None,
    min_quantity: Annotated[Exact | None, Query()] = None,
    cursor: Annotated[str | None, Query(pattern=_CURSOR)] = None,
    page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> Response:
    """Events, the latest to come in first."""
    with rest.db.reading() as tx:
        organization_id = access.organization_id
        wanted = Wanted(
            metric=None if metric is None else _metric(tx, organization_id, metric).key,
            customer_id=_customer(tx, organization_id, customer_id),
            state=state,
            since=since,
            until=until,
            quantity_min=min_quantity,
        )
        rows = history.listing(
            tx,
            organization_id,
            wanted,
            before=None if cursor is None else int(cursor),
            limit=page_size + 1,
        )
        shown, more = rows[:page_size], len(rows) > page_size
        following = str(shown[-1].seq) if more else None
        return answer(
            EventsOut(
                data=[EventOut(**_told(row)) for row in shown],
                meta=EventsMeta(next_cursor=following),
            )
        )


@router.get("/events/{event_id}", response_model=EventStory)
def read_event(event_id: Id, access: Reader, rest: RestDep) -> Response:
    """The story of one event: request, identity, quantity, window, and what is sent to Stripe."""
    with rest.db.reading() as tx:
        found = history.story(tx, access.organization_id, event_id)
        if found is None:
            refusal(Refused("not_found", f"there is no event {event_id}"))
        return answer(_story(found))


@meters.get("/meters/{meter}/events", response_model=Listed[MeterEvent])
def list_meter_events(meter: Id, access: Reader, rest: RestDep, page: PageDep) -> Response:
    """The events of a meter, the latest to come in first."""
    with rest.db.reading() as tx:
        row = _metric(tx, access.organization_id, meter)
        rows, total = history.page(
            tx,
            access.organization_id,
            Wanted(metric=row.key),
            offset=page.offset,
            limit=page.limit,
        )
        return listed([_meter_event(row, event) for event in rows], total, page)


def _metric(tx: Tx, organization_id: str, name: str) -> MetricRow:
    row = metrics.find(tx, organization_id, name)
    return refusal(metrics.unknown(name)) if row is None else row


def _customer(tx: Tx, organization_id: str, name: str | None) -> str | None:
    if name is None:
        return None
    row = customers.find(tx, organization_id, name)
    return refusal(customers.unknown(name)) if row is None else row.id


def _sent_metadata(row: UsageEventRow) -> dict[str, Any] | None:
    return None if row.metadata_ is None else _metadata.decode(row.metadata_)


def _told(row: UsageEventRow) -> dict[str, Any]:
    names: Sequence[str] = [name for name in EventOut.model_fields if name != "metadata"]
    return {name: getattr(row, name) for name in names} | {"metadata": _sent_metadata(row)}


def _meter_event(meter: MetricRow, row: UsageEventRow) -> MeterEvent:
    return MeterEvent(
        id=row.id,
        customer_id=row.customer_id,
        meter_id=meter.id,
        quantity=None if row.quantity is None else f"{row.quantity:f}",
        timestamp=row.occurred_at,
        ingested_at=row.received_at,
        idempotency_key=row.idempotency_key,
        meta_data=_sent_metadata(row),
    )


def _story(found: Story) -> EventStory:
    event, window = found.event, found.window
    return EventStory(
        **_told(event),
        unique_value=event.unique_value,
        request=RequestOut(
            method=event.request_method,
            route=event.request_route,
            status=event.request_status,
            policy=event.policy,
            policy_version=event.policy_version,
        ),
        identity=IdentityOut(field=event.identity_field, value=event.identity_value),
        customer=found.customer
        and CustomerOut(id=found.customer.id, external_id=found.customer.external_id),
        window=window
        and WindowOut(
            hour=window.hour,
            total=window.total,
            events=window.events,
            maximum=window.maximum,
            last=window.last,
        ),
        stripe=_stripe(found),
    )


def _stripe(found: Story) -> StripeOut | None:
    """None for what stays here; `unassigned` while no account is connected."""
    event, unit = found.event, found.unit
    if event.event_name is None or event.state != "counted":
        return None
    if unit is None:
        return StripeOut(event_name=event.event_name, state="unassigned")
    return StripeOut(
        event_name=event.event_name,
        state=unit.state,
        identifier=unit.identifier,
        quantity=unit.quantity,
        stripe_customer_id=unit.stripe_customer_id,
        first_attempt_at=unit.first_attempt_at,
        accepted_at=unit.accepted_at,
        reason=unit.reason,
    )
