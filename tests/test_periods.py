"""UTC hours, billing periods, and shares of them."""

from calendar import monthrange
from datetime import UTC, datetime, time, timedelta, timezone
from fractions import Fraction
from itertools import pairwise
from typing import get_args
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from usageflow.periods import (
    HOUR,
    Alignment,
    Interval,
    Period,
    Schedule,
    hour_start,
    proration,
    zone_problem,
)

instants = st.builds(
    lambda since, offset: (datetime(2026, 11, 21, tzinfo=UTC) + since).astimezone(timezone(offset)),
    st.timedeltas(timedelta(days=-9_999), timedelta(days=9_999)),
    st.timedeltas(timedelta(hours=-14), timedelta(hours=14)),
)


@given(instants)
def test_each_instant_lies_in_its_hour(instant: datetime) -> None:
    """`[start, end)`, in UTC, on the full hour, whatever zone the instant came in."""
    start = hour_start(instant)
    assert start <= instant < start + HOUR
    assert start.tzinfo is UTC
    assert (start.minute, start.second, start.microsecond) == (0, 0, 0)


def test_the_hour_is_half_open() -> None:
    """Its last microsecond belongs to it, its end to the next."""
    start = datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert hour_start(start) == start
    assert hour_start(start + HOUR - timedelta(microseconds=1)) == start
    assert hour_start(start + HOUR) == start + HOUR


def test_a_zone_of_half_hours_meets_the_utc_hour() -> None:
    """10:10 in India is 4:40 UTC."""
    india = timezone(timedelta(hours=5, minutes=30))
    instant = datetime(2026, 11, 21, 10, 10, tzinfo=india)
    assert hour_start(instant) == datetime(2026, 11, 21, 4, tzinfo=UTC)


def test_a_naive_time_is_refused() -> None:
    """Nobody knows which hour it means."""
    with pytest.raises(ValueError, match="2026-11-21T10:00:00 has no time zone"):
        hour_start(datetime(2026, 11, 21, 10))  # noqa: DTZ001 - a naive value is the point


zones = st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"}))
intervals = st.sampled_from(get_args(Interval))
alignments = st.sampled_from(get_args(Alignment))
walls = st.datetimes(datetime(2020, 1, 1), datetime(2040, 12, 31))  # noqa: DTZ001 - zones follow


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Anchors on any wall clock of 2020 to 2040, both of two equal hours, in any zone."""
    zone = draw(zones)
    wall = draw(walls).replace(tzinfo=ZoneInfo(zone), fold=draw(st.integers(0, 1)))
    return Schedule(wall.astimezone(UTC), draw(intervals), zone, draw(alignments))


def utc(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    """An instant."""
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


def starts(schedule: Schedule, count: int) -> list[str]:
    """The local days on which the first periods begin."""
    zone = ZoneInfo(schedule.zone)
    return [f"{schedule.period(n).start.astimezone(zone):%d %b}" for n in range(count)]


@settings(max_examples=500)
@given(schedules(), st.integers(0, 300))
@example(Schedule(utc(2026, 4, 23, 22), "day", "Africa/Cairo", "calendar"), 1)  # no midnight
@example(Schedule(utc(2026, 11, 1, 5, 30), "day", "America/Havana", "calendar"), 0)  # two
@example(Schedule(utc(2026, 10, 25, 1, 30), "day", "Europe/Berlin"), 0)  # the second 02:30
def test_periods_tile_and_contain_their_index(schedule: Schedule, n: int) -> None:
    """Each ends where the next begins, after it began; each instant lies in one, and finds it."""
    period, following = schedule.period(n), schedule.period(n + 1)
    assert period.start < period.end == following.start < following.end
    assert period.start.tzinfo is period.end.tzinfo is UTC
    assert schedule.period(0).start == schedule.anchor
    middle = period.start + (period.end - period.start) / 2
    tick = timedelta(microseconds=1)
    for instant in (period.start, middle, period.end - tick):
        assert period.contains(instant)
        assert schedule.index_of(instant) == n
    assert not period.contains(period.end)
    assert schedule.index_of(period.end) == n + 1


@settings(max_examples=500)
@given(schedules(), st.integers(1, 300))
def test_nothing_drifts(schedule: Schedule, n: int) -> None:
    """The n-th period begins on the anchor's wall clock, or on the last day of a shorter month."""
    zone = ZoneInfo(schedule.zone)
    anchor = schedule.anchor.astimezone(zone)
    start = schedule.period(n).start.astimezone(zone)
    skipped = abs(start.utcoffset() - (start - timedelta(days=1)).utcoffset())  # type: ignore[operator]
    wall = anchor.time() if schedule.alignment == "anniversary" else time()
    meant = datetime.combine(start.date(), wall)
    assert meant <= start.replace(tzinfo=None, fold=0) <= meant + skipped
    if schedule.alignment == "calendar":
        assert schedule.interval != "week" or start.weekday() == 0
        assert schedule.interval not in ("month", "year") or start.day == 1
        assert schedule.interval != "year" or start.month == 1
    elif schedule.interval in ("month", "year"):
        assert start.day == min(anchor.day, monthrange(start.year, start.month)[1])
    else:
        days = (start.date() - anchor.date()).days
        assert days == n * {"day": 1, "week": 7}[schedule.interval]


