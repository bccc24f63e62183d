"""What is due at the end of a period: one turn each, as of when it was due."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usageflow.billing import subscription_changes, subscriptions
from usageflow.billing.turnover import Turn, catch_up, take_turn
from usageflow.catalog import organization_settings
from usageflow.catalog.charges import Terms
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.db.session import Tx

if TYPE_CHECKING:
    from tests.billing.conftest import Shop


class Closed(NamedTuple):
    """What was invoiced, of which plan."""

    start: datetime
    end: datetime
    plan_id: str


class Record:
    """Keeps what is closed."""

    def __init__(self) -> None:
        self.closed: list[Closed] = []

    def __call__(
        self,
        tx: Tx,
        subscription: SubscriptionRow,
        terms: Terms,
        *,
        end: datetime,
        kind: Literal["period", "interim"],
    ) -> None:
        """Note it; no row is made."""
        assert kind == "period"
        self.closed.append(Closed(subscription.period_start, end, subscription.plan_id))


def utc(*parts: int) -> datetime:
    """An instant."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # the parts of a date


def turns(shop: "Shop", subscription: SubscriptionRow, close: Record) -> list[Turn]:
    """Take every turn that is due, each in a transaction of its own."""
    taken: list[Turn] = []
    while True:
        with shop.tx() as tx:
            turn = take_turn(tx, tx.session.get_one(SubscriptionRow, subscription.id), close)
        if turn == "none":
            return taken
        taken.append(turn)


def spans(close: Record) -> list[tuple[datetime, datetime]]:
    """From when to when was closed."""
    return [(one.start, one.end) for one in close.closed]


def test_nothing_is_due_before_the_end(shop: "Shop") -> None:
    """A turn a moment before the period's end does nothing; at its end it closes."""
    shop.plan()
    shop.customer()
    subscription = shop.subscribe()
    close = Record()
    shop.now = subscription.period_end - timedelta(microseconds=1)
    assert turns(shop, subscription, close) == []
    shop.wait(microseconds=1)
    assert turns(shop, subscription, close) == ["closed"]
    assert spans(close) == [(subscription.period_start, subscription.period_end)]


def test_periods_missed_are_caught_up_one_by_one(shop: "Shop") -> None:
    """After two months and more of silence there are two closed periods, and one that runs."""
    shop.plan()
    shop.customer()
    subscription = shop.subscribe(start_at=utc(2026, 1, 31))
    close = Record()
    shop.now = utc(2026, 4, 1)
    assert turns(shop, subscription, close) == ["closed", "closed"]
    assert spans(close) == [
        (utc(2026, 1, 31), utc(2026, 2, 28)),
        (utc(2026, 2, 28), utc(2026, 3, 31)),
    ]
    seen = shop.seen(subscription)
    assert (seen.period_start, seen.period_end) == (utc(2026, 3, 31), utc(2026, 4, 30))


def test_a_trial_becomes_active_without_an_invoice(shop: "Shop") -> None:
    """The first billed period begins where the trial ended, however late that is noticed."""
    shop.plan(trial_days=14)
    shop.customer()
    subscription = shop.subscribe()
    assert subscription.state == "TRIAL"
    close = Record()
    shop.wait(days=20)
    assert turns(shop, subscription, close) == ["activated"]
    seen = shop.seen(subscription)
    assert close.closed == []
    assert (seen.state, seen.anchor_at, seen.period_start) == (
        "ACTIVE",
        utc(2026, 3, 24, 12),
        utc(2026, 3, 24, 12),
    )
    assert seen.period_end == utc(2026, 4, 24, 12)


def test_one_that_is_cancelled_ends_with_its_period(shop: "Shop") -> None:
    """The last period is closed in full, and nothing is due any more."""
    shop.plan()
    shop.customer()
    subscription = shop.subscribe()
    close = Record()
    with shop.tx() as tx:
        subscription_changes.cancel(
            tx,
            shop.organization_id,
            subscription.id,
            at_period_end=True,
            close=close,
            actor=shop.actor,
        )
    shop.wait(days=40)
    assert turns(shop, subscription, close) == ["ended"]
    seen = shop.seen(subscription)
    assert (seen.state, seen.ended_at, seen.due_at) == (
        "CANCELLED",
        subscription.period_end,
        None,
    )
    assert spans(close) == [(subscription.period_start, subscription.period_end)]


