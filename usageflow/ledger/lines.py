"""Lines of a batch as the databases can take them.

Pure. `usageflow.events` says what an event is; here is what else a column and an index demand, so
that one odd event is refused by itself and never takes its batch with it.
"""

from dataclasses import dataclass
from datetime import UTC
from typing import Final

import msgspec

from usageflow.errors import EventError
from usageflow.events import TEXT_CHARS_MAX, UsageEvent, decode

FIELD_CHARS_MAX: Final = 100
"""Longest identity field. `field:value` is a key, and a PostgreSQL key has at most 2,700 bytes:
the longest value (500 characters of 4 bytes) leaves 700."""
STATUS_MAX: Final = 999
"""Largest HTTP status; three digits by RFC 9110, section 15."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A line that is no event, and why. `id` is None if the line has none that can be read."""

    id: str | None
    reason: str


class _Id(msgspec.Struct):
    id: str


def read(line: bytes) -> UsageEvent | Invalid:
    """The event of one line."""
    try:
        event = decode(line)
    except EventError as error:
        return Invalid(_id(line), str(error))
    problem = _problem(event)
    return Invalid(_id(line), problem) if problem else event


def _id(line: bytes) -> str | None:
    try:
        found = msgspec.json.decode(line, type=_Id).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found) <= TEXT_CHARS_MAX and "\0" not in found else None


def _problem(event: UsageEvent) -> str | None:
    named = (
        event.policy,
        event.policy_version,
        event.metric,
        event.event_name or "",
        event.request_method,
        event.request_route,
    )
    identity = event.identity
    if len(identity.field) > FIELD_CHARS_MAX:
        return f"identity field of {len(identity.field)} characters"
    if any(len(text) > TEXT_CHARS_MAX for text in named):
        return f"a name or route of more than {TEXT_CHARS_MAX} characters"
    if "\0" in "".join(
        (*named, event.id, identity.field, identity.value or "", event.reason or "")
    ):
        return "a text contains the character NUL"
    if event.request_status is not None and not 0 <= event.request_status <= STATUS_MAX:
        return f"request_status {event.request_status} is not an HTTP status"
    try:
        event.occurred_at.astimezone(UTC)
    except OverflowError:
        return "occurred_at is beyond the calendar"
    return None
