"""How usage is told in each dialect, and what cannot be read."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from usageflow.api import dialects
from usageflow.api.dialects import Claim
from usageflow.api.problems import Problem

AT = datetime(2025, 3, 1, tzinfo=UTC)


def body(**fields: Any) -> bytes:
    """A JSON object."""
    return msgspec.json.encode(fields)


def claim(**fields: Any) -> Claim:
    """A claim that says little."""
    empty = Claim("API_CALL", None, None, None, None, None, None)
    return empty._replace(**fields)


def test_the_documented_track_request_is_read() -> None:
    """usageflow-getting-started, step 7; the key is in the header."""
    told = b"""{
      "metric": "API_CALL", "amount": 1000, "customerId": "user_123",
      "metadata": {"endpoint": "/v1/chat"}
    }"""
    assert dialects.track(told, "unique-event-id") == claim(
        customer="user_123",
        quantity=Decimal(1000),
        idempotency_key="unique-event-id",
        metadata={"endpoint": "/v1/chat"},
    )


def test_the_documented_meter_request_is_read() -> None:
    """fluxrate-quickstart, step 6."""
    told = b"""{
      "meter_token": "API_CALL", "customer_external_id": "acme-corp-001", "quantity": 150,
      "idempotency_key": "req_unique_abc123"
    }"""
    assert dialects.usage(told, None) == claim(
        customer="acme-corp-001", quantity=Decimal(150), idempotency_key="req_unique_abc123"
    )


def test_numbers_keep_every_digit() -> None:
    """Those of the amount, and those of metadata; a number may come in a string."""
    told = b'{"metric": "API_CALL", "amount": 0.1000000000000000000001, "metadata": {"n": 1.10}}'
    found = dialects.track(told, None)
    assert isinstance(found, Claim)
    assert found.quantity == Decimal("0.1000000000000000000001")
    assert repr(found.metadata) == "{'n': Decimal('1.10')}"
    assert dialects.track(body(metric="API_CALL", amount="0.5"), None) == claim(
        quantity=Decimal("0.5")
    )


@pytest.mark.parametrize("name", ["meter_token", "meter_id", "meter_name"])
def test_a_meter_has_three_names(name: str) -> None:
    """Whichever is given; properties are the event's metadata."""
    told = body(**{name: "API_CALL"}, customer_id="c-1", properties={"tokens": 10})
    assert dialects.usage(told, "k") == claim(
        customer_id="c-1", idempotency_key="k", metadata={"tokens": 10}
    )


def test_the_key_in_the_body_goes_first() -> None:
    """In the dialect that has one there; in the other one the header does."""
    told = body(meter_name="API_CALL", idempotency_key="in-body")
    assert dialects.usage(told, "in-header") == claim(idempotency_key="in-body")
    told = body(metric="API_CALL", amount=1, idempotencyKey="in-body")
    assert dialects.track(told, "in-header") == claim(
        quantity=Decimal(1), idempotency_key="in-header"
    )


def test_times_are_read_as_instants() -> None:
    """With whatever offset."""
    for text in ("2025-03-01T00:00:00Z", "2025-03-01T01:00:00+01:00"):
        assert dialects.track(body(metric="API_CALL", amount=1, timestamp=text), None) == claim(
            quantity=Decimal(1), occurred_at=AT
        )


def test_a_cloudevent_is_read() -> None:
    """Its source and id together are its key; quantity or value in its data is the quantity."""
    told: dict[str, Any] = {
        "specversion": "1.0",
        "id": "1",
        "source": "/gateway",
        "type": "API_CALL",
        "subject": "acme",
        "time": "2025-03-01T00:00:00Z",
        "datacontenttype": "application/json",
        "traceparent": "00-1-1-01",
        "data": {"value": 3, "region": "eu"},
    }
    found = claim(
        customer="acme",
        quantity=Decimal(3),
        occurred_at=AT,
        idempotency_key='["/gateway","1"]',
        metadata={"value": 3, "region": "eu"},
    )
    assert dialects.cloudevent(body(**told)) == found
    more = body(**told | {"data": {"quantity": "4", "value": 9}})
    assert dialects.cloudevent(more) == found._replace(
        quantity=Decimal(4), metadata={"quantity": "4", "value": 9}
    )
    batch = b"[" + body(**told) + b"," + body(**told | {"data": None}) + b"]"
    assert dialects.cloudevents(batch, events_max=2) == [
        found,
        found._replace(quantity=None, metadata=None),
    ]


