"""The places that events are told to, and the secrets they are signed with.

A secret is shown once, when it is made, and sealed at rest. What is sent to an endpoint, and when,
is not decided here.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, get_args

import msgspec
from sqlalchemy import func, update
from sqlmodel import col, select

from usageflow.catalog import audit
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring, Place
from usageflow.catalog.turns import take_turn
from usageflow.db.columns import table
from usageflow.db.ids import new_id
from usageflow.db.outbox import EventType, emit
from usageflow.db.outbox_tables import WebhookDeliveryRow, WebhookEndpointRow
from usageflow.db.session import Tx
from usageflow.errors import ConfigurationError
from usageflow.webhooks.addresses import target
from usageflow.webhooks.signing import new_secret

TEST: Final = "webhook.test"
TYPES: Final = tuple(name for name in get_args(EventType) if name != TEST)
"""The events there are to choose from; a test is told to whom it is for."""
OVERLAP: Final = timedelta(hours=24)
"""How long a replaced secret still signs beside the new one."""
ENDPOINTS_MAX: Final = 50
"""Of one organization: each event is sent to each of them."""


def create(
    tx: Tx,
    organization_id: str,
    *,
    url: str,
    types: Sequence[str] = (),
    description: str = "",
    keyring: Keyring,
    actor: Actor,
) -> tuple[WebhookEndpointRow, str] | Refused:
    """A new endpoint that is told events of these types (none: of all), and its signing secret.

    The secret can never be read again.
    """
    if (refused := _refused(url, types)) is not None:
        return refused
    take_turn(tx, organization_id)
    if _count(tx, organization_id) >= ENDPOINTS_MAX:
        return Refused("conflict", f"there are {ENDPOINTS_MAX} endpoints already; delete one")
    row = WebhookEndpointRow(
        id=new_id("whe"),
        organization_id=organization_id,
        url=url,
        types=_listed(types),
        description=description,
        enabled=True,
        secret="",
        leased_until=tx.now,
        blocked_until=tx.now,
        created_at=tx.now,
        updated_at=tx.now,
    )
    try:
        secret = _new_secret(row, keyring)
    except ConfigurationError as error:
        return Refused("conflict", str(error))
    tx.session.add(row)
    tx.session.flush()
    _record(tx, row, actor, "webhook.create", after=_told(row))
    return row, secret


def change(
    tx: Tx,
    organization_id: str,
    endpoint_id: str,
    *,
    url: str | None = None,
    types: Sequence[str] | None = None,
    description: str | None = None,
    enabled: bool | None = None,
    actor: Actor,
) -> WebhookEndpointRow | Refused:
    """Change what is given. Who changes anything wants it tried again: at once."""
    row = find(tx, organization_id, endpoint_id, locked=True)
    if row is None:
        return missing(endpoint_id)
    before = _told(row)
    url = row.url if url is None else url
    types = wanted(row) if types is None else types
    if (refused := _refused(url, types)) is not None:
        return refused
    row.url, row.types = url, _listed(types)
    row.description = row.description if description is None else description
    row.enabled = row.enabled if enabled is None else enabled
    if row.enabled:
        row.disabled_reason = None
    row.failing_since, row.blocked_until, row.updated_at = None, tx.now, tx.now
    _record(tx, row, actor, "webhook.change", before=before, after=_told(row))
    return row


def rotate_secret(
    tx: Tx, organization_id: str, endpoint_id: str, *, keyring: Keyring, actor: Actor
) -> tuple[WebhookEndpointRow, str] | Refused:
    """A new signing secret; the old one signs beside it for OVERLAP, one before that no more."""
    row = find(tx, organization_id, endpoint_id, locked=True)
    if row is None:
        return missing(endpoint_id)
    try:
        old = keyring.open(row.secret, Place.of(row))
        row.previous_secret = keyring.seal(old, Place.of(row, "previous_secret"))
        secret = _new_secret(row, keyring)
    except ConfigurationError as error:
        return Refused("conflict", str(error))
    row.previous_until = tx.now + OVERLAP
    row.updated_at = tx.now
    _record(tx, row, actor, "webhook.rotate_secret")
    return row, secret


def delete(
    tx: Tx, organization_id: str, endpoint_id: str, *, actor: Actor
) -> WebhookEndpointRow | Refused:
    """Tell it nothing more; what was on its way is cancelled. Its log stays."""
    row = find(tx, organization_id, endpoint_id, locked=True)
    if row is None:
        return missing(endpoint_id)
    row.enabled, row.deleted_at, row.updated_at = False, tx.now, tx.now
    deliveries = table(WebhookDeliveryRow)
    tx.session.execute(
        update(deliveries)
        .where(deliveries.c.organization_id == organization_id)
        .where(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == "pending")
        .values(state="cancelled", last_error="the endpoint was deleted", ended_at=tx.now)
    )
    _record(tx, row, actor, "webhook.delete", before=_told(row))
    return row


def disable(tx: Tx, row: WebhookEndpointRow, reason: str) -> None:
    """Stop telling it, by ourselves: what is on its way waits for a person to enable it."""
    row.enabled, row.disabled_reason, row.updated_at = False, reason, tx.now
    _record(tx, row, Actor(audit.SYSTEM), "webhook.disable", after={"reason": reason})


def send_test(tx: Tx, organization_id: str, endpoint_id: str, *, actor: Actor) -> str | Refused:
    """Tell it an event `webhook.test`, whichever types it wants; the event's id."""
    row = find(tx, organization_id, endpoint_id)
    if row is None:
        return missing(endpoint_id)
    if not row.enabled:
        return disabled(endpoint_id)
    data = {"endpointId": row.id, "sentBy": actor.name}
    return emit(tx, organization_id, TEST, data, endpoint_id=row.id)


