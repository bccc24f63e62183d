"""Meter events by v2: one at a time with codes, or a hundred in a stream under a session's token.

What makes an event right is in `meter_events`. The stream answers `{}` before it has looked: what
is wrong with an event comes later in a report, and a duplicate is dropped without a word.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from usageflow.stripe.emulator import meter_events
from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.instants import instant, rfc3339
from usageflow.stripe.emulator.journal import MeterEvent
from usageflow.stripe.emulator.limits import METER_EVENTS, STREAM
from usageflow.stripe.emulator.replies import Reply, error, invalid, ok
from usageflow.stripe.emulator.state import Account
from usageflow.stripe.emulator.world import Session, World

PATH: Final = "/v2/billing/meter_event_stream"
STREAM_EVENTS_MAX: Final = 100
SESSION_LIFE: Final = timedelta(minutes=15)
_NOT_A_TIME: Final = "timestamp must be an RFC 3339 date-time."
_SYNCHRONOUS: Final = {
    "meter_event_no_customer_defined": "payload_no_customer_defined",
    "meter_event_value_not_found": "payload_no_value_defined",
    "meter_event_invalid_value": "payload_invalid_value",
    "meter_event_value_too_many_digits": "payload_invalid_value",
}
"""Where a synchronous refusal has another code than a report."""


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v2/billing/meter_events`."""
    timestamp = _seconds(call.params, now)
    if timestamp is None:
        return invalid(_NOT_A_TIME, param="timestamp")
    event, flaw = meter_events.receive(account, call.params, timestamp, now)
    if flaw is None:
        return ok(_shown(event, call.params["payload"]))
    meter_events.refuse(account, event, flaw, now)
    return invalid(flaw.message, code=_SYNCHRONOUS.get(flaw.code, flaw.code))


def stream(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v2/billing/meter_event_stream`: 1 to 100 events, all looked at after the answer."""
    given = call.params["events"]
    if not 1 <= len(given) <= STREAM_EVENTS_MAX:
        return invalid(f"events must have 1 to {STREAM_EVENTS_MAX} items.", param="events")
    times = [_seconds(params, now) for params in given]
    if None in times:
        return invalid(_NOT_A_TIME, param=f"events[{times.index(None)}][timestamp]")
    for params, timestamp in zip(given, times, strict=True):
        event, flaw = meter_events.receive(account, params, timestamp or 0, now)
        if flaw is None:
            continue
        if flaw.code == meter_events.DUPLICATE:
            meter_events.refuse(account, event, flaw, now)
        else:
            account.reject(event, flaw.code, flaw.message, now)
    return ok({})


def streaming(world: World, authorization: str) -> Account | Reply:
    """The account whose session's token this is, or the refusal of one that is not, or no longer.

    An account that nobody may act for any more has no sessions.
    """
    session = world.sessions.get(authorization.partition(" ")[2].strip())
    if session is None or world.now() >= session.expires_at or not session.account.platforms:
        return error(
            401,
            "The temporary session token has expired. Create a new meter event session.",
            kind="temporary_session_expired",
            code="billing_meter_event_session_expired",
            doc_url="https://docs.stripe.com/error-codes",
        )
    return session.account


def identifiers(call: Call) -> list[str]:
    """The meter events that a call of any operation names."""
    if call.operation == STREAM:
        return [event["identifier"] for event in call.params["events"] if "identifier" in event]
    named = call.operation in METER_EVENTS and "identifier" in call.params
    return [call.params["identifier"]] if named else []


def handlers(world: World) -> dict[str, Any]:
    """The operations of v2; a session is known to the world, as its token says who is calling."""

    def open_session(account: Account, _call: Call, now: datetime) -> Reply:
        token = account.new_id("temporary")
        session = world.sessions[token] = Session(account, now + SESSION_LIFE)
        return ok(
            {
                "id": account.new_id("mtrses"),
                "object": "v2.billing.meter_event_session",
                "authentication_token": token,
                "created": rfc3339(now),
                "expires_at": rfc3339(session.expires_at),
                "livemode": account.livemode,
            }
        )

    return {
        "PostV2BillingMeterEvents": create,
        "PostV2BillingMeterEventSession": open_session,
        "PostV2BillingMeterEventStream": stream,
    }


def _seconds(params: dict[str, Any], now: datetime) -> int | None:
    """The event's time in seconds since the epoch; now if it has none, None if it is no time."""
    moment = instant(params["timestamp"]) if "timestamp" in params else now
    return None if moment is None else int(moment.timestamp())


def _shown(event: MeterEvent, payload: dict[str, str]) -> dict[str, Any]:
    return {
        "object": "v2.billing.meter_event",
        "created": rfc3339(event.received_at),
        "event_name": event.event_name,
        "identifier": event.identifier,
        "livemode": event.livemode,
        "payload": payload,
        "timestamp": rfc3339(datetime.fromtimestamp(event.timestamp, UTC)),
    }
