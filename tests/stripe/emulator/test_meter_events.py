"""Meter events of the emulator: the identifier window and what Stripe refuses at once."""

from typing import Any

import pytest
import stripe as stripe_sdk

from usageflow.stripe.emulator.remote import RemoteEmulator

DAY_S = 86_400


@pytest.fixture
def customer(emulator: RemoteEmulator) -> str:
    """A customer, in an account with meters of every kind."""
    meters: list[str | dict[str, str]] = [
        "tokens",
        {"event_name": "calls", "formula": "count"},
        {"event_name": "seats", "formula": "last"},
    ]
    return emulator.seed([{"account_id": "acct_1"}], meters)[0]


def event(customer: str, value: str | None = "5", name: str = "tokens", **other: Any) -> Any:
    """The parameters of a meter event."""
    payload = {"stripe_customer_id": customer, "value": value}
    return {
        "event_name": name,
        "payload": {key: item for key, item in payload.items() if item is not None},
        **other,
    }


def refusal(sdk: stripe_sdk.StripeClient, params: Any) -> stripe_sdk.InvalidRequestError:
    """The 400 that these parameters get."""
    with pytest.raises(stripe_sdk.InvalidRequestError) as caught:
        sdk.v1.billing.meter_events.create(params)
    assert caught.value.http_status == 400
    return caught.value


def test_an_event_is_counted_and_shown(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """The answer repeats the event; the journal has it with its exact value."""
    made = sdk.v1.billing.meter_events.create(event(customer, "0.1", identifier="one"))
    assert (made.identifier, made.event_name, made.livemode) == ("one", "tokens", False)
    sdk.v1.billing.meter_events.create(event(customer, "0.2"))
    rows = list(emulator.journal())
    assert [row["value"] for row in rows] == ["0.1", "0.2"]
    assert {key: str(value) for key, value in emulator.applied("account_id").items()} == {
        ("acct_1", "tokens"): "0.3"
    }


def test_a_duplicate_within_24_hours_is_refused_and_counted_again_after(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """400 with the message only and no retry advice within the window; a second charge after it."""
    sdk.v1.billing.meter_events.create(event(customer, identifier="one"))
    emulator.advance(DAY_S - 60)
    error = refusal(sdk, event(customer, identifier="one"))
    assert "An event already exists with identifier one." in str(error)
    assert error.code is None
    assert error.headers is not None
    assert error.headers["Stripe-Should-Retry"] == "false"
    emulator.advance(60)
    sdk.v1.billing.meter_events.create(event(customer, identifier="one"))
    assert [row["identifier"] for row in emulator.journal()] == ["one", "one"]


def test_a_refused_event_does_not_use_its_identifier(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """After a 400 the same identifier can be sent again, corrected."""
    refusal(sdk, event(customer, "x", identifier="one"))
    sdk.v1.billing.meter_events.create(event(customer, identifier="one"))
    assert len(list(emulator.journal())) == 1


@pytest.mark.parametrize(
    ("border", "message"),
    [(-35 * DAY_S, "more than 35 days in past"), (300, "more than 5 minutes in the future")],
)
def test_timestamps_have_a_window(
    sdk: stripe_sdk.StripeClient,
    emulator: RemoteEmulator,
    customer: str,
    border: int,
    message: str,
) -> None:
    """35 days back and 5 minutes ahead are the borders, with Stripe's words beyond them."""
    now = sdk.v1.billing.meter_events.create(event(customer)).timestamp
    outside, inside = (now + border + step * (1 if border > 0 else -1) for step in (10, -20))
    assert message in str(refusal(sdk, event(customer, timestamp=outside)))
    sdk.v1.billing.meter_events.create(event(customer, timestamp=inside))
    assert [row["timestamp"] for row in emulator.journal()] == [now, inside]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"name": "other"}, ('No active meter found for event name "other"', "event_name")),
        ({"customer": ""}, ("has no customer", "payload[stripe_customer_id]")),
        ({"value": None}, ("has no value", "payload[value]")),
        ({"value": "1e3"}, ("must be a number", "payload[value]")),
        ({"value": "NaN"}, ("must be a number", "payload[value]")),
        ({"value": "1234567890123456"}, ("at most 15 digits", "payload[value]")),
        ({"value": "0.1234567890123456"}, ("at most 15 digits", "payload[value]")),
    ],
)
def test_a_wrong_event_is_refused_at_once(
    sdk: stripe_sdk.StripeClient,
    emulator: RemoteEmulator,
    customer: str,
    changes: dict[str, Any],
    refused: tuple[str, str],
) -> None:
    """Each synchronous refusal names its parameter and leaves nothing behind."""
    message, param = refused
    error = refusal(sdk, event(**{"customer": customer, **changes}))
    assert message in str(error)
    assert param == error.param
    assert list(emulator.journal()) == []


