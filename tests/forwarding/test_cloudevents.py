"""Units as CloudEvents."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.forwarding.cloudevents import OPENING, encoded, encoded_batch, source_of
from usageflow.forwarding.sink import Parcel

SOURCE = source_of("inst", "acc")


def parcel(quantity: Decimal = Decimal(5), customer: str = "acct_42") -> Parcel:
    """A unit."""
    return Parcel(
        identifier="uf1_abc",
        event_name="tokens",
        customer=customer,
        identity_field="account_id",
        identity_value=customer,
        quantity=quantity,
        occurred_at=datetime(2026, 11, 2, 10, 30, tzinfo=UTC),
    )


def test_an_event_says_everything_of_a_unit() -> None:
    """Structured JSON of CloudEvents 1.0, in a form that never changes."""
    assert json.loads(encoded(parcel(), SOURCE)) == {
        "specversion": "1.0",
        "id": "uf1_abc",
        "source": "urn:usageflow:inst:acc",
        "type": "com.usageflow.usage",
        "subject": "acct_42",
        "time": "2026-11-02T10:30:00Z",
        "datacontenttype": "application/json",
        "data": {
            "event_name": "tokens",
            "quantity": 5,
            "identity": {"field": "account_id", "value": "acct_42"},
        },
    }
    assert encoded(parcel(), SOURCE).startswith(OPENING)


@pytest.mark.parametrize(
    ("quantity", "text"),
    [("1E+3", "1000"), ("0.10", "0.10"), ("-0.000000000001", "-0.000000000001"), ("0E-3", "0.000")],
)
def test_quantities_are_plain_numbers(quantity: str, text: str) -> None:
    """JSON numbers without exponents, which some parsers read as binary floats."""
    assert f'"quantity":{text},'.encode() in encoded(parcel(Decimal(quantity)), SOURCE)


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=12, min_value=-(10**25), max_value=10**25
    ),
    st.text(min_size=1),
)
def test_nothing_is_lost_on_the_way(quantity: Decimal, customer: str) -> None:
    """Every digit and every character comes back, and a line break breaks no line."""
    text = encoded(parcel(quantity, customer), SOURCE)
    event = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    assert event["data"]["quantity"] == quantity
    assert event["subject"] == customer
    assert b"\n" not in text


def test_a_batch_is_an_array() -> None:
    """The batched content mode of the HTTP binding."""
    one = json.loads(encoded(parcel(), SOURCE))
    assert json.loads(encoded_batch([parcel(), parcel()], SOURCE)) == [one, one]