def problem(found: object) -> str:
    """The code of what should be a problem."""
    assert isinstance(found, Problem)
    assert found.message
    return f"{found.status} {found.code}"


@pytest.mark.parametrize(
    "told",
    [
        body(metric="API_CALL"),
        body(amount=1),
        body(metric="API_CALL", amount="much"),
        body(metric="API_CALL", amount=True),
        body(metric="API_CALL", amount=None),
        body(metric="API_CALL", amount=1, customerid="misspelt"),
        body(metric="API_CALL", amount=1, metadata=[]),
        body(metric="API_CALL", amount=1, timestamp=1_700_000_000),
        body(metric="API_CALL", amount=1, timestamp="2025-03-01T00:00:00"),
        body(metric="API_CALL", amount=1, timestamp="soon"),
        body(metric="API_CALL", amount=1, timestamp="0001-01-01T00:00:00Z"),
        b"[]",
    ],
)
def test_a_wrong_track_request_is_refused(told: bytes) -> None:
    """With a sentence that says what is wrong."""
    assert problem(dialects.track(told, None)) == "400 invalid"


@pytest.mark.parametrize(
    "told",
    [
        body(quantity=1),
        body(meter_name="a", meter_id="b", quantity=1),
        body(meter_name="a", customer_id="b", customer_external_id="c", quantity=1),
        body(meter_name="a", metadata={}, properties={}),
        body(meter_name="a", timestamp="soon"),
        body(meter_name="a", metric="b"),
    ],
)
def test_a_wrong_meter_request_is_refused(told: bytes) -> None:
    """Whoever names two meters or customers may mean either."""
    assert problem(dialects.usage(told, None)) == "400 invalid"


@pytest.mark.parametrize(
    "changes",
    [{"specversion": "0.3"}, {"id": None}, {"data": {"value": "x"}}, {"time": "x"}, {"data": "x"}],
)
def test_a_wrong_cloudevent_is_refused(changes: dict[str, Any]) -> None:
    """Another version, no id, a quantity that is no number, a time that is none."""
    told = {"specversion": "1.0", "id": "1", "source": "s", "type": "API_CALL"} | changes
    assert problem(dialects.cloudevent(body(**told))) == "400 invalid"


@pytest.mark.parametrize(
    "told",
    [b"", b"x", b'{"metric": "\xff"}', b'{"specversion": "\xff"}', b"[" * 100_000],
    ids=["nothing", "a word", "no text", "no text either", "deep"],
)
def test_what_is_no_json_is_a_problem(told: bytes) -> None:
    """In every dialect."""
    for found in (
        dialects.track(told, None),
        dialects.usage(told, None),
        dialects.cloudevent(told),
        dialects.cloudevents(told, events_max=9),
        dialects.batch(told, "application/json", events_max=9),
    ):
        assert problem(found).startswith("400 invalid")


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson"])
def test_a_batch_has_events_of_both_forms(media_type: str) -> None:
    """Each is read by itself; one that is wrong is a problem in its place."""
    events = [
        b'{"metric": "API_CALL", "amount": 1.50, "idempotencyKey": "k"}',
        b'{"meter_name": "API_CALL", "quantity": 2}',
        b'{"metric": "API_CALL", "quantity": 2}',
        b"7",
    ]
    told = b"\n".join(events)
    if media_type == "application/json":
        told = b'{"events": [' + b",".join(events) + b"]}"
    found = dialects.batch(told, media_type, events_max=4)
    assert isinstance(found, list)
    assert found[:2] == [
        claim(quantity=Decimal("1.50"), idempotency_key="k"),
        claim(quantity=Decimal(2)),
    ]
    assert [problem(one) for one in found[2:]] == ["400 invalid", "400 invalid"]
    assert problem(dialects.batch(told, media_type, events_max=3)) == "413 too_many_events"


def test_too_many_cloudevents_are_refused() -> None:
    """As other batches are."""
    assert problem(dialects.cloudevents(b"[1, 2]", events_max=1)) == "413 too_many_events"


@pytest.mark.parametrize("text", ["1_000", " 1", "1e3", "\uff11", "NaN", ""])
def test_a_number_in_a_string_is_plain(text: str) -> None:
    """What only Python would read as a number is none."""
    assert dialects.number(text) is None
    assert dialects.number("0.10") == Decimal("0.10")
