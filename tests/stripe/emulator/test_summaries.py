"""Meter event summaries of the emulator, driven by the official SDK over TCP."""

from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator

HOUR_S = 3_600
DAY_S = 86_400


class Metered:
    """A customer with one meter, and what it has used."""

    def __init__(
        self, sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, **meter: str
    ) -> None:
        self.sdk = sdk
        self.customer = emulator.seed([{}], [{"event_name": "tokens", **meter}])[0]
        self.meter = sdk.v1.billing.meters.list().data[0].id
        self.midnight = int(sdk.v1.customers.list().data[0].created) // DAY_S * DAY_S - DAY_S

    def use(self, value: str, at: int) -> None:
        """Send a meter event, `at` seconds after midnight."""
        payload = {"stripe_customer_id": self.customer, "value": value}
        params: Any = {"event_name": "tokens", "payload": payload, "timestamp": self.midnight + at}
        self.sdk.v1.billing.meter_events.create(params)

    def summaries(self, start: int, end: int, **other: Any) -> list[tuple[int, int, float]]:
        """(start, end, value) of the summaries between two moments after midnight, oldest first."""
        params: Any = {
            "customer": self.customer,
            "start_time": self.midnight + start,
            "end_time": self.midnight + end,
            **other,
        }
        listed = self.sdk.v1.billing.meters.event_summaries.list(self.meter, params)
        rows = [
            (row.start_time - self.midnight, row.end_time - self.midnight, row.aggregated_value)
            for row in listed.auto_paging_iter()
        ]
        return rows[::-1]


def test_windows_of_an_hour_and_of_a_day(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """Start is inclusive, end exclusive; grouped windows without events are left out."""
    metered = Metered(sdk, emulator)
    for value, at in (("1", 0), ("2", HOUR_S - 1), ("4", HOUR_S), ("0.5", 3 * HOUR_S)):
        metered.use(value, at)
    assert metered.summaries(0, 3 * HOUR_S, value_grouping_window="hour") == [
        (0, HOUR_S, 3.0),
        (HOUR_S, 2 * HOUR_S, 4.0),
    ]
    assert metered.summaries(0, DAY_S, value_grouping_window="day") == [(0, DAY_S, 7.5)]
    assert metered.summaries(60, HOUR_S) == [(60, HOUR_S, 2.0)]
    assert metered.summaries(60, 120) == [(60, 120, 0.0)]


def test_hours_are_paged(sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator) -> None:
    """More windows than fit one page are all found by following it."""
    metered = Metered(sdk, emulator)
    for hour in range(12):
        metered.use("1", hour * HOUR_S)
    found = metered.summaries(0, DAY_S, value_grouping_window="hour", limit=5)
    assert [hour * HOUR_S for hour in range(12)] == [start for start, _, _ in found]


def test_a_pre_aggregated_meter_counts_the_last_arrival_of_each_hour(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """With a time window a newer event replaces the earlier one of its hour."""
    metered = Metered(sdk, emulator, event_time_window="hour")
    for value, at in (("1", 0), ("10", 60), ("3", 30), ("5", HOUR_S)):
        metered.use(value, at)
    assert metered.summaries(0, DAY_S, value_grouping_window="day") == [(0, DAY_S, 8.0)]


@pytest.mark.parametrize(
    ("window", "grouping", "message"),
    [
        ((1, 60), None, "start_time must be aligned with minute"),
        ((0, 61), None, "end_time must be aligned with minute"),
        ((60, HOUR_S), "hour", "start_time must be aligned with hour"),
        ((0, HOUR_S), "day", "end_time must be aligned with day"),
        ((HOUR_S, HOUR_S), None, "end_time must be after"),
    ],
)
def test_misaligned_windows_are_refused(
    sdk: stripe_sdk.StripeClient,
    emulator: RemoteEmulator,
    window: tuple[int, int],
    grouping: str | None,
    message: str,
) -> None:
    """Alignment errors are 400s that name the boundary."""
    metered = Metered(sdk, emulator)
    other: Any = {} if grouping is None else {"value_grouping_window": grouping}
    with pytest.raises(stripe_sdk.InvalidRequestError, match=message):
        metered.summaries(*window, **other)


def test_an_unknown_meter_has_no_summaries(sdk: stripe_sdk.StripeClient) -> None:
    """The meter in the path must exist."""
    params: Any = {"customer": "cus_1", "start_time": 0, "end_time": 60}
    with pytest.raises(stripe_sdk.InvalidRequestError, match="No such meter"):
        sdk.v1.billing.meters.event_summaries.list("mtr_unknown", params)


def test_summaries_lag_behind_when_told_to(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """An event is seen after the lag, by the emulated clock."""
    emulator.set(summary_lag_s=60)
    metered = Metered(sdk, emulator)
    metered.use("5", 0)
    assert metered.summaries(0, HOUR_S) == [(0, HOUR_S, 0.0)]
    emulator.advance(60)
    assert metered.summaries(0, HOUR_S) == [(0, HOUR_S, 5.0)]


def test_a_cancelled_event_is_gone_from_the_summaries(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """What was cancelled or rejected is in no sum."""
    metered = Metered(sdk, emulator)
    for value in ("1", "2", "4"):
        metered.use(value, 0)
    first, second, _ = (row["identifier"] for row in emulator.journal())
    sdk.v1.billing.meter_event_adjustments.create(
        {"event_name": "tokens", "type": "cancel", "cancel": {"identifier": first}}
    )
    emulator.reject(identifier=second)
    assert metered.summaries(0, HOUR_S, value_grouping_window="hour") == [(0, HOUR_S, 4.0)]
