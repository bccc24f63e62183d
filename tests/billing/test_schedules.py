"""Where a subscription stands in its periods: where they begin and end, and their shares."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.billing import schedules
from usageflow.catalog.charges import Terms
from usageflow.db.billing_tables import SubscriptionRow

ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe")


def terms(interval: Any = "month", alignment: Any = "anniversary") -> Terms:
    """A plan of these periods."""
    return Terms(type="FIXED", currency="USD", interval=interval, alignment=alignment)


def begun(at: datetime, plan: Terms, zone: str = "UTC") -> SubscriptionRow:
    """A subscription whose first period begins."""
    row = SubscriptionRow(plan_version=1, period_index=0, time_zone=zone)
    schedules.begin_anew(row, plan, at)
    return row


def utc(*parts: int) -> datetime:
    """An instant."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # the parts of a date


def test_the_first_period_begins_where_it_is_told_and_is_due_at_its_end() -> None:
    """An anniversary in January's last days comes round on February's last."""
    row = begun(utc(2026, 1, 31, 9), terms())
    assert (row.anchor_at, row.period_index) == (utc(2026, 1, 31, 9), 0)
    assert (row.period_start, row.period_end) == (utc(2026, 1, 31, 9), utc(2026, 2, 28, 9))
    assert row.due_at == row.period_end


def test_the_next_periods_do_not_drift() -> None:
    """31 January, 28 February, 31 March: each is counted from the anchor."""
    row = begun(utc(2026, 1, 31), terms())
    ends = []
    for _ in range(3):
        ends.append(row.period_end)
        schedules.begin(row, terms(), row.period_end)
    assert ends == [utc(2026, 2, 28), utc(2026, 3, 31), utc(2026, 4, 30)]
    assert row.period_index == 3


def test_the_first_period_of_the_calendar_is_a_share_of_its_month() -> None:
    """From 15 January: 17 days of 31, as the product documents compute 16.45 of 30."""
    plan = terms(alignment="calendar")
    row = begun(utc(2026, 1, 15), plan)
    assert row.period_end == utc(2026, 2, 1)
    assert schedules.share(row, plan, row.period_end) == Fraction(17, 31)


def test_a_whole_period_is_one_even_when_clocks_change_in_it() -> None:
    """March in Berlin has an hour less, and is a whole month."""
    row = begun(utc(2026, 2, 28, 23), terms(), "Europe/Berlin")
    assert row.period_end == utc(2026, 3, 31, 22)
    assert schedules.share(row, terms(), row.period_end) == 1


def test_a_day_that_a_time_zone_leaves_out_has_no_period() -> None:
    """Samoa had no 30 December 2011: the period after the 29th is the 31st's."""
    daily = terms("day")
    row = begun(utc(2011, 12, 28, 12), daily, "Pacific/Apia")
    ends = []
    for _ in range(4):
        schedules.begin(row, daily, row.period_end)
        ends.append(row.period_end)
    assert ends == sorted(set(ends))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (terms(), True),
        (terms("year"), False),
        (terms(alignment="calendar"), False),
    ],
)
def test_plans_have_the_same_rhythm_if_interval_and_alignment_agree(
    other: Terms,
    *,
    same: bool,
) -> None:
    """Only then a change between them keeps the period."""
    assert schedules.same_rhythm(terms(), other) is same


@given(
    after=st.timedeltas(timedelta(), timedelta(days=7_305)),
    interval=st.sampled_from(("day", "week", "month", "year")),
    alignment=st.sampled_from(("anniversary", "calendar")),
    zone=st.sampled_from(ZONES),
    part=st.fractions(0, 1),
)
def test_the_shares_of_a_period_cut_in_two_add_up(
    after: timedelta, interval: str, alignment: str, zone: str, part: Fraction
) -> None:
    """What is billed before a change of plan and after it is one period, whenever that is."""
    plan = terms(interval, alignment)
    row = begun(utc(2020, 1, 1) + after, plan, zone)
    schedules.begin(row, plan, row.period_end)
    whole = schedules.share(row, plan, row.period_end)
    length = (row.period_end - row.period_start) // timedelta(microseconds=1)
    cut = row.period_start + timedelta(microseconds=int(length * part))
    end = row.period_end
    before = schedules.share(row, plan, cut)
    schedules.begin(row, plan, cut)
    assert whole == 1
    if cut < end:
        assert row.period_end == end
        assert before + schedules.share(row, plan, end) == whole
