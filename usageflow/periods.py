"""Half-open UTC intervals: `[start, end)`. Knows hours; billing periods join it with billing."""

from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)


def hour_start(instant: datetime) -> datetime:
    """The first moment of the UTC hour `instant` lies in. ValueError for a naive value."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone; UsageFlow needs one")
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
