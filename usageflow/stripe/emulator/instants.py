"""Instants as v2 of Stripe's API writes them: RFC 3339, in UTC, with milliseconds and a Z."""

from datetime import UTC, datetime


def rfc3339(moment: datetime) -> str:
    """The moment as text."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant(text: str) -> datetime | None:
    """The moment that `text` names; None if it is none or has no offset from UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
