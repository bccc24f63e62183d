"""Asynchronous rejections: what Stripe accepted with a 200 and dropped afterwards, and its reports.

Pure: rejections are collected in windows of ten seconds and become reports, which name only some
samples. Writing the journal and emitting the events is the account's business.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from usageflow.stripe.emulator.instants import rfc3339
from usageflow.stripe.emulator.journal import MeterEvent

WINDOW_S: Final = 10
"""The validation window in Stripe's published samples."""
CUSTOMER_NOT_FOUND: Final = "meter_event_customer_not_found"
REPORT: Final = "v1.billing.meter.error_report_triggered"
NO_METER_REPORT: Final = "v1.billing.meter.no_meter_found"


class Wish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A test's wish that right events are rejected later: one by identifier, or the next `count`
    of an event name, or of any.
    """

    identifier: str | None = None
    event_name: str | None = None
    code: str = CUSTOMER_NOT_FOUND
    count: int = 1

    def fits(self, event: MeterEvent) -> bool:
        """Whether this event is meant."""
        return self.identifier in (None, event.identifier) and self.event_name in (
            None,
            event.event_name,
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """One event that was dropped; `meter_id` is None if no meter has its name."""

    identifier: str
    meter_id: str | None
    code: str
    message: str
    at: datetime


class Report(NamedTuple):
    """A thin event to come: its type, its related object and its data."""

    kind: str
    related_object: dict[str, Any]
    data: dict[str, Any]


class Rejections:
    """The rejections of an account that are not reported yet, and those that are wished for."""

    def __init__(self) -> None:
        self.waiting: list[Rejection] = []
        self.wishes: list[Wish] = []

    def wished(self, event: MeterEvent) -> str | None:
        """The code of the first wish that this event fulfils, which is used up once."""
        for wish in self.wishes:
            if wish.fits(event):
                wish.count -= 1
                self.wishes = [one for one in self.wishes if one.count > 0]
                return wish.code
        return None

    def due(self, now: datetime, delay: timedelta, samples: int) -> Iterator[Report]:
        """The reports due at `now`: of each meter and window whose oldest rejection has waited.

        A report leaves nothing of its window behind.
        """
        windows: dict[tuple[str | None, int], list[Rejection]] = {}
        for rejection in self.waiting:
            place = rejection.meter_id, int(rejection.at.timestamp()) // WINDOW_S * WINDOW_S
            windows.setdefault(place, []).append(rejection)
        self.waiting = []
        for (meter_id, start), rejections in windows.items():
            if now - rejections[0].at < delay:
                self.waiting.extend(rejections)
            else:
                yield _report(meter_id, start, rejections, samples)


def _report(meter_id: str | None, start: int, rejections: list[Rejection], samples: int) -> Report:
    codes: dict[str, list[Rejection]] = {}
    for rejection in rejections:
        codes.setdefault(rejection.code, []).append(rejection)
    number = len(rejections)
    noun = "There is 1 invalid event" if number == 1 else f"There are {number} invalid events"
    data = {
        "developer_message_summary": noun,
        "reason": {
            "error_count": number,
            "error_types": [
                {
                    "code": code,
                    "error_count": len(group),
                    "sample_errors": list(_samples(group[:samples])),
                }
                for code, group in codes.items()
            ],
        },
        "validation_start": rfc3339(datetime.fromtimestamp(start, UTC)),
        "validation_end": rfc3339(datetime.fromtimestamp(start + WINDOW_S, UTC)),
    }
    if meter_id is None:
        return Report(NO_METER_REPORT, {}, data)
    url = f"/v1/billing/meters/{meter_id}"
    return Report(REPORT, {"id": meter_id, "type": "billing.meter", "url": url}, data)


def _samples(rejections: Iterable[Rejection]) -> Iterator[dict[str, Any]]:
    for rejection in rejections:
        request = {"identifier": rejection.identifier}
        yield {"error_message": rejection.message, "request": request}
