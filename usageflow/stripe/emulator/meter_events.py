"""Meter events: what Stripe refuses at once, what it accepts and drops later, what it counts.

The identifier window is the heart of it: within 24 hours the same identifier is refused, afterwards
it is accepted and counted again. An event for a customer that does not exist is accepted and
dropped later, as Stripe does; the account counts it in `rejected_later`.
"""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.replies import Reply, error, invalid, ok
from usageflow.stripe.emulator.state import Account, Applied, Meter

IDENTIFIER_WINDOW: Final = timedelta(hours=24)
PAST_MAX: Final = timedelta(days=35)
FUTURE_MAX: Final = timedelta(minutes=5)
VALUE_DIGITS_MAX: Final = 15
_PLAIN: Final = re.compile(r"-?\d+(\.\d+)?\Z", re.ASCII)


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/billing/meter_events`."""
    name, payload = call.params["event_name"], call.params["payload"]
    timestamp = call.params.get("timestamp", int(now.timestamp()))
    identifier = call.params.get("identifier") or account.new_id("mevt")
    meter = account.meter_named(name)
    if meter is None or not meter.active:
        return invalid(f'No active meter found for event name "{name}"', param="event_name")
    refusal = (
        _time_refusal(timestamp, now)
        or _payload_refusal(meter, payload)
        or _duplicate_refusal(account, identifier, now)
    )
    if refusal is not None:
        return refusal
    account.identifiers[identifier] = now
    event = Applied(
        sequence=len(account.journal) + 1,
        account=account.object_id,
        livemode=account.livemode,
        event_name=name,
        identifier=identifier,
        customer=payload[meter.customer_key],
        value=Decimal(payload.get(meter.value_key, "1")),
        timestamp=timestamp,
        applied_at=now,
    )
    _apply(account, event)
    return ok(_shown(event, payload))


def _time_refusal(timestamp: int, now: datetime) -> Reply | None:
    oldest = int((now - PAST_MAX).timestamp())
    newest = int((now + FUTURE_MAX).timestamp())
    if timestamp < oldest:
        return invalid(
            "The event timestamp cannot be more than 35 days in past. "
            f"Expected a timestamp greater than or equal to {oldest}.",
            param="timestamp",
        )
    if timestamp > newest:
        return invalid(
            "The event timestamp cannot be more than 5 minutes in the future. "
            f"Expected a timestamp less than or equal to {newest}.",
            param="timestamp",
        )
    return None


def _payload_refusal(meter: Meter, payload: dict[str, str]) -> Reply | None:
    optional = meter.formula == "count"
    value = payload.get(meter.value_key, "1" if optional else None)
    if not payload.get(meter.customer_key):
        message = f'The event payload has no customer under the key "{meter.customer_key}".'
        return invalid(message, param=f"payload[{meter.customer_key}]")
    if value is None:
        message = f'The event payload has no value under the key "{meter.value_key}".'
        return invalid(message, param=f"payload[{meter.value_key}]")
    if not _PLAIN.match(value):
        message = f"The value in the event payload must be a number. Received {value}."
        return invalid(message, param=f"payload[{meter.value_key}]")
    if len(Decimal(value).as_tuple().digits) > VALUE_DIGITS_MAX:
        return invalid(
            f"The value in the event payload can have at most {VALUE_DIGITS_MAX} digits. "
            f"Received {value}.",
            param=f"payload[{meter.value_key}]",
        )
    return None


def _duplicate_refusal(account: Account, identifier: str, now: datetime) -> Reply | None:
    """The refusal of a repeat; v1 gives it no code and says that a retry is pointless."""
    since = account.identifiers.get(identifier)
    if since is None or now - since >= IDENTIFIER_WINDOW:
        return None
    message = f"An event already exists with identifier {identifier}."
    return error(400, message, headers={"Stripe-Should-Retry": "false"})


def _apply(account: Account, event: Applied) -> None:
    customer = account.customers.get(event.customer)
    if customer is None or customer.deleted:
        account.rejected_later["meter_event_customer_not_found"] += 1
    else:
        account.apply(event)


def _shown(event: Applied, payload: dict[str, str]) -> dict[str, Any]:
    return {
        "object": "billing.meter_event",
        "created": int(event.applied_at.timestamp()),
        "event_name": event.event_name,
        "identifier": event.identifier,
        "livemode": event.livemode,
        "payload": payload,
        "timestamp": event.timestamp,
    }


HANDLERS: Final = {
    "PostBillingMeterEvents": create,
}
