"""Subscriptions as they are made and found: what is refused, and why."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.billing import subscriptions
from usageflow.catalog import customers, organization_settings, organizations, plans
from usageflow.catalog.charges import Charge
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.db.outbox_tables import WebhookEventRow
from usageflow.db.session import Tx
from usageflow.db.tables import AuditRow

if TYPE_CHECKING:
    from tests.billing.conftest import Shop


def utc(*parts: int) -> datetime:
    """An instant."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # the parts of a date


def refused(
    shop: "Shop", plan: str = "pro", customer: str | None = "acme", **wishes: Any
) -> Refused:
    """Why a subscription is not made."""
    with shop.tx() as tx:
        found = subscriptions.create(
            tx, shop.organization_id, customer, plan, actor=shop.actor, **wishes
        )
    assert isinstance(found, Refused)
    return found


def audited(tx: Tx) -> list[tuple[str, str, str]]:
    """What the audit log says of subscriptions: action, actor, subject."""
    rows = tx.session.exec(
        select(AuditRow)
        .where(col(AuditRow.action).startswith("subscription."))
        .order_by(col(AuditRow.seq))
    )
    return [(row.action, row.actor, row.subject) for row in rows]


def test_a_subscription_begins_now_under_the_newest_version(shop: "Shop") -> None:
    """ACTIVE, in its first period, with a note in the audit log and word to webhooks."""
    plan, customer = shop.plan(), shop.customer()
    made = shop.subscribe()
    assert (made.state, made.plan_id, made.plan_version) == ("ACTIVE", plan.id, plan.version)
    assert (made.customer_id, made.time_zone) == (customer.id, "UTC")
    assert (made.period_start, made.period_end) == (shop.now, utc(2026, 4, 10, 12))
    assert made.due_at == made.period_end
    assert made.trial_end is None
    with shop.tx() as tx:
        assert audited(tx) == [("subscription.create", "ann@example.com", made.id)]
        told = tx.session.exec(select(WebhookEventRow.type)).all()
        assert told == ["subscription.created"]


def test_without_a_customer_the_organization_subscribes(shop: "Shop") -> None:
    """As its default customer, who is made on that occasion."""
    shop.plan()
    made = shop.subscribe(customer=None)
    with shop.tx() as tx:
        assert made.customer_id == customers.default_customer(tx, shop.organization_id).id


def test_customers_and_plans_are_named_by_either_id(shop: "Shop") -> None:
    """Our ids, or the external id and the lookup id."""
    plan, customer = shop.plan(), shop.customer()
    shop.plan("other")
    assert shop.subscribe(plan.id, customer.external_id).plan_id == plan.id
    assert shop.subscribe("other", customer.id).customer_id == customer.id


def test_periods_follow_the_time_zone_of_the_organization(shop: "Shop") -> None:
    """The first of the month in Berlin, for a plan of calendar months."""
    shop.plan(alignment="calendar")
    shop.customer()
    with shop.tx() as tx:
        organization_settings.change(
            tx, shop.organization_id, {"time_zone": "Europe/Berlin"}, actor=shop.actor
        )
    assert shop.subscribe().period_end == utc(2026, 3, 31, 22)


@pytest.mark.parametrize(
    ("trial_days", "wishes", "ends"),
    [
        (14, {}, utc(2026, 3, 24, 12)),
        (14, {"trial_end": utc(2026, 3, 12)}, utc(2026, 3, 12)),
        (0, {"trial_end": utc(2026, 3, 12)}, utc(2026, 3, 12)),
        (14, {"trial_end": utc(2026, 3, 10, 12)}, None),
        (14, {"start_at": utc(2026, 2, 1)}, utc(2026, 2, 15)),
    ],
    ids=["plan", "given", "given alone", "none", "past"],
)
def test_a_trial_is_as_long_as_the_plan_says_unless_its_end_is_given(
    shop: "Shop", trial_days: int, wishes: dict[str, Any], ends: datetime | None
) -> None:
    """It is due at its end; an end equal to the start means no trial."""
    shop.plan(trial_days=trial_days)
    shop.customer()
    made = shop.subscribe(**wishes)
    assert (made.state, made.trial_end) == ("TRIAL" if ends else "ACTIVE", ends)
    assert made.due_at == ends or ends is None


def test_a_start_to_come_begins_its_period_then(shop: "Shop") -> None:
    """Nothing is due before the end of the first period."""
    shop.plan()
    shop.customer()
    made = shop.subscribe(start_at=utc(2026, 6, 1))
    assert (made.state, made.period_start, made.due_at) == (
        "ACTIVE",
        utc(2026, 6, 1),
        utc(2026, 7, 1),
    )


@pytest.mark.parametrize(
    ("wishes", "field", "words"),
    [
        ({"billing_interval": "year"}, "billing_interval", "the plan bills by the month"),
        ({"start_at": utc(2016, 3, 1)}, "start_date", "more than ten years ago"),
        ({"start_at": utc(2027, 3, 12)}, "start_date", "more than a year ahead"),
        ({"trial_end": utc(2026, 3, 10)}, "trial_end_date", "end before it starts"),
        ({"trial_end": utc(2029, 3, 10)}, "trial_end_date", "more than 730 days"),
    ],
    ids=["interval", "long ago", "far ahead", "trial back", "trial long"],
)
def test_times_that_make_no_sense_are_refused(
    shop: "Shop", wishes: dict[str, Any], field: str, words: str
) -> None:
    """With the field that is wrong."""
    shop.plan()
    shop.customer()
    found = refused(shop, **wishes)
    assert (found.code, found.field) == ("invalid", field)
    assert words in found.message


