"""Meter events: what Stripe refuses at once, what it accepts and drops later, what it counts.

The identifier window is the heart of it: within 24 hours the same identifier is refused, afterwards
it is accepted and counted again. An event for a customer that does not exist is accepted and
rejected later, as Stripe does. Here is the v1 endpoint; those of v2 are in `meter_event_stream`.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.journal import MeterEvent
from usageflow.stripe.emulator.rejections import CUSTOMER_NOT_FOUND
from usageflow.stripe.emulator.replies import Reply, error, invalid, ok
from usageflow.stripe.emulator.state import Account, Meter

IDENTIFIER_WINDOW: Final = timedelta(hours=24)
PAST_MAX: Final = timedelta(days=35)
FUTURE_MAX: Final = timedelta(minutes=5)
VALUE_DIGITS_MAX: Final = 15
DUPLICATE: Final = "duplicate_meter_event"
_PLAIN: Final = re.compile(r"-?\d+(\.\d+)?\Z", re.ASCII)
_CUSTOMER_KEY: Final = "stripe_customer_id"
_VALUE_KEY: Final = "value"


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a meter event is wrong, with Stripe's code for it in error reports."""

    code: str
    message: str
    param: str | None = None


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/billing/meter_events`. Its refusals have no code."""
    timestamp = call.params.get("timestamp", int(now.timestamp()))
    event, flaw = receive(account, call.params, timestamp, now)
    if flaw is None:
        return ok(_shown(event, call.params["payload"]))
    refuse(account, event, flaw, now)
    if flaw.code == DUPLICATE:
        return error(400, flaw.message, headers={"Stripe-Should-Retry": "false"})
    return invalid(flaw.message, param=flaw.param)


def receive(
    account: Account, params: dict[str, Any], timestamp: int, now: datetime
) -> tuple[MeterEvent, Flaw | None]:
    """Take a meter event that is right; of one that is not, say why and leave it to the caller."""
    payload = params["payload"]
    meter = account.meter_named(params["event_name"])
    customer_key, value_key, optional = _CUSTOMER_KEY, _VALUE_KEY, False
    if meter is not None:
        customer_key, value_key = meter.customer_key, meter.value_key
        optional = meter.formula == "count"
    event = MeterEvent(
        account=account.object_id,
        livemode=account.livemode,
        event_name=params["event_name"],
        identifier=params.get("identifier") or account.new_id("mevt"),
        customer=payload.get(customer_key, ""),
        value=payload.get(value_key, "1" if optional else ""),
        timestamp=timestamp,
        received_at=now,
    )
    flaw = (
        _meter_flaw(meter, event)
        or _time_flaw(timestamp, now)
        or _payload_flaw(event, customer_key, value_key)
        or _duplicate_flaw(account, event.identifier, now)
    )
    if flaw is None:
        _take(account, event, now)
    return event, flaw


def refuse(account: Account, event: MeterEvent, flaw: Flaw, now: datetime) -> None:
    """Write a refusal in the answer into the journal; a duplicate is a kind of its own."""
    account.record("duplicate" if flaw.code == DUPLICATE else "refused", event, now, flaw.code)


def lane(account: Account, params: dict[str, Any]) -> tuple[str, str]:
    """The customer and event name: Stripe takes one call at a time for each of these pairs."""
    meter = account.meter_named(params["event_name"])
    key = _CUSTOMER_KEY if meter is None else meter.customer_key
    return params["payload"].get(key, ""), params["event_name"]


def _take(account: Account, event: MeterEvent, now: datetime) -> None:
    account.received[event.identifier] = event
    customer = account.customers.get(event.customer)
    if customer is None or customer.deleted:
        message = f"No customer found with ID {event.customer}."
        account.reject(event, CUSTOMER_NOT_FOUND, message, now)
    elif (code := account.rejections.wished(event)) is not None:
        account.reject(event, code, f"The event was rejected: {code}.", now)
    else:
        account.apply(event, now)


def _meter_flaw(meter: Meter | None, event: MeterEvent) -> Flaw | None:
    if meter is not None and meter.active:
        return None
    code = "no_meter" if meter is None else "archived_meter"
    message = f'No active meter found for event name "{event.event_name}"'
    return Flaw(code, message, "event_name")


def _time_flaw(timestamp: int, now: datetime) -> Flaw | None:
    oldest = int((now - PAST_MAX).timestamp())
    newest = int((now + FUTURE_MAX).timestamp())
    if timestamp < oldest:
        message = (
            "The event timestamp cannot be more than 35 days in past. "
            f"Expected a timestamp greater than or equal to {oldest}."
        )
        return Flaw("timestamp_too_far_in_past", message, "timestamp")
    if timestamp > newest:
        message = (
            "The event timestamp cannot be more than 5 minutes in the future. "
            f"Expected a timestamp less than or equal to {newest}."
        )
        return Flaw("timestamp_in_future", message, "timestamp")
    return None


def _payload_flaw(event: MeterEvent, customer_key: str, value_key: str) -> Flaw | None:
    if not event.customer:
        message = f'The event payload has no customer under the key "{customer_key}".'
        return Flaw("meter_event_no_customer_defined", message, f"payload[{customer_key}]")
    param = f"payload[{value_key}]"
    if not event.value:
        message = f'The event payload has no value under the key "{value_key}".'
        return Flaw("meter_event_value_not_found", message, param)
    if not _PLAIN.match(event.value):
        message = f"The value in the event payload must be a number. Received {event.value}."
        return Flaw("meter_event_invalid_value", message, param)
    if len(Decimal(event.value).as_tuple().digits) > VALUE_DIGITS_MAX:
        message = (
            f"The value in the event payload can have at most {VALUE_DIGITS_MAX} digits. "
            f"Received {event.value}."
        )
        return Flaw("meter_event_value_too_many_digits", message, param)
    return None


def _duplicate_flaw(account: Account, identifier: str, now: datetime) -> Flaw | None:
    earlier = account.received.get(identifier)
    if earlier is None or now - earlier.received_at >= IDENTIFIER_WINDOW:
        return None
    return Flaw(DUPLICATE, f"An event already exists with identifier {identifier}.")


def _shown(event: MeterEvent, payload: dict[str, str]) -> dict[str, Any]:
    return {
        "object": "billing.meter_event",
        "created": int(event.received_at.timestamp()),
        "event_name": event.event_name,
        "identifier": event.identifier,
        "livemode": event.livemode,
        "payload": payload,
        "timestamp": event.timestamp,
    }


HANDLERS: Final = {
    "PostBillingMeterEvents": create,
}
