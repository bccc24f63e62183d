"""Intervals in query strings: two moments, of which either may be left out.

A moment is an instant with an offset, or a date, which means its midnight in UTC.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

from usageflow.api.exact_json import YEARS
from usageflow.catalog.refusals import Refused
from usageflow.periods import Period

DAYS: Final = 30
"""How far back an interval begins that has no start (product documents: meters)."""
DAYS_MAX: Final = 3_660
"""Ten years: the longest interval that is read."""

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def _moment(value: Any) -> datetime:
    wanted = "must be a date, or a time with an offset, such as 2025-03-01T00:00:00Z"
    if not isinstance(value, str):
        raise ValueError(wanted)  # noqa: TRY004 - pydantic explains ValueErrors
    text = f"{value}T00:00:00Z" if _DATE.fullmatch(value) else value
    try:
        # a + that was not written as %2B arrives as a space
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise ValueError(wanted) from None
    if moment.utcoffset() is None:
        raise ValueError(wanted)
    if moment.year not in YEARS:
        raise ValueError(f"must lie in the years {YEARS.start} to {YEARS.stop - 1}")
    return moment.astimezone(UTC)


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "examples": ["2025-03-01", "2025-03-01T00:00:00Z"]}),
]
"""A moment of a query string; UTC from here on."""


def interval(
    start: datetime | None, end: datetime | None, now: datetime, *, names: tuple[str, str]
) -> Period | Refused:
    """From `start` to `end`; the last 30 days up to now where they are left out."""
    until = end or now
    since = start or until - timedelta(days=DAYS)
    if since >= until:
        return Refused("invalid", f"{names[0]} must be before {names[1]}", names[0])
    if until - since > timedelta(days=DAYS_MAX):
        return Refused("invalid", f"the interval is longer than {DAYS_MAX} days", names[0])
    return Period(since, until)