def test_no_zone_breaks_a_day_in_twenty_years() -> None:
    """Around every change of time of every zone, 2020 to 2040, calendar days tile and are found."""
    hour = timedelta(hours=1)
    checked = 0
    for name in sorted(available_timezones() - {"localtime", "Factory"}):
        zone = ZoneInfo(name)
        day = utc(2020, 1, 1)
        while day < utc(2041, 1, 1):
            later = day + timedelta(days=7)
            if zone.utcoffset(day) != zone.utcoffset(later):
                schedule = Schedule(day, "day", name, "calendar")
                periods = [schedule.period(n) for n in range(10)]
                assert all(one.end == two.start for one, two in pairwise(periods))
                assert all(4 * hour <= one.end - one.start <= 28 * hour for one in periods[1:9])
                assert [schedule.index_of(one.start) for one in periods] == [*range(10)]
                checked += 1
            day = later
    assert checked > 5_000


@pytest.mark.parametrize(
    ("anchor", "interval", "expected"),
    [
        (utc(2026, 1, 31), "month", ["31 Jan", "28 Feb", "31 Mar", "30 Apr", "31 May"]),
        (utc(2028, 1, 30), "month", ["30 Jan", "29 Feb", "30 Mar", "30 Apr", "30 May"]),
        (utc(2028, 2, 29), "year", ["29 Feb", "28 Feb", "28 Feb", "28 Feb", "29 Feb"]),
        (utc(2026, 12, 29), "week", ["29 Dec", "05 Jan", "12 Jan", "19 Jan", "26 Jan"]),
        (utc(2026, 2, 27), "day", ["27 Feb", "28 Feb", "01 Mar", "02 Mar", "03 Mar"]),
    ],
)
def test_an_anniversary_does_not_drift(
    anchor: datetime, interval: Interval, expected: list[str]
) -> None:
    """A short month ends early, and the one after it does not follow it."""
    assert starts(Schedule(anchor, interval, "UTC"), 5) == expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("day", ["14 Jan", "15 Jan", "16 Jan"]),
        ("week", ["14 Jan", "19 Jan", "26 Jan"]),
        ("month", ["14 Jan", "01 Feb", "01 Mar"]),
        ("year", ["14 Jan", "01 Jan", "01 Jan"]),
    ],
)
def test_a_calendar_begins_with_a_part(interval: Interval, expected: list[str]) -> None:
    """The first period begins at the anchor and ends with its calendar period."""
    assert starts(Schedule(utc(2026, 1, 14, 9), interval, "Asia/Tokyo", "calendar"), 3) == expected


def test_the_zone_decides_which_day_it_is() -> None:
    """The same instant is 31 January in New York and 1 February in Berlin."""
    anchor = utc(2026, 2, 1, 3)
    assert starts(Schedule(anchor, "month", "America/New_York"), 3) == [
        "31 Jan",
        "28 Feb",
        "31 Mar",
    ]
    assert starts(Schedule(anchor, "month", "Europe/Berlin"), 3) == ["01 Feb", "01 Mar", "01 Apr"]


