"""Meters: create, list, retrieve, rename, deactivate and reactivate.

An event name belongs to one meter for ever, an inactive one included. What changes is told as a
snapshot event.
"""

from datetime import datetime
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.paging import page
from usageflow.stripe.emulator.replies import Reply, invalid, missing, ok
from usageflow.stripe.emulator.snapshots import previous_attributes
from usageflow.stripe.emulator.state import Account, Meter


def create(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/billing/meters`."""
    name = call.params["event_name"]
    if account.meter_named(name) is not None:
        message = f'There is already a meter with the event name "{name}".'
        return invalid(message, param="event_name")
    created = int(now.timestamp())
    meter = Meter(
        object_id=account.new_id("mtr"),
        event_name=name,
        display_name=call.params["display_name"],
        formula=call.params["default_aggregation"]["formula"],
        customer_key=call.params.get("customer_mapping", {}).get(
            "event_payload_key", "stripe_customer_id"
        ),
        value_key=call.params.get("value_settings", {}).get("event_payload_key", "value"),
        time_window=call.params.get("event_time_window"),
        created=created,
        updated=created,
    )
    account.meters[meter.object_id] = meter
    shown = _shown(account, meter)
    account.emit("billing.meter.created", shown, now)
    return ok(shown)


def retrieve(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/billing/meters/{id}`."""
    meter = account.meters.get(call.path["id"])
    return missing("meter", call.path["id"]) if meter is None else ok(_shown(account, meter))


def list_all(account: Account, call: Call, _now: datetime) -> Reply:
    """`GET /v1/billing/meters`, optionally of one status."""
    shown = [_shown(account, meter) for meter in reversed(account.meters.values())]
    status = call.params.get("status")
    wanted = [meter for meter in shown if status in (None, meter["status"])]
    return page(wanted, call.params, "/v1/billing/meters")


def rename(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/billing/meters/{id}`: the display name is all that can change."""
    meter = account.meters.get(call.path["id"])
    if meter is None:
        return missing("meter", call.path["id"])
    before = _shown(account, meter)
    meter.display_name = call.params.get("display_name", meter.display_name)
    meter.updated = int(now.timestamp())
    return ok(_told(account, meter, "updated", before, now))


def deactivate(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/billing/meters/{id}/deactivate`: no more meter events are accepted."""
    return _switch(account, call, now, active=False)


def reactivate(account: Account, call: Call, now: datetime) -> Reply:
    """`POST /v1/billing/meters/{id}/reactivate`."""
    return _switch(account, call, now, active=True)


def _switch(account: Account, call: Call, now: datetime, *, active: bool) -> Reply:
    meter = account.meters.get(call.path["id"])
    if meter is None:
        return missing("meter", call.path["id"])
    if meter.active == active:
        return invalid(f"The meter is already {'active' if active else 'inactive'}.")
    before = _shown(account, meter)
    meter.updated = int(now.timestamp())
    meter.deactivated_at = None if active else meter.updated
    change = "reactivated" if active else "deactivated"
    return ok(_told(account, meter, change, before, now))


def _told(
    account: Account, meter: Meter, change: str, before: dict[str, Any], now: datetime
) -> dict[str, Any]:
    """The meter as it is now; an event has told of the change, if there was one."""
    shown = _shown(account, meter)
    if changed := previous_attributes(before, shown):
        account.emit(f"billing.meter.{change}", shown, now, changed)
    return shown


def _shown(account: Account, meter: Meter) -> dict[str, Any]:
    return {
        "id": meter.object_id,
        "object": "billing.meter",
        "created": meter.created,
        "customer_mapping": {"type": "by_id", "event_payload_key": meter.customer_key},
        "default_aggregation": {"formula": meter.formula},
        "display_name": meter.display_name,
        "event_name": meter.event_name,
        "event_time_window": meter.time_window,
        "livemode": account.livemode,
        "status": "active" if meter.active else "inactive",
        "status_transitions": {"deactivated_at": meter.deactivated_at},
        "updated": meter.updated,
        "value_settings": {"event_payload_key": meter.value_key},
    }


HANDLERS: Final = {
    "PostBillingMeters": create,
    "GetBillingMeters": list_all,
    "GetBillingMetersId": retrieve,
    "PostBillingMetersId": rename,
    "PostBillingMetersIdDeactivate": deactivate,
    "PostBillingMetersIdReactivate": reactivate,
}
