"""Lines that are no event are refused one by one, with a reason."""

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.events import UsageEvent, decode
from usageflow.ledger.lines import Invalid, read

if TYPE_CHECKING:
    from tests.ledger.conftest import LineOf

EAST = timezone(timedelta(hours=14))


def test_an_event_is_read(line: "LineOf") -> None:
    """A good line is its event."""
    encoded = line()
    assert read(encoded) == decode(encoded)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"customer": "a\0b"}, "a text contains the character NUL"),
        ({"reason": "\0"}, "a text contains the character NUL"),
        ({"id": "a\0"}, "a text contains the character NUL"),
        ({"field": "f" * 101}, "identity field of 101 characters"),
        ({"metric": "m" * 501}, "a name or route of more than 500 characters"),
        ({"event_name": "m" * 501}, "a name or route of more than 500 characters"),
        ({"request_status": 1000}, "request_status 1000 is not an HTTP status"),
        ({"request_status": 2**40}, "request_status 1099511627776 is not an HTTP status"),
        ({"occurred_at": datetime(1, 1, 1, tzinfo=EAST)}, "occurred_at is beyond the calendar"),
        ({"quantity": -1}, "negative"),
    ],
)
def test_what_a_database_cannot_take_is_refused(
    line: "LineOf", changes: dict[str, Any], reason: str
) -> None:
    """The reason is one a person understands."""
    found = read(line(**changes))
    assert isinstance(found, Invalid)
    assert found.reason == reason


def test_a_backslash_before_u0000_is_just_text(line: "LineOf") -> None:
    """The six characters that spell NUL in JSON are harmless when they are meant as such."""
    assert isinstance(read(line(customer="\\u0000")), UsageEvent)


@pytest.mark.parametrize(
    ("data", "event_id"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"id": 7}', None),
        (b'{"id": "a"}', "a"),
        (b'{"id": "a\\u0000"}', None),
        (b'{"id": "%s"}' % (b"a" * 501), None),
        (b'"a', None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_id_is_kept_if_it_can_be_read(data: bytes, event_id: str | None) -> None:
    """So that the sender can tell which of its events was refused."""
    found = read(data)
    assert isinstance(found, Invalid)
    assert found.id == event_id


@given(st.binary(max_size=300))
def test_reading_never_raises(data: bytes) -> None:
    """Whatever the bytes, the answer is an event or a reason."""
    assert isinstance(read(data), Invalid)