def test_the_wall_clock_stays_through_summer_time() -> None:
    """09:00 in Berlin is 8:00 UTC in winter and 7:00 in summer; its days have 23, 24, 25 hours."""
    schedule = Schedule(utc(2026, 1, 15, 8), "month", "Europe/Berlin")
    assert [schedule.period(n).start.hour for n in range(12)] == [8] * 3 + [7] * 7 + [8] * 2
    spring = Schedule(utc(2026, 3, 28, 8), "day", "Europe/Berlin").period(0)
    autumn = Schedule(utc(2026, 10, 24, 7), "day", "Europe/Berlin").period(0)
    assert (spring.end - spring.start, autumn.end - autumn.start) == (23 * HOUR, 25 * HOUR)


def test_a_skipped_wall_clock_is_moved_on() -> None:
    """Berlin has no 02:30 on 29 March 2026: that day it is 03:30, the next one 02:30 again."""
    schedule = Schedule(utc(2026, 3, 28, 1, 30), "day", "Europe/Berlin")
    assert schedule.period(1) == Period(utc(2026, 3, 29, 1, 30), utc(2026, 3, 30, 0, 30))


def test_of_two_equal_hours_the_first_is_meant() -> None:
    """Except for the anchor, which is the instant that it is."""
    first, second = utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 1, 30)
    assert Schedule(utc(2026, 10, 24, 0, 30), "day", "Europe/Berlin").period(0).end == first
    assert Schedule(second, "day", "Europe/Berlin").period(0).start == second


def test_a_day_that_a_zone_leaves_out_is_an_empty_period() -> None:
    """Samoa had no 30 December 2011; the tiling has no gap all the same."""
    schedule = Schedule(utc(2011, 12, 29, 22), "day", "Pacific/Apia")
    skipped = schedule.period(1)
    assert skipped.start == skipped.end == schedule.period(0).end == schedule.period(2).start
    assert schedule.index_of(skipped.start) == 2


def test_midnight_that_comes_twice_does_not_go_back() -> None:
    """St John's turned 00:01 of 7 November 2010 back to 23:01 of the 6th: two midnights."""
    again = utc(2010, 11, 7, 3)
    schedule = Schedule(again, "day", "America/St_Johns", "calendar")
    assert again.astimezone(ZoneInfo("America/St_Johns")).day == 6
    assert schedule.period(0) == Period(again, again)
    assert schedule.index_of(again) == 1


def test_a_day_that_began_at_half_past_twelve() -> None:
    """Toronto left out midnight, 23:30 to 00:30, in 1919; a schedule begins at its anchor still."""
    anchor = utc(1919, 3, 31, 4, 30)
    schedule = Schedule(anchor, "day", "America/Toronto", "calendar")
    assert schedule.period(0) == schedule.full(0) == Period(anchor, utc(1919, 4, 1, 4))
    assert schedule.index_of(anchor) == 0


def test_the_full_period_of_a_part() -> None:
    """A price for a month is a price for all of January, also when only half of it is billed."""
    anchor = utc(2026, 1, 15)
    schedule = Schedule(anchor, "month", "UTC", "calendar")
    assert schedule.full(0) == Period(utc(2026, 1, 1), utc(2026, 2, 1))
    assert schedule.full(1) == schedule.period(1)
    assert Schedule(anchor, "month", "UTC").full(0) == Period(anchor, utc(2026, 2, 15))
    second = Schedule(utc(2026, 10, 25, 1, 30), "month", "Europe/Berlin")
    assert second.full(0) == second.period(0)


@given(schedules())
def test_a_full_period_holds_the_period(schedule: Schedule) -> None:
    """It ends with it, and is all of it from the second on."""
    period, full = schedule.period(0), schedule.full(0)
    assert full.start <= period.start
    assert full.end == period.end
    assert schedule.full(3) == schedule.period(3)


@given(zones)
def test_half_a_january_is_17_31(zone: str) -> None:
    """In every zone: the share of a fixed price from 15 January to 1 February."""
    january = Period(*(_midnight(zone, 2026, month, 1) for month in (1, 2)))
    part = Period(_midnight(zone, 2026, 1, 15), january.end)
    assert proration(part, january, zone) == Fraction(17, 31)


