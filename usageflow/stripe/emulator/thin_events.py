"""Events of v2: one by its id, and the list, newest first, of the last 30 days.

What a notification leaves out is here: the data. Who is notified is not this module's business.
"""

from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.instants import instant
from usageflow.stripe.emulator.paging import within
from usageflow.stripe.emulator.replies import Reply, invalid, missing, ok
from usageflow.stripe.emulator.state import Account

RETENTION: Final = timedelta(days=30)
LIMIT_DEFAULT: Final = 20
LIMIT_MAX: Final = 100
TYPES_MAX: Final = 20
_PATH: Final = "/v2/core/events"


def retrieve(account: Account, call: Call, now: datetime) -> Reply:
    """`GET /v2/core/events/{id}`."""
    wanted = call.path["id"]
    event = next((one for one in _kept(account, now) if one["id"] == wanted), None)
    return missing("event", wanted) if event is None else ok(event)


def list_all(account: Account, call: Call, now: datetime) -> Reply:
    """`GET /v2/core/events`, of some types, of one object, of some time."""
    params = call.params
    refusal = _refusal(params)
    if refusal is not None:
        return refusal
    found = [event for event in _kept(account, now) if _wanted(event, params)]
    start, limit = int(params.get("page", "0")), params.get("limit", LIMIT_DEFAULT)
    return ok(
        {
            "data": found[start : start + limit],
            "next_page_url": _url(params, start + limit) if len(found) > start + limit else None,
            "previous_page_url": _url(params, max(start - limit, 0)) if start else None,
        }
    )


def _kept(account: Account, now: datetime) -> list[dict[str, Any]]:
    oldest = _millis((now - RETENTION).isoformat())
    return [event for event in reversed(account.thin_events) if _millis(event["created"]) >= oldest]


def _millis(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def _refusal(params: dict[str, Any]) -> Reply | None:
    if not 1 <= params.get("limit", LIMIT_DEFAULT) <= LIMIT_MAX:
        return invalid(f"Invalid limit: must be between 1 and {LIMIT_MAX}", param="limit")
    if len(params.get("types", [])) > TYPES_MAX:
        return invalid(f"At most {TYPES_MAX} types can be asked for.", param="types")
    if not params.get("page", "0").isdecimal():
        return invalid("Invalid page.", param="page")
    for name, text in params.get("created", {}).items():
        if instant(text) is None:
            return invalid("Not an RFC 3339 date-time.", param=f"created[{name}]")
    return None


def _wanted(event: dict[str, Any], params: dict[str, Any]) -> bool:
    bounds = {name: _millis(text) for name, text in params.get("created", {}).items()}
    return (
        event["type"] in params.get("types", [event["type"]])
        and params.get("object_id") in (None, event["related_object"].get("id"))
        and within(_millis(event["created"]), bounds)
    )


def _url(params: dict[str, Any], start: int) -> str:
    """The address of the page from `start` on, with the same filters."""
    pairs = [(f"types[{place}]", kind) for place, kind in enumerate(params.get("types", []))]
    pairs += [(f"created[{name}]", text) for name, text in params.get("created", {}).items()]
    pairs += [(name, params[name]) for name in ("object_id", "limit") if name in params]
    return f"{_PATH}?{urlencode([*pairs, ('page', start)])}"


HANDLERS: Final = {
    "GetV2CoreEvents": list_all,
    "GetV2CoreEventsId": retrieve,
}
