"""Events on their way to endpoints: which to send now, and what follows from the outcome.

Each endpoint is told its events one at a time, in order: while one is to be tried again, the
younger ones of the same endpoint wait, those of others do not. An endpoint is leased for an
attempt, so that several servers never send to it at once; who dies in the middle loses the lease,
and the same event is sent again. Threads are
`sender`'s.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import exists
from sqlmodel import col, select

from usageflow._version import __version__
from usageflow.catalog.secrets import Keyring, Place
from usageflow.db.ids import new_id
from usageflow.db.outbox_tables import (
    WebhookAttemptRow,
    WebhookDeliveryRow,
    WebhookEndpointRow,
    WebhookEventRow,
)
from usageflow.db.session import Tx
from usageflow.errors import ConfigurationError
from usageflow.webhooks import endpoints, retries, signing
from usageflow.webhooks.posting import Outcome, Poster

LEASE_S: Final = 60.0
"""How long an endpoint is one sender's: four times the longest attempt. Afterwards it counts as
dead, and somebody else sends again what it may have sent."""
USER_AGENT: Final = f"UsageFlow-Webhooks/{__version__}"
GONE: Final = "it answered 410 Gone"
FAILED: Final = f"nothing succeeded for {retries.FAILING_MAX.days} days"


class Claim(NamedTuple):
    """One attempt to make: the body as it is signed, and the sealed secrets that are valid now."""

    lease: str
    organization_id: str
    endpoint_id: str
    delivery_seq: int
    number: int
    at: datetime
    url: str
    event_id: str
    body: str
    sealed: tuple[tuple[str, Place], ...]


def claim(tx: Tx, limit: int, *, lease_s: float = LEASE_S) -> list[Claim]:
    """The attempts to make now, of at most `limit` endpoints, those that wait longest first.

    Commit before the first byte leaves. What a dead sender claimed is claimed again when its
    lease has ended.
    """
    claims = []
    for endpoint in _free(tx, limit):
        head = _head(tx, endpoint)
        if head is None:  # delivered between the two statements, by another server
            continue
        delivery, event = head
        delivery.attempts += 1
        delivery.first_attempt_at = delivery.first_attempt_at or tx.now
        endpoint.lease_owner = new_id("lease")
        endpoint.leased_until = tx.now + timedelta(seconds=lease_s)
        claims.append(_claim(tx, endpoint, delivery, event))
    return claims


def send(claimed: Claim, *, keyring: Keyring, poster: Poster) -> Outcome:
    """Make the attempt, once."""
    try:
        opened = [keyring.open(secret, place) for secret, place in claimed.sealed]
    except ConfigurationError as error:
        return Outcome(None, str(error), "", 0)
    headers = {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "accept-encoding": "identity",
        **signing.headers(claimed.event_id, claimed.body, at=claimed.at, secrets=opened),
    }
    return poster.post(claimed.url, headers, claimed.body.encode())


def settle(tx: Tx, claimed: Claim, outcome: Outcome, *, chance: float) -> bool:
    """Note what came of an attempt. False if its lease was lost: then another attempt decides.

    `chance` in [0, 1) spreads retries.
    """
    endpoint = tx.session.exec(
        select(WebhookEndpointRow)
        .where(WebhookEndpointRow.organization_id == claimed.organization_id)
        .where(WebhookEndpointRow.id == claimed.endpoint_id)
        .with_for_update()
    ).one()
    if endpoint.lease_owner != claimed.lease:
        return False
    endpoint.lease_owner, endpoint.leased_until = None, tx.now
    delivery = tx.session.get_one(WebhookDeliveryRow, claimed.delivery_seq)
    delivery.last_status, delivery.last_error = outcome.status, outcome.error
    _log(tx, claimed, outcome)
    if delivery.state == "pending":  # it may have been cancelled meanwhile
        _follow(tx, endpoint, delivery, outcome, chance)
    return True


def _follow(
    tx: Tx,
    endpoint: WebhookEndpointRow,
    delivery: WebhookDeliveryRow,
    outcome: Outcome,
    chance: float,
) -> None:
    verdict = retries.verdict(outcome.status)
    if verdict == "delivered":
        _end(tx, endpoint, delivery, "delivered")
        endpoint.failing_since = None
        return
    endpoint.failing_since = endpoint.failing_since or tx.now
    began = delivery.first_attempt_at or tx.now
    next_at = retries.WEBHOOKS.next_at(delivery.attempts, began, tx.now, chance)
    if verdict == "gone" or next_at is None:
        _end(tx, endpoint, delivery, "failed")
    else:
        delivery.next_at = endpoint.blocked_until = next_at
    if verdict == "gone":
        endpoints.disable(tx, endpoint, GONE)
    elif endpoint.enabled and tx.now - endpoint.failing_since >= retries.FAILING_MAX:
        endpoints.disable(tx, endpoint, FAILED)


def _end(tx: Tx, endpoint: WebhookEndpointRow, delivery: WebhookDeliveryRow, state: str) -> None:
    """It is over, and the next may go."""
    delivery.state, delivery.ended_at = state, tx.now
    endpoint.blocked_until = tx.now


def _free(tx: Tx, limit: int) -> list[WebhookEndpointRow]:
    """Endpoints with something to send that nobody sends to, locked."""
    waiting = exists().where(
        col(WebhookDeliveryRow.endpoint_id) == col(WebhookEndpointRow.id),
        col(WebhookDeliveryRow.state) == "pending",
    )
    return list(
        tx.session.exec(
            select(WebhookEndpointRow)
            .where(col(WebhookEndpointRow.enabled), waiting)
            .where(col(WebhookEndpointRow.leased_until) <= tx.now)
            .where(col(WebhookEndpointRow.blocked_until) <= tx.now)
            .order_by(col(WebhookEndpointRow.blocked_until), col(WebhookEndpointRow.id))
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    )


def _head(
    tx: Tx, endpoint: WebhookEndpointRow
) -> tuple[WebhookDeliveryRow, WebhookEventRow] | None:
    """The oldest delivery of an endpoint that is to be sent."""
    return tx.session.exec(
        select(WebhookDeliveryRow, WebhookEventRow)
        .join(WebhookEventRow, col(WebhookEventRow.seq) == col(WebhookDeliveryRow.event_seq))
        .where(WebhookDeliveryRow.endpoint_id == endpoint.id)
        .where(WebhookDeliveryRow.state == "pending")
        .order_by(col(WebhookDeliveryRow.seq))
        .limit(1)
    ).first()


def _claim(
    tx: Tx, endpoint: WebhookEndpointRow, delivery: WebhookDeliveryRow, event: WebhookEventRow
) -> Claim:
    sealed = [(endpoint.secret, Place.of(endpoint))]
    if endpoint.previous_secret and endpoint.previous_until and tx.now < endpoint.previous_until:
        sealed.append((endpoint.previous_secret, Place.of(endpoint, "previous_secret")))
    return Claim(
        lease=endpoint.lease_owner or "",
        organization_id=endpoint.organization_id,
        endpoint_id=endpoint.id,
        delivery_seq=delivery.seq or 0,
        number=delivery.attempts,
        at=tx.now,
        url=endpoint.url,
        event_id=event.id,
        body=event.body,
        sealed=tuple(sealed),
    )


def _log(tx: Tx, claimed: Claim, outcome: Outcome) -> None:
    tx.session.add(
        WebhookAttemptRow(
            delivery_seq=claimed.delivery_seq,
            number=claimed.number,
            organization_id=claimed.organization_id,
            at=tx.now,
            status=outcome.status,
            error=outcome.error,
            duration_ms=outcome.duration_ms,
            answer=outcome.answer,
        )
    )
