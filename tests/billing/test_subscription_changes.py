"""What people wish of a subscription, and what becomes of its period, its invoices and its plan."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
from sqlmodel import col, select

from usageflow.billing import closing, schedules, subscription_changes
from usageflow.billing.turnover import Close
from usageflow.catalog import plans
from usageflow.catalog.charges import Charge, Terms
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import InvoiceRow, SubscriptionRow
from usageflow.db.session import Tx
from usageflow.db.tables import AuditRow

if TYPE_CHECKING:
    from tests.billing.conftest import Shop


class Record:
    """Keeps what is closed: plan, from, to, and the share of a period that is."""

    def __init__(self) -> None:
        self.closed: list[tuple[str, datetime, datetime, Fraction]] = []

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
        share = schedules.share(subscription, terms, end)
        self.closed.append((subscription.plan_id, subscription.period_start, end, share))


class Desk:
    """Where wishes are uttered about one subscription."""

    def __init__(
        self, shop: "Shop", subscription: SubscriptionRow, close: Close | None = None
    ) -> None:
        self.shop = shop
        self.subscription = subscription
        self.record = Record()
        self.close = close or self.record

    def ask(self, what: str, *details: Any, **more: Any) -> SubscriptionRow | Refused:
        """The subscription as it is then, or why it stays as it is."""
        with self.shop.tx() as tx:
            found: SubscriptionRow | Refused = getattr(subscription_changes, what)(
                tx,
                self.shop.organization_id,
                self.subscription.id,
                *details,
                close=self.close,
                actor=self.shop.actor,
                **more,
            )
            if isinstance(found, Refused):
                tx.session.rollback()
            else:
                tx.session.flush()
                tx.session.expunge(found)
        return found

    def granted(self, what: str, *details: Any, **more: Any) -> SubscriptionRow:
        """The subscription as it is then."""
        found = self.ask(what, *details, **more)
        assert isinstance(found, SubscriptionRow), found
        return found

    def refused(self, what: str, *details: Any, **more: Any) -> str:
        """Why nothing is changed."""
        found = self.ask(what, *details, **more)
        assert isinstance(found, Refused), found
        assert found.code == "conflict"
        return found.message


@pytest.fixture
def desk(shop: "Shop") -> Desk:
    """A monthly subscription of 1 March, ten days later."""
    shop.plan()
    shop.customer()
    return Desk(shop, shop.subscribe(start_at=utc(2026, 3, 1)))


def utc(*parts: int) -> datetime:
    """An instant."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # the parts of a date


def test_pausing_closes_the_running_period_and_nothing_is_due(desk: Desk) -> None:
    """Nine and a half days of March are invoiced; then the worker has nothing to do."""
    paused = desk.granted("pause")
    assert (paused.state, paused.due_at, paused.paused_at) == ("PAUSED", None, desk.shop.now)
    [(_, start, end, share)] = desk.record.closed
    assert (start, end, share) == (utc(2026, 3, 1), desk.shop.now, Fraction(19, 62))
    assert paused.period_end == desk.shop.now


def test_resuming_begins_a_schedule_anew(desk: Desk) -> None:
    """The time of the pause is not billed; the next periods are counted from its end."""
    desk.granted("pause")
    resumed_at = desk.shop.wait(days=45)
    resumed = desk.granted("resume")
    assert (resumed.state, resumed.paused_at) == ("ACTIVE", None)
    assert (resumed.anchor_at, resumed.period_start) == (resumed_at, resumed_at)
    assert resumed.period_end == utc(2026, 5, 24, 12)
    assert len(desk.record.closed) == 1


def test_a_clock_that_was_set_back_bills_nothing_twice(desk: Desk) -> None:
    """Who resumes before the pause begins where it began; an empty period is not closed."""
    paused = desk.granted("pause")
    desk.shop.wait(hours=-1)
    resumed = desk.granted("resume")
    assert resumed.period_start == paused.period_end
    ended = desk.granted("cancel", at_period_end=False)
    assert ended.state == "CANCELLED"
    assert len(desk.record.closed) == 1


