"""Meter event adjustments, v1 and v2: an event is cancelled within 24 hours of its receipt.

A cancelled event leaves the sums, as if it had never been counted; its line in the journal stays
and another one says that it was cancelled. The identifier is not free again.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.instants import rfc3339
from usageflow.stripe.emulator.replies import Reply, invalid, ok
from usageflow.stripe.emulator.state import Account

CANCEL_WINDOW: Final = timedelta(hours=24)
INVALID_CANCEL: Final = "invalid_cancel_configuration"


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/billing/meter_event_adjustments`."""
    if "identifier" not in call.params.get("cancel", {}):
        return invalid("Missing required param: cancel[identifier].", param="cancel[identifier]")
    fault = _cancel(account, call.params, now)
    if fault is not None:
        return invalid(fault, param="cancel[identifier]")
    return ok(_shown(account, call.params, "billing.meter_event_adjustment"))


def create_v2(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v2/billing/meter_event_adjustments`."""
    fault = _cancel(account, call.params, now)
    if fault is not None:
        return invalid(fault, code=INVALID_CANCEL)
    shown = _shown(account, call.params, "v2.billing.meter_event_adjustment")
    return ok({**shown, "id": account.new_id("mtradj"), "created": rfc3339(now)})


def _cancel(account: Account, params: dict[str, Any], now: datetime) -> str | None:
    """Cancel the event, or say why that cannot be."""
    identifier = params["cancel"]["identifier"]
    event = account.received.get(identifier)
    if event is None or event.event_name != params["event_name"]:
        return f"No event of this name exists with identifier {identifier}."
    if event.state != "applied":
        return f"The event with identifier {identifier} is {event.state}."
    if now - event.received_at >= CANCEL_WINDOW:
        return "Events can only be cancelled within 24 hours of Stripe receiving them."
    account.record("cancelled", event, now)
    return None


def _shown(account: Account, params: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "object": kind,
        "cancel": {"identifier": params["cancel"]["identifier"]},
        "event_name": params["event_name"],
        "livemode": account.livemode,
        "status": "complete",
        "type": "cancel",
    }


HANDLERS: Final = {
    "PostBillingMeterEventAdjustments": create,
    "PostV2BillingMeterEventAdjustments": create_v2,
}