def test_more_periods_than_can_be_invoiced_at_once_are_refused(shop: "Shop") -> None:
    """A thousand days are possible, one more is not."""
    shop.plan(interval="day")
    shop.customer()
    found = refused(shop, start_at=shop.now - timedelta(days=1_001))
    assert (found.code, found.field) == ("invalid", "start_date")
    assert "1001 periods of a day are over" in found.message
    assert shop.subscribe(start_at=shop.now - timedelta(days=1_000)).state == "ACTIVE"


def test_a_plan_is_subscribed_to_once_at_a_time(shop: "Shop") -> None:
    """A second subscription of the customer to it is refused, until the first has ended."""
    shop.plan()
    shop.customer()
    first = shop.subscribe()
    assert (refused(shop).code, refused(shop).field) == ("conflict", "plan_id")
    assert first.id in refused(shop).message
    with shop.tx() as tx:
        tx.session.get_one(SubscriptionRow, first.id).state = "CANCELLED"
    assert shop.subscribe().id != first.id


def test_who_subscribe_at_once_take_turns(shop: "Shop") -> None:
    """Of four clients that make the same subscription one succeeds, and three are told."""
    shop.plan()
    shop.customer()

    def create(_: int) -> bool:
        with shop.tx() as tx:
            made = subscriptions.create(tx, shop.organization_id, "acme", "pro", actor=shop.actor)
            return isinstance(made, SubscriptionRow)

    with ThreadPoolExecutor(4) as clients:
        assert sorted(clients.map(create, range(4))) == [False, False, False, True]


def test_what_is_not_there_or_not_offered_is_refused(shop: "Shop") -> None:
    """No such customer or plan; an archived customer; a plan that is not active."""
    plan = shop.plan()
    assert refused(shop).field == "customer_id"
    shop.customer()
    assert refused(shop, "gold") == plans.unknown("gold", "plan_id")
    with shop.tx() as tx:
        plans.rename(tx, shop.organization_id, plan.id, is_active=False, actor=shop.actor)
    assert "takes no new subscriptions" in refused(shop).message
    with shop.tx() as tx:
        customers.archive(tx, shop.organization_id, "acme", actor=shop.actor)
    assert "is archived" in refused(shop).message


def test_what_would_be_charged_twice_is_refused(
    shop: "Shop", per_unit: Callable[..., Charge]
) -> None:
    """The guard is asked: here, two plans charge a metric in two ways."""
    shop.plan("ours", per_unit("API_CALL"))
    shop.plan("stripes", per_unit("API_CALL"), collect="stripe_meters")
    shop.customer()
    shop.subscribe("ours")
    assert refused(shop, "stripes").code == "conflict"


def test_subscriptions_are_listed_newest_first_and_filtered(shop: "Shop") -> None:
    """By customer, plan and state; of one organization alone."""
    pro, basic = shop.plan(), shop.plan("basic")
    shop.customer()
    shop.customer("zenith")
    made = []
    for plan, customer in (("pro", "acme"), ("basic", "acme"), ("pro", "zenith")):
        made.append(shop.subscribe(plan, customer).id)
        shop.wait(seconds=1)

    def found(**filters: Any) -> list[str]:
        with shop.database.reading() as tx:
            rows, total = subscriptions.listing(
                tx, shop.organization_id, offset=0, limit=10, **filters
            )
            assert total == len(rows)
            return [row.id for row in rows]

    assert found() == made[::-1]
    assert found(customer_id="customer-acme") == [made[1], made[0]]
    assert found(plan_id=pro.id) == [made[2], made[0]]
    assert found(plan_id=basic.id, state="TRIAL") == []
    with shop.tx() as tx:
        other = organizations.create(tx, "other", actor="test")
        assert subscriptions.listing(tx, other, offset=0, limit=10) == ([], 0)
        assert subscriptions.find(tx, other, made[0]) is None
        assert subscriptions.locked(tx, other, made[0]) is None
        assert subscriptions.of_customer(tx, other, "customer-acme") == []


def test_dunning_suspends_and_takes_back_and_says_so(shop: "Shop") -> None:
    """Each step is noted as the system's; one that does not exist is False, and not noted."""
    shop.plan()
    shop.customer()
    made = shop.subscribe()
    with shop.tx() as tx:
        row = subscriptions.locked(tx, shop.organization_id, made.id)
        assert row is not None
        assert not subscriptions.recover(tx, row)
        assert subscriptions.mark_past_due(tx, row)
        assert not subscriptions.mark_past_due(tx, row)
        assert subscriptions.suspend(tx, row)
        assert subscriptions.recover(tx, row)
        assert audited(tx)[1:] == [
            ("subscription.fall_behind", "system", made.id),
            ("subscription.suspend", "system", made.id),
            ("subscription.recover", "system", made.id),
        ]