def test_due_turns_are_taken_before_a_wish(desk: Desk) -> None:
    """Two periods that nobody closed are closed in full before the third is paused."""
    desk.shop.now = utc(2026, 5, 11)
    desk.granted("pause")
    assert [closed[1:] for closed in desk.record.closed] == [
        (utc(2026, 3, 1), utc(2026, 4, 1), 1),
        (utc(2026, 4, 1), utc(2026, 5, 1), 1),
        (utc(2026, 5, 1), utc(2026, 5, 11), Fraction(10, 31)),
    ]


def test_a_turn_that_a_worker_put_off_is_taken_before_a_wish(desk: Desk) -> None:
    """No period is ever closed beyond its end, whenever the worker wants to try again."""
    desk.shop.now = utc(2026, 4, 2)
    with desk.shop.tx() as tx:
        row = tx.session.get_one(SubscriptionRow, desk.subscription.id)
        row.due_at = desk.shop.now + timedelta(minutes=10)
    desk.granted("pause")
    assert [closed[1:3] for closed in desk.record.closed] == [
        (utc(2026, 3, 1), utc(2026, 4, 1)),
        (utc(2026, 4, 1), utc(2026, 4, 2)),
    ]


def test_cancelling_at_the_end_stays_active_until_then(desk: Desk) -> None:
    """When and why it was asked for is kept; it can be taken back, once."""
    cancelled = desk.granted("cancel", at_period_end=True, reason="too dear")
    assert (cancelled.state, cancelled.cancel_at_period_end) == ("ACTIVE", True)
    assert (cancelled.canceled_at, cancelled.cancel_reason) == (desk.shop.now, "too dear")
    assert desk.record.closed == []
    kept = desk.granted("uncancel")
    assert (kept.cancel_at_period_end, kept.canceled_at, kept.cancel_reason) == (False, None, None)
    assert "not about to end" in desk.refused("uncancel")


def test_cancelling_now_closes_the_period_so_far(desk: Desk) -> None:
    """The final invoice is for the days until now, and nothing is due any more."""
    ended = desk.granted("cancel", at_period_end=False)
    assert (ended.state, ended.ended_at, ended.due_at) == ("CANCELLED", desk.shop.now, None)
    assert [closed[1:] for closed in desk.record.closed] == [
        (utc(2026, 3, 1), desk.shop.now, Fraction(19, 62))
    ]
    for wish in ("pause", "resume", "uncancel", "keep_plan"):
        assert desk.refused(wish)
    assert desk.refused("cancel", at_period_end=True)
    assert "has ended" in desk.refused("change_plan", "pro", when="now")


def test_a_trial_is_cancelled_without_an_invoice(shop: "Shop") -> None:
    """At once or at its end; it cannot be paused."""
    shop.plan(trial_days=14)
    shop.customer()
    desk = Desk(shop, shop.subscribe())
    assert "needs a subscription that is ACTIVE or PAST_DUE" in desk.refused("pause")
    ended = desk.granted("cancel", at_period_end=False)
    assert (ended.state, ended.period_end, desk.record.closed) == ("CANCELLED", shop.now, [])


def test_a_pause_that_is_cancelled_ends_now(desk: Desk) -> None:
    """It has no period whose end could be waited for."""
    desk.granted("pause")
    desk.shop.wait(days=3)
    ended = desk.granted("cancel", at_period_end=True)
    assert (ended.state, ended.ended_at) == ("CANCELLED", desk.shop.now)
    assert len(desk.record.closed) == 1


def test_one_that_has_not_begun_ends_without_an_invoice(shop: "Shop") -> None:
    """Nothing is closed of a time to come; its pause ends where it would have begun."""
    shop.plan()
    shop.customer()
    desk = Desk(shop, shop.subscribe(start_at=utc(2026, 6, 1)))
    desk.granted("pause")
    assert desk.granted("resume").period_start == utc(2026, 6, 1)
    assert desk.granted("cancel", at_period_end=False).state == "CANCELLED"
    assert desk.record.closed == []


