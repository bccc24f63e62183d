"""Snapshot events, the v1 kind: what changed of an object, and the log that can be read back.

An event is made where something changes (`Account.emit`); who is told is the deliveries' business.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.paging import page, within
from usageflow.stripe.emulator.replies import Reply, invalid, missing, ok
from usageflow.stripe.emulator.state import Account

READABLE_FOR: Final = timedelta(days=30)
"""How long Stripe gives events back."""
TYPES_MAX: Final = 20
"""Names in one filter, Stripe's limit."""


def previous_attributes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The old values of what differs, nested objects key by key; what is new was null."""
    changed: dict[str, Any] = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            changed[key] = previous_attributes(old, new)
        elif old != new:
            changed[key] = old
    return changed


def list_all(account: Account, call: Call, now: datetime) -> Reply:
    """`GET /v1/events`, newest first: of a type or several, of a time, delivered everywhere or not.

    A `type` may end in a star, `customer.*`; `types` are names.
    """
    params = call.params
    types = params.get("types", [])
    if len(types) > TYPES_MAX or any("*" in name for name in types):
        return invalid(f"`types` takes up to {TYPES_MAX} names of events.", param="types")
    delivered = params.get("delivery_success")
    shown = [
        event
        for event in _readable(account, now)
        if fnmatchcase(event["type"], params.get("type", "*"))
        and (not types or event["type"] in types)
        and within(event["created"], params.get("created"))
        and (delivered is None or delivered == (event["pending_webhooks"] == 0))
    ]
    return page(shown, params, "/v1/events")


def retrieve(account: Account, call: Call, now: datetime) -> Reply:
    """`GET /v1/events/{id}`."""
    wanted = call.path["id"]
    found = (event for event in _readable(account, now) if event["id"] == wanted)
    event = next(found, None)
    return missing("event", wanted) if event is None else ok(event)


HANDLERS: Final = {"GetV1Events": list_all, "GetV1EventsId": retrieve}


def _readable(account: Account, now: datetime) -> list[dict[str, Any]]:
    """The events of the last 30 days, newest first."""
    since = int((now - READABLE_FOR).timestamp())
    return [event for event in reversed(account.events_log) if event["created"] >= since]
