"""Meter event summaries: what Stripe made of a customer's events, whole or per hour or UTC day.

Sums inside are exact; `aggregated_value` leaves as the binary float that Stripe's API has there.
With a grouping window only windows that hold events are listed. A lag can be set, after which an
event is seen here; one that was cancelled or rejected is gone at once.
"""

import hashlib
from collections import defaultdict
from datetime import datetime
from typing import Any, Final

from usageflow.stripe.emulator.contract import Call
from usageflow.stripe.emulator.journal import MeterEvent
from usageflow.stripe.emulator.paging import page
from usageflow.stripe.emulator.replies import Reply, invalid, missing
from usageflow.stripe.emulator.state import (
    DAY_S,
    HOUR_S,
    Account,
    Meter,
    aggregate,
)

MINUTE_S: Final = 60
_WIDTHS: Final = {None: MINUTE_S, "hour": HOUR_S, "day": DAY_S}


def list_all(account: Account, call: Call, now: datetime) -> Reply:
    """`GET /v1/billing/meters/{id}/event_summaries`."""
    meter = account.meters.get(call.path["id"])
    if meter is None:
        return missing("meter", call.path["id"])
    window = call.params.get("value_grouping_window")
    start, end = call.params["start_time"], call.params["end_time"]
    refusal = _alignment_refusal(start, end, _WIDTHS[window], window or "minute")
    if refusal is not None:
        return refusal
    customer = call.params["customer"]
    events = [
        event
        for event in account.counted(meter.event_name, customer)
        if start <= event.timestamp < end and event.received_at <= now - account.summary_lag
    ]
    groups = _grouped(events, start, end, None if window is None else _WIDTHS[window])
    shown = [
        _shown(meter, customer, interval, group) | {"livemode": account.livemode}
        for interval, group in sorted(groups.items(), reverse=True)
    ]
    return page(shown, call.params, f"/v1/billing/meters/{meter.object_id}/event_summaries")


def _alignment_refusal(start: int, end: int, width: int, name: str) -> Reply | None:
    for param, instant in (("start_time", start), ("end_time", end)):
        if instant % width:
            return invalid(f"{param} must be aligned with {name} boundaries.", param=param)
    if start >= end:
        return invalid("end_time must be after start_time.", param="end_time")
    return None


def _grouped(
    events: list[MeterEvent], start: int, end: int, width: int | None
) -> dict[tuple[int, int], list[MeterEvent]]:
    if width is None:
        return {(start, end): events}
    groups: dict[tuple[int, int], list[MeterEvent]] = defaultdict(list)
    for event in events:
        first = event.timestamp // width * width
        groups[first, first + width].append(event)
    return groups


def _shown(
    meter: Meter, customer: str, interval: tuple[int, int], events: list[MeterEvent]
) -> dict[str, Any]:
    start, end = interval
    place = f"{meter.object_id}|{customer}|{start}|{end}"
    return {
        "id": "mtrusg_" + hashlib.sha256(place.encode()).hexdigest()[:24],
        "object": "billing.meter_event_summary",
        "aggregated_value": float(aggregate(meter, events)) if events else 0.0,
        "start_time": start,
        "end_time": end,
        "meter": meter.object_id,
    }


HANDLERS: Final = {
    "GetBillingMetersIdEventSummaries": list_all,
}