@pytest.mark.parametrize("value", ["123456789012345", "0.00012345", "-3", "00001"])
def test_15_significant_digits_are_accepted(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str, value: str
) -> None:
    """Leading zeros do not count, negative values are allowed."""
    sdk.v1.billing.meter_events.create(event(customer, value))
    assert len(list(emulator.journal())) == 1


def test_a_deactivated_meter_takes_nothing(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """An inactive meter refuses events as an absent one does."""
    sdk.v1.billing.meters.deactivate(emulator.state()["accounts"][0]["meters"][0]["id"])
    assert "No active meter" in str(refusal(sdk, event(customer)))


def test_an_event_for_nobody_is_accepted_and_dropped_later(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """An unknown or deleted customer is no synchronous error, and the usage is lost."""
    sdk.v1.customers.delete(customer)
    for nobody in ("cus_unknown", customer):
        sdk.v1.billing.meter_events.create(event(nobody))
    assert list(emulator.journal()) == []
    account = emulator.state()["accounts"][0]
    assert account["rejected_later"] == {"meter_event_customer_not_found": 2}


def test_formulas_aggregate_as_stripe_does(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """Count ignores values and needs none; last is the value with the latest timestamp."""
    now = sdk.v1.billing.meter_events.create(event(customer, None, "calls")).timestamp
    sdk.v1.billing.meter_events.create(event(customer, "7", "calls"))
    sdk.v1.billing.meter_events.create(event(customer, "7", "seats", timestamp=now))
    sdk.v1.billing.meter_events.create(event(customer, "9", "seats", timestamp=now - 60))
    sdk.v1.billing.meter_events.create(event(customer, "8", "seats", timestamp=now))
    applied = {name: str(value) for (_, name), value in emulator.applied("account_id").items()}
    assert applied == {"calls": "2", "seats": "8"}


def test_a_meter_reads_the_keys_it_was_made_with(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """Customer and value are under the names that the meter maps."""
    sdk.v1.billing.meters.create(
        {
            "display_name": "Bytes",
            "event_name": "bytes",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "who"},
            "value_settings": {"event_payload_key": "size"},
        }
    )
    payload = {"who": customer, "size": "9", "value": "1"}
    sdk.v1.billing.meter_events.create({"event_name": "bytes", "payload": payload})
    assert [(row["customer"], row["value"]) for row in emulator.journal()] == [(customer, "9")]


def test_the_journal_tells_what_was_refused(
    sdk: stripe_sdk.StripeClient, emulator: RemoteEmulator, customer: str
) -> None:
    """A duplicate and a wrong event are entries of other kinds, with the code and the attempts."""
    sdk.v1.billing.meter_events.create(event(customer, identifier="one"))
    refusal(sdk, event(customer, identifier="one"))
    refusal(sdk, event(customer, "five", identifier="two"))
    refusal(sdk, event(customer, name="nothing", identifier="three"))
    rows = [
        (row["kind"], row["identifier"], row["code"], row["attempts"])
        for row in emulator.journal(every=True)
    ]
    assert rows == [
        ("applied", "one", None, 2),
        ("duplicate", "one", "duplicate_meter_event", 2),
        ("refused", "two", "meter_event_invalid_value", 1),
        ("refused", "three", "no_meter", 1),
    ]
    assert emulator.attempts("four") == 0