def test_a_suspended_subscription_is_billed(shop: "Shop") -> None:
    """What is used while suspended is not lost."""
    shop.plan()
    shop.customer()
    subscription = shop.subscribe()
    with shop.tx() as tx:
        assert subscriptions.suspend(tx, tx.session.get_one(SubscriptionRow, subscription.id))
    close = Record()
    shop.wait(days=40)
    assert turns(shop, subscription, close) == ["closed"]
    assert shop.seen(subscription).state == "SUSPENDED"


INTERVALS = ("day", "week", "month", "year")
ALIGNMENTS = ("anniversary", "calendar")
PLANS = [f"{interval}-{alignment}" for interval in INTERVALS for alignment in ALIGNMENTS]
WISHES = st.one_of(
    st.sampled_from(("nothing", "pause", "resume", "cancel", "uncancel", "keep_plan")),
    st.tuples(st.sampled_from(("now", "period_end")), st.sampled_from(PLANS)),
)


def wish(tx: Tx, row: SubscriptionRow, what: str | tuple[str, str], close: Record) -> Any:
    """Ask for something; whether it is granted does not matter."""
    place: dict[str, Any] = {"close": close, "actor": "ann"}
    ids = (tx, row.organization_id, row.id)
    if isinstance(what, tuple):
        when, plan = what
        return subscription_changes.change_plan(*ids, plan, when=when, **place)  # type: ignore[arg-type]
    if what == "nothing":
        return catch_up(tx, row, close)
    if what == "cancel":
        place["at_period_end"] = True
    return getattr(subscription_changes, what)(*ids, **place)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    after=st.timedeltas(timedelta(), timedelta(days=1_000)),
    zone=st.sampled_from(("UTC", "Europe/Berlin", "Australia/Lord_Howe")),
    plan=st.sampled_from(PLANS),
    trial=st.timedeltas(timedelta(), timedelta(days=20)),
    wishes=st.lists(
        st.tuples(st.timedeltas(timedelta(), timedelta(days=40)), WISHES), min_size=3, max_size=8
    ),
)
def test_what_is_closed_tiles_the_time_of_a_subscription(
    calendar_shop: "Shop",
    *,
    after: timedelta,
    zone: str,
    plan: str,
    trial: timedelta,
    wishes: list[tuple[timedelta, str | tuple[str, str]]],
) -> None:
    """Whatever is wished and whenever turns are taken: nothing is billed twice, nothing left out.

    Periods and pauses follow one another without gap or overlap from the end of the trial to the
    beginning of the period that runs, or to the end.
    """
    shop, close, pauses = calendar_shop, Record(), []
    start = utc(2024, 1, 1) + after
    billed_from = start + trial
    with shop.tx() as opened, opened.session.begin_nested() as all_this:
        tx = dataclasses.replace(opened, now=start)
        place = organization_settings.change(
            tx, shop.organization_id, {"time_zone": zone}, actor=shop.actor
        )
        assert not isinstance(place, Refused)
        row = subscriptions.create(
            tx, shop.organization_id, "acme", plan, trial_end=billed_from, actor=shop.actor
        )
        assert isinstance(row, SubscriptionRow), row
        for later, what in wishes:
            tx = dataclasses.replace(tx, now=tx.now + later)
            was_paused, ended_at = row.state == "PAUSED", row.period_end
            wish(tx, row, what, close)
            if was_paused and row.state == "ACTIVE":
                pauses.append((ended_at, row.period_start))
        stretches = sorted([*spans(close), *pauses])
        if row.state in ("CANCELLED", "PAUSED"):
            stretches.append((row.period_end, row.period_end))
        elif row.state != "TRIAL":
            stretches.append((row.period_start, row.period_end))
            assert row.period_start <= tx.now < row.period_end
        all_this.rollback()
    assert all(start < end for start, end in spans(close))
    if stretches:
        assert stretches[0][0] == billed_from
    assert [end for _, end in stretches[:-1]] == [start for start, _ in stretches[1:]]


@pytest.fixture
def calendar_shop(shop: "Shop") -> "Shop":
    """A shop with plans of every interval and alignment, by names like `month-calendar`."""
    for plan in PLANS:
        interval, alignment = plan.split("-")
        shop.plan(plan, interval=interval, alignment=alignment)
    shop.customer()
    return shop
