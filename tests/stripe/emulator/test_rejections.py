"""Asynchronous rejections: windows, delays, samples, and how a test asks for them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.rejections import Rejection, Rejections
from usageflow.stripe.emulator.remote import RemoteEmulator

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
NO_DELAY = timedelta(0)
NOT_FOUND = "meter_event_customer_not_found"


def rejected(*seconds: float, meter: str | None = "mtr_1", code: str = NOT_FOUND) -> Rejections:
    """Rejections so many seconds after nine o'clock."""
    made = Rejections()
    made.waiting = [
        Rejection(f"id_{second:g}", meter, code, "No customer.", NOW + timedelta(seconds=second))
        for second in seconds
    ]
    return made


def test_a_report_covers_ten_seconds_of_one_meter() -> None:
    """Counts are complete, samples are capped, and the window is aligned."""
    waiting = rejected(1, 2, 9.9, 10)
    first, second = waiting.due(NOW + timedelta(seconds=60), NO_DELAY, 2)
    assert first.related_object == {
        "id": "mtr_1",
        "type": "billing.meter",
        "url": "/v1/billing/meters/mtr_1",
    }
    assert first.data["developer_message_summary"] == "There are 3 invalid events"
    assert second.data["developer_message_summary"] == "There is 1 invalid event"
    assert first.data["validation_start"] == "2026-11-21T09:00:00.000Z"
    assert first.data["validation_end"] == second.data["validation_start"]
    assert first.data["reason"]["error_count"] == 3
    (kind,) = first.data["reason"]["error_types"]
    assert (kind["code"], kind["error_count"]) == (NOT_FOUND, 3)
    assert [sample["request"]["identifier"] for sample in kind["sample_errors"]] == ["id_1", "id_2"]
    assert list(waiting.due(NOW + timedelta(seconds=99), NO_DELAY, 2)) == []


def test_errors_are_told_apart_by_code() -> None:
    """One report of a meter has a type per code."""
    waiting = rejected(1)
    waiting.waiting += rejected(2, code="archived_meter").waiting
    (report,) = waiting.due(NOW + timedelta(seconds=3), NO_DELAY, 0)
    kinds = report.data["reason"]["error_types"]
    assert [kind["code"] for kind in kinds] == [NOT_FOUND, "archived_meter"]
    assert [kind["sample_errors"] for kind in kinds] == [[], []]


def test_an_event_without_a_meter_has_a_report_of_its_own() -> None:
    """Nothing is related to it."""
    (report,) = rejected(0, meter=None, code="no_meter").due(NOW, NO_DELAY, 5)
    assert (report.kind, report.related_object) == ("v1.billing.meter.no_meter_found", {})


def test_a_report_waits_for_its_delay() -> None:
    """Until the oldest of a window has waited, nothing of it is told."""
    waiting = rejected(1, 2)
    delay = timedelta(seconds=30)
    assert list(waiting.due(NOW + timedelta(seconds=30), delay, 5)) == []
    (report,) = waiting.due(NOW + timedelta(seconds=31), delay, 5)
    assert report.data["reason"]["error_count"] == 2


@pytest.fixture
def customer(emulator: RemoteEmulator) -> str:
    """A customer, in an account with two meters."""
    return emulator.seed([{"account_id": "acct_1"}], ["tokens", "calls"])[0]


def send(sdk: stripe_sdk.StripeClient, customer: str, name: str, identifier: str) -> None:
    """Send a meter event of 5."""
    payload = {"stripe_customer_id": customer, "value": "5"}
    event: Any = {"event_name": name, "payload": payload, "identifier": identifier}
    sdk.v1.billing.meter_events.create(event)


def test_right_events_are_rejected_later_on_demand(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """The next events of a name, or one identifier before it is sent; the others count."""
    emulator.reject(event_name="tokens", count=2)
    emulator.reject(identifier="c1", code="archived_meter")
    for number in range(3):
        send(sdk, customer, "calls", f"c{number}")
        send(sdk, customer, "tokens", f"t{number}")
    assert [row["identifier"] for row in emulator.journal()] == ["c0", "c2", "t2"]
    later = [row for row in emulator.journal(every=True) if row["kind"] == "rejected"]
    assert [(row["identifier"], row["code"]) for row in later] == [
        ("t0", NOT_FOUND),
        ("c1", "archived_meter"),
        ("t1", NOT_FOUND),
    ]


def test_what_counted_is_rejected_afterwards(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """The event leaves the sums, is reported once, and its line no longer counts."""
    for number in range(2):
        send(sdk, customer, "tokens", f"t{number}")
    emulator.reject(identifier="t0")
    assert [row["identifier"] for row in emulator.journal()] == ["t1"]
    kinds = [(row["kind"], row["identifier"]) for row in emulator.journal(every=True)]
    assert kinds == [("applied", "t0"), ("applied", "t1"), ("rejected", "t0")]
    assert str(emulator.applied("account_id")["acct_1", "tokens"]) == "5"
    assert len(sdk.v2.core.events.list().data) == 1
