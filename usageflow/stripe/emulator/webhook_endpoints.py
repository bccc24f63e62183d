"""Webhook endpoints (v1): create, list, retrieve, update and delete.

With `connect` an endpoint hears the connected accounts instead of its own. The signing secret is
shown once, when the endpoint is made.
"""

from datetime import datetime
from typing import Any, Final

from usageflow.stripe.emulator import listeners
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.listeners import CONNECTED, ENDPOINT, SELF, Listener
from usageflow.stripe.emulator.metadata import merged
from usageflow.stripe.emulator.paging import page
from usageflow.stripe.emulator.replies import Reply, missing, ok
from usageflow.stripe.emulator.state import Account


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/webhook_endpoints`."""
    metadata = merged({}, call.params)
    if isinstance(metadata, Reply):
        return metadata
    refusal = listeners.wrong_url(call.params, "url") or listeners.full(account)
    if refusal is not None:
        return refusal
    endpoint = Listener(
        object_id=account.new_id(ENDPOINT),
        created=now,
        updated=now,
        url=call.params["url"],
        enabled_events=call.params["enabled_events"],
        metadata=metadata,
        sources=[CONNECTED if call.params.get("connect") else SELF],
        api_version=call.params.get("api_version"),
        description=call.params.get("description") or None,
    )
    listeners.of(account, ENDPOINT)[endpoint.object_id] = endpoint
    return ok({**_shown(account, endpoint), "secret": endpoint.secret})


def update(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/webhook_endpoints/{webhook_endpoint}`; `disabled` stops and starts it."""
    endpoint = _found(account, call)
    if endpoint is None:
        return _missing(call)
    refusal = listeners.wrong_url(call.params, "url")
    if refusal is not None:
        return refusal
    metadata = merged(endpoint.metadata, call.params)
    if isinstance(metadata, Reply):
        return metadata
    endpoint.metadata, endpoint.updated = metadata, now
    endpoint.url = call.params.get("url", endpoint.url)
    endpoint.enabled_events = call.params.get("enabled_events", endpoint.enabled_events)
    endpoint.description = call.params.get("description", endpoint.description) or None
    endpoint.enabled = not call.params.get("disabled", not endpoint.enabled)
    return ok(_shown(account, endpoint))


def retrieve(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/webhook_endpoints/{webhook_endpoint}`."""
    endpoint = _found(account, call)
    return _missing(call) if endpoint is None else ok(_shown(account, endpoint))


def delete(account: Account, call: Call, _now: datetime) -> Reply:
    """`DELETE /v1/webhook_endpoints/{webhook_endpoint}`: what still waits is not sent."""
    endpoint = _found(account, call)
    if endpoint is None:
        return _missing(call)
    endpoint.enabled = False
    del listeners.of(account, ENDPOINT)[endpoint.object_id]
    return ok({"id": endpoint.object_id, "object": "webhook_endpoint", "deleted": True})


def list_all(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/webhook_endpoints`."""
    endpoints = reversed(listeners.of(account, ENDPOINT).values())
    shown = [_shown(account, endpoint) for endpoint in endpoints]
    return page(shown, call.params, "/v1/webhook_endpoints")


HANDLERS: Final = {
    "PostV1WebhookEndpoints": create,
    "GetV1WebhookEndpoints": list_all,
    "GetV1WebhookEndpointsWebhookEndpoint": retrieve,
    "PostV1WebhookEndpointsWebhookEndpoint": update,
    "DeleteV1WebhookEndpointsWebhookEndpoint": delete,
}


def _found(account: Account, call: Call) -> Listener | None:
    return listeners.of(account, ENDPOINT).get(call.path["webhook_endpoint"])


def _missing(call: Call) -> Reply:
    return missing("webhook endpoint", call.path["webhook_endpoint"])


def _shown(account: Account, endpoint: Listener) -> dict[str, Any]:
    return {
        "id": endpoint.object_id,
        "object": "webhook_endpoint",
        "api_version": endpoint.api_version,
        "application": None,
        "created": int(endpoint.created.timestamp()),
        "description": endpoint.description,
        "enabled_events": endpoint.enabled_events,
        "livemode": account.livemode,
        "metadata": endpoint.metadata,
        "status": "enabled" if endpoint.enabled else "disabled",
        "url": endpoint.url,
    }
