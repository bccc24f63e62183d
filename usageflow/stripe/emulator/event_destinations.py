"""Event destinations (v2): create, list, retrieve, enable, disable, delete and ping.

Only webhook endpoints are emulated as destinations. Address and signing secret are shown when
`include` asks for them, the secret at creation alone.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from usageflow.stripe.emulator import listeners
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.instants import rfc3339
from usageflow.stripe.emulator.listeners import CONNECTED, DESTINATION, PING, SELF, Listener
from usageflow.stripe.emulator.metadata import merged
from usageflow.stripe.emulator.replies import Reply, error, invalid, missing, ok
from usageflow.stripe.emulator.state import Account


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v2/core/event_destinations`."""
    params = call.params
    refusal = _refusal(params) or listeners.full(account)
    if refusal is not None:
        return refusal
    metadata = merged({}, params)
    if isinstance(metadata, Reply):
        return metadata
    destination = Listener(
        object_id=account.new_id(DESTINATION),
        created=now,
        updated=now,
        url=params["webhook_endpoint"]["url"],
        enabled_events=params["enabled_events"],
        metadata=metadata,
        sources=params.get("events_from", [SELF]),
        payload=params["event_payload"],
        api_version=params.get("snapshot_api_version"),
        name=params["name"],
        description=params.get("description", ""),
    )
    listeners.of(account, DESTINATION)[destination.object_id] = destination
    return ok(_shown(account, destination, params.get("include", ())))


def retrieve(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v2/core/event_destinations/{id}`."""
    destination = _found(account, call)
    if destination is None:
        return _missing(call)
    return ok(_shown(account, destination, call.params.get("include", ())))


def list_all(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v2/core/event_destinations`, newest first; all there may be fit into one page."""
    included = call.params.get("include", ())
    destinations = reversed(listeners.of(account, DESTINATION).values())
    shown = [_shown(account, destination, included) for destination in destinations]
    return ok({"data": shown, "next_page_url": None, "previous_page_url": None})


def enable(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v2/core/event_destinations/{id}/enable`."""
    return _switch(account, call, now, enabled=True)


def disable(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v2/core/event_destinations/{id}/disable`: what still waits is not sent."""
    return _switch(account, call, now, enabled=False)


def delete(account: Account, call: Call, _now: datetime) -> Reply:
    """`DELETE /v2/core/event_destinations/{id}`: what still waits is not sent."""
    destination = _found(account, call)
    if destination is None:
        return _missing(call)
    destination.enabled = False
    del listeners.of(account, DESTINATION)[destination.object_id]
    return ok({"id": destination.object_id, "object": "v2.core.event_destination"})


def ping(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v2/core/event_destinations/{id}/ping`: an event for this destination alone."""
    destination = _found(account, call)
    if destination is None:
        return _missing(call)
    url = f"/v2/core/event_destinations/{destination.object_id}"
    related = {"id": destination.object_id, "type": "v2.core.event_destination", "url": url}
    account.emit_thin(PING, related, {}, now)
    return ok(account.thin_events[-1])


HANDLERS: Final = {
    "PostV2CoreEventDestinations": create,
    "GetV2CoreEventDestinations": list_all,
    "GetV2CoreEventDestinationsId": retrieve,
    "DeleteV2CoreEventDestinationsId": delete,
    "PostV2CoreEventDestinationsIdEnable": enable,
    "PostV2CoreEventDestinationsIdDisable": disable,
    "PostV2CoreEventDestinationsIdPing": ping,
}


def _refusal(params: dict[str, Any]) -> Reply | None:
    """What Stripe would not take, or we do not emulate."""
    if params["type"] != "webhook_endpoint":
        message = "The emulator sends to webhook endpoints only."
        return error(501, message, kind="api_error", param="type")
    if "webhook_endpoint" not in params:
        return invalid("Missing required param: webhook_endpoint.", param="webhook_endpoint")
    refusal = listeners.wrong_url(params["webhook_endpoint"], "url")
    if refusal is not None:
        return refusal
    if not {SELF, CONNECTED}.issuperset(params.get("events_from", ())):
        return invalid(f"`events_from` takes {SELF} and {CONNECTED}.", param="events_from")
    return None


def _switch(account: Account, call: Call, now: datetime, *, enabled: bool) -> Reply:
    destination = _found(account, call)
    if destination is None:
        return _missing(call)
    destination.enabled, destination.updated = enabled, now
    return ok(_shown(account, destination, ()))


def _found(account: Account, call: Call) -> Listener | None:
    return listeners.of(account, DESTINATION).get(call.path["id"])


def _missing(call: Call) -> Reply:
    return missing("event destination", call.path["id"])


def _shown(account: Account, destination: Listener, included: Collection[str]) -> dict[str, Any]:
    endpoint = {"url": destination.url, "signing_secret": destination.secret}
    return {
        "id": destination.object_id,
        "object": "v2.core.event_destination",
        "created": rfc3339(destination.created),
        "description": destination.description,
        "enabled_events": destination.enabled_events,
        "event_payload": destination.payload,
        "events_from": destination.sources,
        "livemode": account.livemode,
        "metadata": destination.metadata,
        "name": destination.name,
        "snapshot_api_version": destination.api_version,
        "status": "enabled" if destination.enabled else "disabled",
        "status_details": None if destination.enabled else {"disabled": {"reason": "user"}},
        "type": "webhook_endpoint",
        "updated": rfc3339(destination.updated),
        "webhook_endpoint": {
            name: value if f"webhook_endpoint.{name}" in included else None
            for name, value in endpoint.items()
        },
    }
