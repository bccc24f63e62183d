"""Half-open intervals of UTC, `[start, end)`: hours, and the billing periods of a schedule.

A billing period is computed on the clock of its organization's time zone, from an anchor, each by
itself: none is made of the one before, so nothing drifts. Knows no subscription and no clock.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from functools import cache
from typing import Final, Literal, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

Interval: TypeAlias = Literal["day", "week", "month", "year"]
Alignment: TypeAlias = Literal["anniversary", "calendar"]

HOUR = timedelta(hours=1)

_DAYS: Final = {"day": 1, "week": 7}
_MONTHS: Final = {"month": 1, "year": 12}
_OF_THE_MACHINE: Final = frozenset(("localtime", "Factory"))
"""Names beside the zones in a system's files that mean another zone on another machine, or none."""


def hour_start(instant: datetime) -> datetime:
    """The first moment of the UTC hour `instant` lies in. ValueError for a naive value."""
    return _aware(instant).astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def zone_problem(name: str) -> str | None:
    """Why this is no time zone, in words; None if it is one."""
    if name in _zones():
        return None
    return f"{name[:50]!r} is not a time zone; write an IANA name such as Europe/Berlin or UTC"


class Period(NamedTuple):
    """From `start` up to but without `end`, both in UTC."""

    start: datetime
    end: datetime

    def contains(self, instant: datetime) -> bool:
        """Whether the instant lies in it."""
        return self.start <= instant < self.end


@dataclass(frozen=True, slots=True)
class Schedule:
    """The billing periods from `anchor` on; ValueError if it is naive.

    `anniversary`: each begins when the anchor's day and wall clock come round, on the last day of
    a month that has no such day. `calendar`: each begins at midnight, on Monday, on the first of
    the month, on 1 January; the first one begins at the anchor. A wall clock that is skipped by a
    change of time is moved on by what is skipped; of one that comes twice the first is meant.
    """

    anchor: datetime
    interval: Interval
    zone: str
    alignment: Alignment = "anniversary"

    def __post_init__(self) -> None:
        """Refuse an anchor that nobody can place, and keep it in UTC."""
        object.__setattr__(self, "anchor", _aware(self.anchor).astimezone(UTC))

    def period(self, n: int) -> Period:
        """The n-th period, counted from 0. ValueError for a negative number."""
        if n < 0:
            raise ValueError(f"period {n} would lie before the schedule's anchor")
        return Period(self._boundary(n), self._boundary(n + 1))

    def full(self, n: int) -> Period:
        """The n-th period as it would be had the schedule begun earlier.

        With calendar alignment that is the whole calendar period in which a first, partial one
        lies: what a price for a full period is a price for.
        """
        period = self.period(n)
        if n > 0 or self.alignment == "anniversary":
            return period
        return period._replace(start=min(period.start, self._occurrence(0)))

    def index_of(self, instant: datetime) -> int:
        """The number of the period the instant lies in. ValueError if it is before the anchor."""
        if _aware(instant) < self.anchor:
            raise ValueError(f"{instant.isoformat()} is before {self.anchor.isoformat()}")
        origin, today = self._origin(), _wall(instant, self.zone)
        if self.interval in _DAYS:
            n = (today.date() - origin.date()).days // _DAYS[self.interval]
        else:
            months = (today.year - origin.year) * 12 + today.month - origin.month
            n = months // _MONTHS[self.interval]
        while n > 0 and instant < self._boundary(n):
            n -= 1
        while instant >= self._boundary(n + 1):
            n += 1
        return n

    def _boundary(self, n: int) -> datetime:
        """The end of period n - 1 and the start of period n; never before the anchor."""
        return self.anchor if n == 0 else max(self.anchor, self._occurrence(n))

    def _occurrence(self, n: int) -> datetime:
        """The instant at which the schedule's day and wall clock come round for the n-th time."""
        wall = self._origin()
        if self.interval in _DAYS:
            moved = wall + timedelta(days=n * _DAYS[self.interval])
        else:
            moved = datetime.combine(
                _months_later(wall.date(), n * _MONTHS[self.interval]), wall.time()
            )
        return moved.replace(tzinfo=ZoneInfo(self.zone)).astimezone(UTC)

    def _origin(self) -> datetime:
        """The wall clock that periods are counted from: the anchor's, or its calendar period's."""
        wall = _wall(self.anchor, self.zone)
        if self.alignment == "anniversary":
            return wall
        day = wall.date()
        if self.interval == "week":
            day -= timedelta(days=day.weekday())
        elif self.interval == "month":
            day = day.replace(day=1)
        elif self.interval == "year":
            day = day.replace(month=1, day=1)
        return datetime.combine(day, time())


def proration(part: Period, whole: Period, zone: str) -> Fraction:
    """The share of `whole` that `part` covers, from 0 to 1, by the wall clock of the zone.

    By that clock a day has 24 hours even when clocks change in it, so that 15 January to
    1 February is 17/31 everywhere. What of the part lies outside the whole does not count.
    ValueError if the whole is empty.
    """
    start, end = (_wall(instant, zone) for instant in whole)
    if start >= end:
        raise ValueError(f"there is no share of {start.isoformat()} to {end.isoformat()}")
    first, last = (min(max(_wall(instant, zone), start), end) for instant in part)
    microsecond = timedelta(microseconds=1)
    return Fraction(max(last - first, timedelta()) // microsecond, (end - start) // microsecond)


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant.isoformat()} has no time zone; UsageFlow needs one")
    return instant


@cache
def _zones() -> frozenset[str]:
    """Read from the system's files, or the tzdata package, once."""
    return frozenset(available_timezones() - _OF_THE_MACHINE)


def _wall(instant: datetime, zone: str) -> datetime:
    """What a clock on a wall there shows, without saying which of two equal hours it is."""
    return instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)


def _months_later(day: date, months: int) -> date:
    """The same day of another month, or its last one."""
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
