"""The page of the emulator: everything a person looks for, and nothing that is secret."""

from typing import Any

import httpx
import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator import page
from usageflow.stripe.emulator.remote import RemoteEmulator


def test_an_empty_emulator_says_so(emulator: RemoteEmulator) -> None:
    """Before the first call there is a page, too."""
    assert "No calls yet." in httpx.get(emulator.url).text


def test_the_page_shows_usage_meters_calls_and_no_key(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator
) -> None:
    """A person sees who used what and what became of it; text from outside is escaped."""
    meters: Any = ["tokens", {"event_name": "seats", "formula": "last", "event_time_window": "day"}]
    ada = emulator.seed([{"account_id": "<b>acct_1</b>"}], meters)[0]
    for customer in (ada, "cus_<i>"):
        payload = {"stripe_customer_id": customer, "value": "42"}
        event: Any = {"event_name": "tokens", "payload": payload}
        sdk.v1.billing.meter_events.create(event)
    emulator.fault("slow", route="/v1/customers", seconds=2.5)
    emulator.plan(
        {"route": "/v1/x", "kind": "status", "rate": 0.3, "after_commit": True},
        {"route": "/v1/y", "kind": "reset", "count": 2},
    )
    emulator.limit(search_per_s=7.5)
    text = httpx.get(emulator.url).text
    for shown in (
        "account_id &lt;b&gt;acct_1&lt;/b&gt;",
        '<td class="number">42</td>',
        "last of the newest per day",
        "POST /v1/billing/meter_events",
        "status 500, after it takes effect, always, 30% of the calls",
        "reset, before it takes effect, 2 more, 100% of the calls",
        "search_per_s",
        "7.5",
        "rejected<small>meter_event_customer_not_found",
        "cus_&lt;i&gt;",
    ):
        assert shown in text
    assert emulator.api_key not in text


def test_limits_are_shown_only_while_they_hold(emulator: RemoteEmulator) -> None:
    """What is switched off is no news; a slow call is told with its seconds."""
    emulator.fault("slow", seconds=2.5)
    text = httpx.get(emulator.url).text
    assert "Rate limits" not in text
    assert "2.5 s slow" in text


@pytest.mark.parametrize(("status", "error"), [(200, None), (None, "ConnectError")])
def test_deliveries_are_shown_newest_first(status: int | None, error: str | None) -> None:
    """A delivery with its endpoint and how it ended; the oldest of many are left out."""
    log = [
        {"type": f"t{number}", "event": "evt", "endpoint": "we_1", "status": status, "error": error}
        for number in range(20)
    ]
    text = page.deliveries(log)
    assert text.index("t19") < text.index("t8<")
    assert "t7<" not in text
    assert str(status or error) in text
    assert page.deliveries([]) == ""