def find(
    tx: Tx, organization_id: str, endpoint_id: str, *, locked: bool = False
) -> WebhookEndpointRow | None:
    """The endpoint, unless it was deleted."""
    query = select(WebhookEndpointRow).where(
        WebhookEndpointRow.organization_id == organization_id,
        WebhookEndpointRow.id == endpoint_id,
        col(WebhookEndpointRow.deleted_at).is_(None),
    )
    return tx.session.exec(query.with_for_update() if locked else query).first()


def listing(
    tx: Tx, organization_id: str, *, offset: int, limit: int
) -> tuple[list[WebhookEndpointRow], int]:
    """The endpoints, the oldest first, and how many there are in all."""
    rows = tx.session.exec(
        select(WebhookEndpointRow)
        .where(WebhookEndpointRow.organization_id == organization_id)
        .where(col(WebhookEndpointRow.deleted_at).is_(None))
        .order_by(col(WebhookEndpointRow.id))
        .offset(offset)
        .limit(limit)
    )
    return list(rows), _count(tx, organization_id)


def wanted(row: WebhookEndpointRow) -> list[str]:
    """The types of events an endpoint is told; empty for all."""
    return msgspec.json.decode(row.types, type=list[str])


def missing(endpoint_id: str) -> Refused:
    """There is no such endpoint here."""
    return Refused("not_found", f"there is no webhook endpoint {endpoint_id}")


def disabled(endpoint_id: str) -> Refused:
    """Nothing can be told to it now."""
    return Refused("conflict", f"{endpoint_id} is disabled; enable it first")


def _refused(url: str, types: Sequence[str]) -> Refused | None:
    where = target(url)
    if isinstance(where, str):
        return Refused("invalid", where, "url")
    unknown = [name for name in types if name not in TYPES]
    if unknown:
        message = f"{unknown[0]!r} is none of {', '.join(TYPES)}"
        return Refused("invalid", message, "types")
    return None


def _new_secret(row: WebhookEndpointRow, keyring: Keyring) -> str:
    """A secret, which is the row's from now on. Raises ConfigurationError without a key."""
    secret = new_secret()
    row.secret = keyring.seal(secret, Place.of(row))
    return secret


def _count(tx: Tx, organization_id: str) -> int:
    return tx.session.exec(
        select(func.count())
        .select_from(WebhookEndpointRow)
        .where(WebhookEndpointRow.organization_id == organization_id)
        .where(col(WebhookEndpointRow.deleted_at).is_(None))
    ).one()


def _listed(types: Sequence[str]) -> str:
    """In the order of TYPES, each once."""
    return msgspec.json.encode([name for name in TYPES if name in types]).decode()


def _told(row: WebhookEndpointRow) -> dict[str, Any]:
    return {
        "url": row.url,
        "types": wanted(row),
        "description": row.description,
        "enabled": row.enabled,
    }


def _record(
    tx: Tx, row: WebhookEndpointRow, actor: Actor, action: str, **change: dict[str, Any]
) -> None:
    audit.record(tx, row.organization_id, actor=actor, action=action, subject=row.id, **change)
