"""Meter events by v2, driven by the official SDK over TCP: one at a time, and in streams."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator

Connect = Callable[..., stripe_sdk.StripeClient]

QUARTER_S = 900


@pytest.fixture
def customer(emulator: RemoteEmulator) -> str:
    """A customer, in an account with meters of two kinds."""
    counted = {"event_name": "calls", "formula": "count"}
    return emulator.seed([{"account_id": "acct_1"}], ["tokens", counted])[0]


def event(customer: str, value: str | None = "5", name: str = "tokens", **other: Any) -> Any:
    """The parameters of a meter event."""
    payload = {"stripe_customer_id": customer, "value": value}
    return {
        "event_name": name,
        "payload": {key: item for key, item in payload.items() if item is not None},
        **other,
    }


@pytest.fixture
def session(sdk: stripe_sdk.StripeClient) -> Any:
    """A session of the account of `emulator`."""
    return sdk.v2.billing.meter_event_session.create()


def stream(sdk: stripe_sdk.StripeClient, session: Any, *events: Any) -> None:
    """Send events under the session's token."""
    options: Any = {"api_key": session.authentication_token}
    sdk.v2.billing.meter_event_stream.create({"events": list(events)}, options)


def test_one_event_is_answered_and_counted(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """The answer repeats the event with its time in words."""
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    given = event(customer, identifier="one", timestamp=moment.isoformat())
    made: Any = sdk.v2.billing.meter_events.create(given)
    assert (made.identifier, made.livemode) == ("one", False)
    assert datetime.fromisoformat(made.timestamp) == moment
    (row,) = emulator.journal()
    assert (row["identifier"], row["value"]) == ("one", "5")
    assert row["timestamp"] == int(moment.timestamp())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "nothing"}, "no_meter"),
        ({"customer": ""}, "payload_no_customer_defined"),
        ({"value": None}, "payload_no_value_defined"),
        ({"value": "five"}, "payload_invalid_value"),
        ({"value": "1234567890123456"}, "payload_invalid_value"),
        ({"timestamp": "2020-01-01T00:00:00Z"}, "timestamp_too_far_in_past"),
        ({"timestamp": "2120-01-01T00:00:00Z"}, "timestamp_in_future"),
        ({"timestamp": "now"}, None),
    ],
)
def test_a_wrong_event_is_refused_with_its_code(
    sdk: stripe_sdk.StripeClient,
    emulator: RemoteEmulator,
    customer: str,
    changes: Any,
    code: str | None,
) -> None:
    """The synchronous refusals of v2; nothing is counted."""
    with pytest.raises(stripe_sdk.InvalidRequestError) as caught:
        sdk.v2.billing.meter_events.create(event(**{"customer": customer, **changes}))
    assert caught.value.code == code
    assert list(emulator.journal()) == []