def test_a_change_now_bills_both_plans_their_part_of_the_period(desk: Desk) -> None:
    """The old one until now, the new one from now to the same end; both are one month."""
    old, new = desk.subscription.plan_id, desk.shop.plan("gold")
    changed_at = desk.shop.now
    changed = desk.granted("change_plan", "gold", when="now")
    assert (changed.plan_id, changed.plan_version, changed.next_plan_id) == (new.id, 1, None)
    assert (changed.anchor_at, changed.period_start) == (utc(2026, 3, 1), changed_at)
    assert (changed.period_end, changed.due_at) == (utc(2026, 4, 1), utc(2026, 4, 1))
    desk.shop.now = utc(2026, 4, 2)
    desk.granted("pause")
    assert desk.record.closed[:2] == [
        (old, utc(2026, 3, 1), changed_at, Fraction(19, 62)),
        (new.id, changed_at, utc(2026, 4, 1), Fraction(43, 62)),
    ]


def test_both_parts_of_a_changed_period_are_invoiced(shop: "Shop") -> None:
    """19/62 of 30 and 43/62 of 60, each rounded once: 9.19 and 41.61."""
    shop.plan(base_price=Decimal(30))
    shop.plan("gold", base_price=Decimal(60))
    shop.customer()
    desk = Desk(shop, shop.subscribe(start_at=utc(2026, 3, 1)), closing.close)
    desk.granted("change_plan", "gold", when="now")
    shop.now = utc(2026, 4, 1)
    desk.granted("cancel", at_period_end=False)
    with shop.database.reading() as tx:
        invoices = tx.session.exec(select(InvoiceRow).order_by(col(InvoiceRow.period_start))).all()
        assert [invoice.total for invoice in invoices] == [919, 4161]


def test_a_change_to_other_periods_begins_a_schedule_anew(desk: Desk) -> None:
    """A year from now, in full."""
    desk.shop.plan("gold", interval="year")
    changed = desk.granted("change_plan", "gold", when="now")
    assert changed.anchor_at == changed.period_start == desk.shop.now
    assert changed.period_end == utc(2027, 3, 10, 12)


def test_a_change_at_the_end_waits_for_it(desk: Desk) -> None:
    """The whole period is billed under the old plan, the next one under the new."""
    old, new = desk.subscription.plan_id, desk.shop.plan("gold", interval="year")
    waiting = desk.granted("change_plan", "gold", when="period_end")
    assert (waiting.plan_id, waiting.next_plan_id) == (old, new.id)
    desk.shop.now = utc(2026, 4, 1)
    changed = desk.granted("pause")
    assert desk.record.closed == [(old, utc(2026, 3, 1), utc(2026, 4, 1), Fraction(1))]
    assert (changed.plan_id, changed.anchor_at) == (new.id, utc(2026, 4, 1))


def test_a_change_to_come_can_be_taken_back(desk: Desk) -> None:
    """By keeping the plan, or by cancelling; there is nothing to keep otherwise."""
    desk.shop.plan("gold")
    desk.granted("change_plan", "gold", when="period_end")
    assert desk.granted("keep_plan").next_plan_id is None
    assert "no change" in desk.refused("keep_plan")
    desk.granted("change_plan", "gold", when="period_end")
    assert desk.granted("cancel", at_period_end=True).next_plan_id is None
    assert "uncancel it first" in desk.refused("change_plan", "gold", when="period_end")


@pytest.mark.parametrize("when", ["now", "period_end"])
def test_a_pause_is_changed_without_an_invoice(desk: Desk, when: str) -> None:
    """The next period, at the end of the pause, is under the new plan."""
    gold = desk.shop.plan("gold")
    desk.granted("pause")
    desk.granted("change_plan", "gold", when=when)
    resumed = desk.granted("resume")
    assert (resumed.plan_id, resumed.state) == (gold.id, "ACTIVE")
    assert len(desk.record.closed) == 1


