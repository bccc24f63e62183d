"""The usage event: its wire form, exact numbers, and everything that is refused."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usageflow.errors import EventError
from usageflow.events import (
    EVENT_BYTES_MAX,
    IDENTITY_CHARS_MAX,
    QUANTITY_DECIMALS_MAX,
    QUANTITY_DIGITS_MAX,
    TEXT_CHARS_MAX,
    Identity,
    UsageEvent,
    decode,
    encode,
    encode_lines,
    fingerprint,
    plain,
    quantity_problem,
)

EVENT = UsageEvent(
    id="0190a0b0-0000-7000-8000-000000000001",
    policy="chat",
    policy_version="3",
    metric="AI_TOKEN",
    identity=Identity("account_id", "acct_42"),
    quantity=Decimal("0.10"),
    occurred_at=datetime(2026, 11, 21, 10, 5, tzinfo=UTC),
    state="counted",
    event_name="token_used",
    request_method="POST",
    request_route="/v1/chat",
    request_status=200,
)
WIRE: dict[str, Any] = json.loads(encode(EVENT))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
quantities = st.builds(
    lambda digits, decimals: Decimal(digits).scaleb(-decimals),
    st.integers(0, 10**20 - 1),
    st.integers(0, QUANTITY_DECIMALS_MAX),
)
instants = st.builds(
    lambda since, east: (EVENT.occurred_at + since).astimezone(timezone(timedelta(minutes=east))),
    st.timedeltas(timedelta(days=-9_999), timedelta(days=9_999)),
    st.integers(-14 * 60, 14 * 60),  # RFC 3339 knows offsets of whole minutes
)
events = st.builds(
    UsageEvent,
    id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    policy=texts,
    policy_version=texts,
    metric=texts,
    identity=st.builds(Identity, texts, texts),
    quantity=quantities,
    occurred_at=instants,
    state=st.sampled_from(["counted", "inbox", "shadow", "skipped", "gap"]),
    reason=st.none() | texts,
    event_name=st.none() | texts,
    request_method=texts,
    request_route=texts,
    request_status=st.none() | st.integers(100, 599),
)


def line(**changes: Any) -> bytes:
    """A valid line with some values replaced."""
    return json.dumps(WIRE | changes).encode()


def number_line(number: str) -> bytes:
    """A valid line with this JSON as its quantity."""
    return line(quantity="@").replace(b'"@"', number.encode())


def refusal(data: bytes) -> str:
    """Why these bytes are refused."""
    with pytest.raises(EventError) as refused:
        decode(data)
    return str(refused.value)


@given(events)
def test_what_is_written_is_what_is_read(event: UsageEvent) -> None:
    """Every event survives its wire form, each digit of its quantity and the fingerprint too."""
    back = decode(encode(event))
    assert back == event
    assert str(back.quantity) == str(event.quantity)
    assert fingerprint(back) == fingerprint(event)


@given(st.lists(events, max_size=5))
def test_lines_are_the_events_one_by_one(several: list[UsageEvent]) -> None:
    """A newline ends each line and occurs nowhere else."""
    assert encode_lines(several) == b"".join(encode(event) + b"\n" for event in several)
    assert encode_lines(several).count(b"\n") == len(several)


def test_the_wire_form() -> None:
    """The names and kinds that the documentation gives; the quantity is a number."""
    assert WIRE == {
        "id": "0190a0b0-0000-7000-8000-000000000001",
        "policy": "chat",
        "policy_version": "3",
        "metric": "AI_TOKEN",
        "identity": {"field": "account_id", "value": "acct_42"},
        "quantity": 0.1,
        "occurred_at": "2026-11-21T10:05:00Z",
        "state": "counted",
        "reason": None,
        "event_name": "token_used",
        "request_method": "POST",
        "request_route": "/v1/chat",
        "request_status": 200,
    }
    assert b'"quantity":0.10,' in encode(EVENT)


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "0.1",
        "1.10",
        "123456789012345678901234567890.12345678",
        "9" * QUANTITY_DIGITS_MAX,
        "0." + "0" * (QUANTITY_DECIMALS_MAX - 1) + "1",
        "1E+3",
    ],
)
def test_a_quantity_keeps_each_digit(number: str) -> None:
    """No binary float on the way, whatever the size."""
    event = decode(number_line(number))
    assert str(event.quantity) == str(Decimal(number))
    assert f'"quantity":{Decimal(number)},'.encode() in encode(event)


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("-1", "negative"),
        ("-0.000001", "negative"),
        ("1e-13", "13 digits after the point; at most 12 are kept"),
        ("9" * 39, "39 digits; at most 38 are kept"),
        ("1e38", "39 digits; at most 38 are kept"),
        ("1e400", "401 digits; at most 38 are kept"),
        ("9" * 27 + "." + "9" * 12, "39 digits; at most 38 are kept"),
        ('"NaN"', "NaN is not a number"),
        ('"Infinity"', "Infinity is not a number"),
    ],
)
def test_a_quantity_that_cannot_be_kept_is_refused(number: str, problem: str) -> None:
    """Never rounded, never cut: the reason says what does not fit."""
    assert refusal(number_line(number)) == problem
    assert quantity_problem(Decimal(number.strip('"'))) == problem


@given(st.decimals(allow_nan=True, allow_infinity=True))
@example(Decimal("sNaN"))
@example(Decimal("-0"))
@example(Decimal("0E+50"))
def test_a_quantity_without_a_problem_fits(number: Decimal) -> None:
    """Finite, not negative, at most 38 digits in plain notation with at most 12 decimals."""
    if quantity_problem(number) is not None:
        return
    whole, _, decimals = f"{number:f}".partition(".")
    assert number >= 0
    assert len(decimals) <= QUANTITY_DECIMALS_MAX
    assert not number or len(whole.lstrip("0")) + len(decimals) <= QUANTITY_DIGITS_MAX


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a usage event"),
        (b"\xff", "not a usage event"),
        (b"[]", "not a usage event: Expected `object`"),
        (line() + b"x", "not a usage event: JSON is malformed"),
        (line().replace(b"chat", b"\xff", 1), "not a usage event: 'utf-8'"),
        (line().replace(b"chat", b"\\ud800", 1), "not a usage event: JSON is malformed"),
        (number_line("NaN"), "not a usage event: JSON is malformed"),
        (number_line("true"), "not a usage event: Expected `decimal | null`"),
        (number_line("1e999999999999999999999"), "not a usage event: Invalid decimal string"),
        (line(state="done"), "not a usage event: Invalid enum value 'done'"),
        (line(identity="acct_42"), "not a usage event: Expected `object`"),
        (line(identity={"field": "account_id"}), "not a usage event: Object missing required"),
        (line(request_status="200"), "not a usage event: Expected `int | null`"),
        (line(occurred_at="2026-11-21T10:05:00"), "occurred_at has no time zone"),
        (line(id=""), "id has 0 characters"),
        (line(id="x" * (TEXT_CHARS_MAX + 1)), "id has 501 characters"),
        (
            line(identity={"field": "f", "value": "x" * (IDENTITY_CHARS_MAX + 1)}),
            "identity value of 501 characters",
        ),
        (line(quantity=None), "state is counted but quantity or identity value is null"),
        (
            line(identity={"field": "f", "value": None}),
            "state is counted but quantity or identity value is null",
        ),
        (b" " * (EVENT_BYTES_MAX + 1), "event of 16385 bytes; at most 16384 are allowed"),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(data: bytes, problem: str) -> None:
    """One error for anything a sender may come up with."""
    assert refusal(data).startswith(problem)


@pytest.mark.parametrize("name", ["id", "policy", "policy_version", "metric", "identity"])
def test_who_and_what_must_be_there(name: str) -> None:
    """A fact without its parts is none."""
    data = json.dumps({key: value for key, value in WIRE.items() if key != name}).encode()
    assert refusal(data) == f"not a usage event: Object missing required field `{name}`"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_an_event_error(data: bytes) -> None:
    """Nothing else is ever raised."""
    try:
        decode(data)
    except EventError:
        return


def test_limits_are_inclusive() -> None:
    """The longest id, identity and line are fine."""
    longest = line(
        id="x" * TEXT_CHARS_MAX, identity={"field": "f", "value": "x" * IDENTITY_CHARS_MAX}
    )
    padded = longest.replace(b"{", b"{" + b" " * (EVENT_BYTES_MAX - len(longest)), 1)
    assert decode(padded) == decode(longest)


@pytest.mark.parametrize("state", ["inbox", "shadow", "skipped", "gap"])
def test_what_is_not_counted_may_lack_who_and_how_much(state: str) -> None:
    """Such a row is kept all the same, with its reason."""
    event = decode(line(state=state, quantity=None, identity={"field": "f", "value": None}))
    assert (event.quantity, event.identity.value) == (None, None)


def test_what_a_newer_edge_adds_is_ignored() -> None:
    """An older server reads a newer edge's events."""
    assert decode(line(region="eu")) == EVENT


