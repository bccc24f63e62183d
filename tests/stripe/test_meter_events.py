"""What Stripe is told about a unit."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.ledger.verdicts import Held
from usageflow.stripe.meter_events import Meter, MeterEvent, meter_event, plain

NOON = datetime(2026, 11, 21, 12, 0, 0, 999_999, tzinfo=UTC)


def told(quantity: str, meter: Meter | None = None) -> MeterEvent | Held:
    """The event of a unit of this quantity."""
    return meter_event(
        meter or Meter(event_name="tokens"),
        customer="cus_1",
        quantity=Decimal(quantity),
        identifier="uf1_x",
        occurred_at=NOON,
    )


def test_an_event_says_who_how_much_and_when() -> None:
    """The payload has Stripe's default keys, the value as text, the time in whole seconds."""
    assert told("7") == MeterEvent(
        event_name="tokens",
        identifier="uf1_x",
        timestamp=int(NOON.timestamp()),
        payload={"stripe_customer_id": "cus_1", "value": "7"},
    )


def test_a_meter_may_have_keys_of_its_own() -> None:
    """The payload follows the meter's mapping."""
    event = told("7", Meter(event_name="tokens", customer_key="payer", value_key="amount"))
    assert isinstance(event, MeterEvent)
    assert event.payload == {"payer": "cus_1", "amount": "7"}


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        ("0", "0"),
        ("0.000", "0"),
        ("1E+3", "1000"),
        ("5.000", "5"),
        ("100", "100"),
        ("0.00000012345", "0.00000012345"),
        ("123456789012345", "123456789012345"),
        ("12345.6789012345", "12345.6789012345"),
    ],
)
def test_values_are_plain_and_short(quantity: str, text: str) -> None:
    """No exponent, no zeros that say nothing, up to 15 significant digits."""
    event = told(quantity)
    assert isinstance(event, MeterEvent)
    assert event.payload["value"] == text


@pytest.mark.parametrize("quantity", ["1234567890123456", "0.1234567890123456", "1E+15"])
def test_more_digits_than_stripe_takes_are_held(quantity: str) -> None:
    """16 digits are not rounded and not sent."""
    held = told(quantity)
    assert isinstance(held, Held)
    assert "16 digits; Stripe takes at most 15" in held.reason


def test_a_meter_that_keeps_only_the_last_event_is_held() -> None:
    """Sending single events to a pre-aggregated meter would lose all but one of each hour."""
    held = told("7", Meter(event_name="tokens", time_window="hour"))
    assert isinstance(held, Held)
    assert "keeps only the last event of each hour" in held.reason


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=0))
def test_plain_is_exact(quantity: Decimal) -> None:
    """Whatever is left away, the number is the same."""
    assert Decimal(plain(quantity)) == quantity
    assert "E" not in plain(quantity)