def test_an_archived_meter_has_a_code_of_its_own(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """A deactivated meter is not a missing one."""
    sdk.v1.billing.meters.deactivate(emulator.state()["accounts"][0]["meters"][0]["id"])
    with pytest.raises(stripe_sdk.InvalidRequestError) as caught:
        sdk.v2.billing.meter_events.create(event(customer))
    assert caught.value.code == "archived_meter"


def test_identifiers_are_one_for_both_versions(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, session: Any
) -> None:
    """What v1 has counted is a duplicate for v2, which says so, and for the stream, which does not.

    The journal tells every one.
    """
    sdk.v1.billing.meter_events.create(event(customer, identifier="one"))
    with pytest.raises(stripe_sdk.InvalidRequestError) as caught:
        sdk.v2.billing.meter_events.create(event(customer, identifier="one"))
    assert caught.value.code == "duplicate_meter_event"
    stream(sdk, session, event(customer, identifier="one"), event(customer, identifier="two"))
    rows = [(row["kind"], row["identifier"]) for row in emulator.journal(every=True)]
    assert rows == [
        ("applied", "one"),
        ("duplicate", "one"),
        ("duplicate", "one"),
        ("applied", "two"),
    ]
    assert emulator.attempts("one") == 3
    assert sdk.v2.core.events.list().data == []


def test_an_event_sent_twice_in_one_batch_counts_once(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, session: Any
) -> None:
    """The second one is dropped without a word."""
    stream(sdk, session, *[event(customer, identifier="one")] * 2)
    assert len(list(emulator.journal())) == 1


def test_what_is_wrong_in_a_stream_is_told_later(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, session: Any
) -> None:
    """The right events of the batch count; each wrong one is in a report, with its code."""
    stream(
        sdk,
        session,
        event(customer, identifier="right"),
        event("cus_unknown", identifier="unknown"),
        event(customer, "five", identifier="word"),
        event(customer, "1234567890123456", identifier="long"),
        event(customer, None, identifier="none"),
        event("", identifier="nobody"),
        event(customer, identifier="old", timestamp="2020-01-01T00:00:00Z"),
        event(customer, identifier="new", timestamp="2120-01-01T00:00:00Z"),
        event(customer, name="nothing", identifier="stray"),
        event(customer, None, name="calls", identifier="call"),
    )
    assert [row["identifier"] for row in emulator.journal()] == ["right", "call"]
    reports: Any = sdk.v2.core.events.list().data
    told = {
        sample.request.identifier: kind.code
        for report in reports
        for kind in report.data.reason.error_types
        for sample in kind.sample_errors
    }
    assert told == {
        "unknown": "meter_event_customer_not_found",
        "word": "meter_event_invalid_value",
        "long": "meter_event_value_too_many_digits",
        "none": "meter_event_value_not_found",
        "nobody": "meter_event_no_customer_defined",
        "old": "timestamp_too_far_in_past",
        "new": "timestamp_in_future",
        "stray": "no_meter",
    }
    strays = [report for report in reports if report.type == "v1.billing.meter.no_meter_found"]
    assert len(strays) == 1


@pytest.mark.parametrize("number", [0, 101])
def test_a_batch_has_1_to_100_events(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, session: Any, number: int
) -> None:
    """A batch of another size is refused whole."""
    headers = {
        "authorization": f"Bearer {session.authentication_token}",
        "stripe-version": "2026-10-28.endive",
    }
    answer = httpx.post(
        f"{emulator.url}/v2/billing/meter_event_stream",
        json={"events": [event(customer)] * number},
        headers=headers,
    )
    assert answer.status_code == 400
    assert list(emulator.journal()) == []
    stream(sdk, session, *[event(customer)] * 100)
    assert len(list(emulator.journal())) == 100


def test_a_time_that_is_none_refuses_the_batch(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, session: Any
) -> None:
    """What breaks the format is no matter of a later report."""
    with pytest.raises(stripe_sdk.InvalidRequestError, match="RFC 3339") as caught:
        stream(sdk, session, event(customer), event(customer, timestamp="now"))
    assert caught.value.param == "events[1][timestamp]"
    assert list(emulator.journal()) == []


def test_a_session_ends_after_15_minutes(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, session: Any
) -> None:
    """By the emulated clock; the SDK knows the error, and a new session helps."""
    life = datetime.fromisoformat(session.expires_at) - datetime.fromisoformat(session.created)
    assert life.total_seconds() == QUARTER_S
    emulator.advance(QUARTER_S - 60)
    stream(sdk, session, event(customer))
    emulator.advance(60)
    with pytest.raises(stripe_sdk.TemporarySessionExpiredError) as caught:
        stream(sdk, session, event(customer))
    assert caught.value.http_status == 401
    assert caught.value.code == "billing_meter_event_session_expired"
    stream(sdk, sdk.v2.billing.meter_event_session.create(), event(customer))
    assert len(list(emulator.journal())) == 2


def test_a_secret_key_is_no_token(sdk: stripe_sdk.StripeClient, customer: str) -> None:
    """The stream knows sessions only."""
    with pytest.raises(stripe_sdk.TemporarySessionExpiredError):
        sdk.v2.billing.meter_event_stream.create({"events": [event(customer)]})


def test_a_connected_account_has_its_own_stream(emulator: RemoteEmulator, connect: Connect) -> None:
    """A session opened with Stripe-Context counts in that account."""
    headers = {"authorization": f"Bearer {emulator.api_key}", "stripe-account": "acct_other"}
    body: Any = {"customers": [{}], "meters": [{"event_name": "tokens"}]}
    seeded = httpx.post(f"{emulator.url}/_emulator/seed", json=body, headers=headers).json()
    platform = connect(stripe_context="acct_other")
    stream(
        connect(),
        platform.v2.billing.meter_event_session.create(),
        event(seeded["customers"][0], identifier="one"),
    )
    platform.v2.billing.meter_events.create(event(seeded["customers"][0], identifier="two"))
    assert {row["account"] for row in emulator.journal()} == {"acct_other"}


def test_a_deauthorized_account_streams_no_more(emulator: RemoteEmulator, connect: Connect) -> None:
    """Its sessions end with its connection."""
    headers = {"authorization": f"Bearer {emulator.api_key}", "stripe-account": "acct_other"}
    httpx.post(f"{emulator.url}/_emulator/seed", json={}, headers=headers).raise_for_status()
    session = connect(stripe_context="acct_other").v2.billing.meter_event_session.create()
    stream(connect(), session, event("cus_unknown"))
    emulator.deauthorize("acct_other")
    with pytest.raises(stripe_sdk.TemporarySessionExpiredError):
        stream(connect(), session, event("cus_unknown"))


def test_the_stream_is_limited_by_events(
    emulator: RemoteEmulator, connect: Connect, sdk: stripe_sdk.StripeClient
) -> None:
    """In live mode a batch takes as much as it has events."""
    live = connect("sk_live_A")
    session = live.v2.billing.meter_event_session.create()
    batch = [event("cus_unknown", name="nothing")] * 60
    emulator.limit(stream_events_per_s=0.001)
    stream(live, session, *batch)
    with pytest.raises(stripe_sdk.RateLimitError):
        stream(live, session, *batch)