@pytest.mark.parametrize("name", WIRE)
def test_another_fact_has_another_fingerprint(name: str) -> None:
    """Whatever field differs; the same fact has the same one."""
    other: Any = {
        "identity": Identity("account_id", "acct_43"),
        "quantity": Decimal(1),
        "occurred_at": EVENT.occurred_at + timedelta(microseconds=1),
        "state": "shadow",
        "request_status": 201,
    }.get(name, "other")
    assert fingerprint(msgspec.structs.replace(EVENT, **{name: other})) != fingerprint(EVENT)
    assert fingerprint(msgspec.structs.replace(EVENT)) == fingerprint(EVENT)


def test_an_event_is_immutable() -> None:
    """A fact does not change once it is recorded."""
    with pytest.raises(AttributeError):
        EVENT.quantity = Decimal(2)  # type: ignore[misc]


def test_nesting_never_raises_anything_else() -> None:
    """How deep a parser goes differs between interpreters; it ends in an event or an EventError."""
    deep = line()[:-1] + b',"z":' + b"[" * 8_000 + b"]" * 8_000 + b"}"
    try:
        assert decode(deep) == decode(line())
    except EventError as error:
        assert "not a usage event" in str(error)  # noqa: PT017 - either end is right


@pytest.mark.parametrize(
    ("number", "text"),
    [("1E+3", "1000"), ("-0", "0"), ("0E+5", "0"), ("1.50", "1.50")],
)
def test_plain_has_no_exponent(number: str, text: str) -> None:
    """Plain notation is what people, JSON and databases read alike."""
    assert f"{plain(Decimal(number))}" == text