def _midnight(zone: str, year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def test_a_share_knows_no_summer_time() -> None:
    """March in Berlin has 743 hours and 31 days; from the 16th on it is 16/31 of a month."""
    march = Period(*(_midnight("Europe/Berlin", 2026, month, 1) for month in (3, 4)))
    part = Period(_midnight("Europe/Berlin", 2026, 3, 16), march.end)
    assert march.end - march.start == 743 * HOUR
    assert proration(part, march, "Europe/Berlin") == Fraction(16, 31)


@given(schedules(), st.fractions(0, 1))
def test_shares_add_up(schedule: Schedule, cut: Fraction) -> None:
    """What is before and what is after an instant is the whole."""
    whole = schedule.period(0)
    length = (whole.end - whole.start) // timedelta(microseconds=1)
    middle = whole.start + timedelta(microseconds=int(length * cut))
    assume(not _repeated(middle, schedule.zone) and not _repeated(whole.start, schedule.zone))
    before = proration(Period(whole.start, middle), whole, schedule.zone)
    after = proration(Period(middle, whole.end), whole, schedule.zone)
    assert 0 <= before <= 1
    assert before + after == 1


def _repeated(instant: datetime, zone: str) -> bool:
    """Whether the wall clock there shows this time twice, so that a clock reading is not enough."""
    local = instant.astimezone(ZoneInfo(zone))
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def test_a_share_is_within_the_whole() -> None:
    """Nothing of a part outside counts, and no share is negative, even in an hour lived twice."""
    whole = Period(utc(2026, 1, 1), utc(2026, 2, 1))
    assert proration(Period(utc(2025, 12, 1), utc(2026, 3, 1)), whole, "UTC") == 1
    assert proration(Period(utc(2026, 2, 1), utc(2026, 3, 1)), whole, "UTC") == 0
    backwards = Period(utc(2026, 10, 25, 0, 50), utc(2026, 10, 25, 1, 10))
    october = Period(utc(2026, 10, 1), utc(2026, 11, 1))
    assert proration(backwards, october, "Europe/Berlin") == 0


def test_an_empty_whole_has_no_shares() -> None:
    """It would be a division by zero."""
    empty = Period(utc(2026, 1, 1), utc(2026, 1, 1))
    with pytest.raises(ValueError, match="no share of 2026-01-01T01:00:00 to"):
        proration(empty, empty, "Europe/Berlin")


def test_what_is_before_the_anchor_is_in_no_period() -> None:
    """And there is no period before the first."""
    schedule = Schedule(utc(2026, 1, 1), "month", "UTC")
    with pytest.raises(ValueError, match="2025-12-31T23:59:00"):
        schedule.index_of(utc(2025, 12, 31, 23, 59))
    with pytest.raises(ValueError, match="period -1 would lie before"):
        schedule.period(-1)


def test_a_naive_anchor_is_refused() -> None:
    """Nobody knows when it is."""
    with pytest.raises(ValueError, match="has no time zone"):
        Schedule(datetime(2026, 1, 1), "month", "UTC")  # noqa: DTZ001 - a naive value is the point


def test_the_anchor_is_an_instant() -> None:
    """The zone it was written in does not matter; schedules of one instant are equal."""
    tokyo = datetime(2026, 1, 1, 9, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert Schedule(tokyo, "month", "UTC") == Schedule(utc(2026, 1, 1), "month", "UTC")
    assert Schedule(tokyo, "month", "UTC").anchor.tzinfo is UTC


@pytest.mark.parametrize(
    "name", ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Asia/Kolkata"]
)
def test_zones_are_known_by_their_name(name: str) -> None:
    """Those of the IANA database."""
    assert zone_problem(name) is None


@pytest.mark.parametrize(
    "name",
    ["", "Berlin", "europe/berlin", "localtime", "Factory", "../etc/passwd", "UTC+1", "A" * 9_999],
)
def test_an_unknown_zone_is_refused_with_words(name: str) -> None:
    """Whatever a file system would make of the name."""
    problem = zone_problem(name)
    assert problem is not None
    assert problem.endswith("write an IANA name such as Europe/Berlin or UTC")
    assert len(problem) < 150