def test_a_trial_is_changed_without_becoming_longer(shop: "Shop") -> None:
    """Its end stays what it was, whatever trial the new plan has."""
    shop.plan(trial_days=14)
    gold = shop.plan("gold", trial_days=30)
    shop.customer()
    desk = Desk(shop, shop.subscribe())
    changed = desk.granted("change_plan", "gold", when="now")
    assert (changed.plan_id, changed.state) == (gold.id, "TRIAL")
    assert changed.due_at == desk.subscription.trial_end


def test_the_newest_version_of_the_same_plan_is_a_change(desk: Desk) -> None:
    """The version it is under already is none."""
    assert "newest version" in desk.refused("change_plan", "pro", when="now")
    with desk.shop.tx() as tx:
        plans.amend(
            tx,
            desk.shop.organization_id,
            "pro",
            lambda terms: msgspec.structs.replace(terms, trial_days=1),
            action="plan.change",
            actor=desk.shop.actor,
        )
    assert desk.granted("change_plan", "pro", when="now").plan_version == 2


def test_a_change_is_refused_where_a_subscription_would_be(
    desk: Desk, per_unit: Callable[..., Charge]
) -> None:
    """Another currency, another subscription to that plan, a double charge, no such plan."""
    shop = desk.shop
    shop.plan("euro", currency="EUR")
    shop.plan("gold", per_unit("API_CALL"))
    shop.plan("stripes", per_unit("API_CALL"), collect="stripe_meters")
    assert "priced in EUR" in desk.refused("change_plan", "euro", when="now")
    gold = Desk(shop, shop.subscribe("gold"))
    assert "subscribes to Gold already" in desk.refused("change_plan", "gold", when="now")
    assert "charges API_CALL" in desk.refused("change_plan", "stripes", when="period_end")
    assert gold.granted("change_plan", "stripes", when="period_end").next_plan_id
    missing = desk.ask("change_plan", "silver", when="now")
    assert missing == plans.unknown("silver", "plan_id")


def test_a_plan_to_come_is_taken_for_other_subscriptions(desk: Desk) -> None:
    """Two subscriptions of a customer never meet in one plan."""
    desk.shop.plan("gold")
    desk.shop.plan("basic")
    other = Desk(desk.shop, desk.shop.subscribe("basic"))
    desk.granted("change_plan", "gold", when="period_end")
    assert "subscribes to Gold already" in other.refused("change_plan", "gold", when="now")


def test_every_wish_is_in_the_audit_log(desk: Desk) -> None:
    """With who wished it, and what it was before and after."""
    desk.granted("cancel", at_period_end=True, reason="moving")
    with desk.shop.database.reading() as tx:
        row = tx.session.exec(
            select(AuditRow).where(AuditRow.action == "subscription.cancel")
        ).one()
        assert (row.actor, row.subject) == ("ann@example.com", desk.subscription.id)
        assert '"cancel_at_period_end":false' in (row.before or "")
        assert '"cancel_reason":"moving"' in (row.after or "")


def test_a_subscription_that_is_not_there_is_not_found(shop: "Shop") -> None:
    """Every wish says so."""
    desk = Desk(shop, SubscriptionRow(id="sub_none", plan_version=1, period_index=0))
    for wish, details in (
        ("pause", {}),
        ("resume", {}),
        ("cancel", {"at_period_end": True}),
        ("uncancel", {}),
        ("keep_plan", {}),
        ("change_plan", {"plan": "pro", "when": "now"}),
    ):
        found = desk.ask(wish, **details)
        assert isinstance(found, Refused)
        assert found.code == "not_found"


def test_periods_are_closed_until_the_moment_of_the_wish(desk: Desk) -> None:
    """A wish a moment before the end closes all but that moment."""
    desk.shop.now = utc(2026, 4, 1) - timedelta(microseconds=1)
    desk.granted("pause")
    assert [(start, end) for _, start, end, _ in desk.record.closed] == [
        (utc(2026, 3, 1), utc(2026, 4, 1) - timedelta(microseconds=1))
    ]
