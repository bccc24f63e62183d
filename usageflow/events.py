"""The usage event: one immutable fact about one request, and its one wire form.

The same JSON object is a line of the spool, of a batch to the server and of `usageflow spool
--json`. Quantities are JSON numbers of arbitrary precision (RFC 8259, section 6) and are read and
written as Decimal, never as a binary float. This module does no I/O and reads no clock.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

import msgspec

from usageflow.errors import EventError

QUANTITY_DIGITS_MAX: Final = 38
"""Significant digits of a quantity; what NUMERIC columns and exact sums are sized for."""
QUANTITY_DECIMALS_MAX: Final = 12
"""Digits after the point; the precision of Stripe's decimal amounts."""
IDENTITY_CHARS_MAX: Final = 500
"""Longest identity value; a Stripe metadata value holds at most 500 characters."""
TEXT_CHARS_MAX: Final = 500
"""Longest free text (names, routes, reasons) of an event."""
EVENT_BYTES_MAX: Final = 16_384
"""Longest encoded event: the sum of its bounded fields with room for escapes."""

EventState = Literal["counted", "inbox", "shadow", "skipped", "gap"]
"""counted: usage · inbox: needs a human · shadow: recorded, never billed · skipped: the policy said
so · gap: usage that could not be recorded one by one (see `reason`)."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who was calling, as extracted. `value` is None when no source of the policy yielded one."""

    field: str
    value: str | None


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One immutable fact: who, what, how much, when, from which request, under which policy.

    `id` is a UUIDv7 minted by the edge and the idempotency key of the event everywhere.
    `quantity` is a non-negative exact decimal, or None when it could not be measured (then `state`
    is not "counted" and `reason` says why). `occurred_at` is UTC. `request_status` is the HTTP
    status of the response, None if there was none.
    """

    id: str
    policy: str
    policy_version: str
    metric: str
    identity: Identity
    quantity: Decimal | None
    occurred_at: datetime
    state: EventState
    reason: str | None = None
    event_name: str | None = None
    request_method: str = ""
    request_route: str = ""
    request_status: int | None = None


_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(UsageEvent)


def encode(event: UsageEvent) -> bytes:
    """One line of JSON without a newline."""
    return _encoder.encode(event)


def encode_lines(events: Sequence[UsageEvent]) -> bytes:
    """One line of JSON for each event, every one ended by a newline."""
    return _encoder.encode_lines(events)


def decode(line: bytes) -> UsageEvent:
    """Read one line. Raises EventError with the reason for anything that is not a valid event."""
    if len(line) > EVENT_BYTES_MAX:
        raise EventError(f"event of {len(line)} bytes; at most {EVENT_BYTES_MAX} are allowed")
    try:
        event = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"not a usage event: {error}") from None
    problem = _problem(event)
    if problem:
        raise EventError(problem)
    return event


def quantity_problem(quantity: Decimal) -> str | None:
    """Why this number cannot be a quantity, in words; None if it can."""
    if not quantity.is_finite():
        return f"{quantity} is not a number"
    if quantity < 0:
        return "negative"
    _, digits, exponent = quantity.as_tuple()
    assert isinstance(exponent, int)  # noqa: S101 - finite, checked above
    decimals = max(0, -exponent)
    whole = max(0, len(digits) + exponent) if quantity else 0
    if decimals > QUANTITY_DECIMALS_MAX:
        return f"{decimals} digits after the point; at most {QUANTITY_DECIMALS_MAX} are kept"
    if whole + decimals > QUANTITY_DIGITS_MAX:
        return f"{whole + decimals} digits; at most {QUANTITY_DIGITS_MAX} are kept"
    return None


def plain(number: Decimal) -> Decimal:
    """The same number, not negative, with its digits written out: 1E+3 is 1000, -0 is 0.

    For numbers that `quantity_problem` accepts; others may have 10^18 digits.
    """
    return Decimal(f"{number.copy_abs():f}")


def fingerprint(event: UsageEvent) -> str:
    """Hex SHA-256 of the event's content: equal fingerprints mean the same fact was sent again."""
    return hashlib.sha256(_encoder.encode(event)).hexdigest()


def _problem(event: UsageEvent) -> str | None:
    if not 1 <= len(event.id) <= TEXT_CHARS_MAX:
        return f"id has {len(event.id)} characters"
    if event.occurred_at.utcoffset() is None:
        return "occurred_at has no time zone"
    if event.identity.value is not None and len(event.identity.value) > IDENTITY_CHARS_MAX:
        return f"identity value of {len(event.identity.value)} characters"
    if event.state == "counted" and (event.quantity is None or event.identity.value is None):
        return "state is counted but quantity or identity value is null"
    return quantity_problem(event.quantity) if event.quantity is not None else None
