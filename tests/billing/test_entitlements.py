"""What a customer may use, how much of it is used, and since when."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from usageflow.billing import entitlements
from usageflow.billing.entitlements import Decision, Granted, decide
from usageflow.catalog import features, organizations
from usageflow.catalog.charges import Entitlement
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import FeatureRow, SubscriptionRow
from usageflow.db.tables import CustomerIdentityRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store

if TYPE_CHECKING:
    from tests.billing.conftest import Shop

numbers = itertools.count(1)


def utc(*parts: int) -> datetime:
    """An instant."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]  # the parts of a date


@pytest.fixture
def grants(shop: "Shop") -> Callable[..., str]:
    """Makes features: `grants("calls", "meter")`; the id."""

    def make(lookup_key: str, kind: Any = "meter", **more: Any) -> str:
        with shop.tx() as tx:
            made = features.create(
                tx,
                shop.organization_id,
                lookup_key=lookup_key,
                name=lookup_key.title(),
                type=kind,
                actor=shop.actor,
                **more,
            )
            assert isinstance(made, FeatureRow), made
            return made.id

    return make


def use(shop: "Shop", metric: str, quantity: str, at: datetime, customer: str = "acme") -> None:
    """Put usage of a customer into the ledger."""
    with shop.tx() as tx:
        known = ("account_id", customer)
        if tx.session.get(CustomerIdentityRow, (shop.organization_id, *known)) is None:
            row = CustomerIdentityRow(
                organization_id=shop.organization_id,
                field=known[0],
                value=known[1],
                customer_id=f"customer-{customer}",
            )
            tx.session.add(row)
            tx.session.flush()
        event = UsageEvent(
            id=f"event-{next(numbers)}",
            state="counted",
            policy="calls",
            policy_version="1",
            metric=metric,
            identity=Identity(*known),
            quantity=Decimal(quantity),
            occurred_at=at,
            request_method="GET",
            request_route="/",
            request_status=200,
        )
        [result] = store.append(tx, shop.organization_id, [encode(event)], unknown_metric="create")
        assert result.status == "accepted", result


def granted(shop: "Shop", customer: str = "acme") -> dict[str, Granted]:
    """What the customer is granted, by lookup key."""
    with shop.tx() as tx:
        found = entitlements.of_customer(tx, shop.organization_id, f"customer-{customer}")
        tx.session.expunge_all()
    return {one.feature.lookup_key: one for one in found}


def check(shop: "Shop", feature: str, quantity: int = 1, customer: str = "acme") -> Decision:
    """Whether the customer may use it."""
    with shop.tx() as tx:
        found = entitlements.check(
            tx, shop.organization_id, f"customer-{customer}", feature, Decimal(quantity)
        )
        tx.session.expunge_all()
    assert isinstance(found, Decision), found
    return found


def test_a_meter_tells_what_is_used_and_left_of_the_period(
    shop: "Shop", grants: Callable[..., str]
) -> None:
    """Usage of the billing period alone counts, until it is reset at its end."""
    calls = grants("calls")
    shop.plan(entitlements=(Entitlement(feature_id=calls, usage_limit=Decimal(1000)),))
    shop.customer()
    shop.subscribe(start_at=utc(2026, 2, 5))
    use(shop, "calls", "700", utc(2026, 3, 5))
    use(shop, "calls", "9", utc(2026, 3, 4, 23))
    one = granted(shop)["calls"]
    assert (one.used, one.remaining) == (Decimal(700), Decimal(300))
    assert one.resets_at == utc(2026, 4, 5)


@pytest.mark.parametrize(
    ("reset", "used", "resets_at"),
    [
        ("day", 1, utc(2026, 3, 11)),
        ("week", 3, utc(2026, 3, 11)),
        ("month", 15, utc(2026, 3, 18)),
        ("year", 15, utc(2027, 2, 18)),
    ],
)
def test_usage_is_reset_by_the_entitlements_own_period(
    shop: "Shop", grants: Callable[..., str], reset: Any, used: int, resets_at: datetime
) -> None:
    """Counted from the beginning of the subscription."""
    calls = grants("calls")
    entitlement = Entitlement(feature_id=calls, usage_limit=Decimal(1000), reset_period=reset)
    shop.plan(interval="year", entitlements=(entitlement,))
    shop.customer()
    shop.subscribe(start_at=utc(2026, 2, 18))
    for quantity, at in (
        ("1", utc(2026, 3, 10, 1)),
        ("2", utc(2026, 3, 5)),
        ("4", utc(2026, 2, 20)),
        ("8", utc(2026, 2, 19)),
    ):
        use(shop, "calls", quantity, at)
    one = granted(shop)["calls"]
    assert one.resets_at == resets_at
    assert one.used == used


def test_a_trial_counts_from_its_start(shop: "Shop", grants: Callable[..., str]) -> None:
    """Limits hold during a trial too."""
    calls = grants("calls")
    shop.plan(trial_days=60, entitlements=(Entitlement(feature_id=calls, usage_limit=Decimal(10)),))
    shop.customer()
    shop.subscribe(start_at=utc(2026, 3, 1))
    use(shop, "calls", "10", utc(2026, 3, 2))
    assert granted(shop)["calls"].resets_at == utc(2026, 4, 1)
    assert not check(shop, "calls").allowed


def test_switches_and_values_are_granted_without_counting(
    shop: "Shop", grants: Callable[..., str]
) -> None:
    """Each by its lookup key, in order; what is switched off is told as such."""
    sso, seats, beta = grants("sso", "switch"), grants("seats", "custom"), grants("beta", "switch")
    shop.plan(
        entitlements=(
            Entitlement(feature_id=sso),
            Entitlement(feature_id=seats, value="25"),
            Entitlement(feature_id=beta, enabled=False),
        )
    )
    shop.customer()
    shop.subscribe()
    found = granted(shop)
    assert list(found) == ["beta", "seats", "sso"]
    assert found["seats"].entitlement.value == "25"
    assert (found["sso"].used, found["sso"].resets_at, found["sso"].remaining) == (None, None, None)
    assert check(shop, "sso").allowed
    assert check(shop, "seats").allowed
    refused = check(shop, "beta")
    assert (refused.allowed, refused.reason) == (False, "the plan switches beta off")


@pytest.mark.parametrize("state", ["PAUSED", "SUSPENDED", "CANCELLED"])
def test_what_is_not_in_use_grants_nothing(
    shop: "Shop", grants: Callable[..., str], state: str
) -> None:
    """And the reason says in which states a subscription does."""
    sso = grants("sso", "switch")
    shop.plan(entitlements=(Entitlement(feature_id=sso),))
    shop.customer()
    made = shop.subscribe()
    with shop.tx() as tx:
        tx.session.get_one(SubscriptionRow, made.id).state = state
    assert granted(shop) == {}
    assert check(shop, sso) == Decision(
        allowed=False,
        reason="no subscription of the customer (TRIAL, ACTIVE, PAST_DUE) grants sso",
    )


def test_a_subscription_to_come_grants_nothing_yet(
    shop: "Shop", grants: Callable[..., str]
) -> None:
    """It does from its start on."""
    sso = grants("sso", "switch")
    shop.plan(entitlements=(Entitlement(feature_id=sso),))
    shop.customer()
    shop.subscribe(start_at=utc(2026, 4, 1))
    assert not check(shop, "sso").allowed
    shop.now = utc(2026, 4, 1)
    assert check(shop, "sso").allowed


def test_the_most_generous_of_several_subscriptions_decides(
    shop: "Shop", grants: Callable[..., str]
) -> None:
    """Limits do not add up; one that allows it is enough, a hard one before a soft one."""
    calls = grants("calls")
    for plan, limit, soft in (("small", 10, False), ("large", 100, False), ("soft", 5, True)):
        shop.plan(
            plan,
            entitlements=(Entitlement(feature_id=calls, usage_limit=Decimal(limit), soft=soft),),
        )
    shop.customer()
    shop.subscribe("small")
    assert not check(shop, "calls", 11).allowed
    shop.subscribe("soft")
    assert check(shop, "calls", 11).over
    large = shop.subscribe("large")
    decision = check(shop, "calls", 11)
    assert decision.granted is not None
    assert (decision.over, decision.granted.subscription.id) == (False, large.id)


def test_a_customer_of_another_organization_is_granted_nothing(
    shop: "Shop", grants: Callable[..., str]
) -> None:
    """Neither are its features known there."""
    sso = grants("sso", "switch")
    shop.plan(entitlements=(Entitlement(feature_id=sso),))
    shop.customer()
    shop.subscribe()
    with shop.tx() as tx:
        other = organizations.create(tx, "other", actor="test")
        assert entitlements.of_customer(tx, other, "customer-acme") == []
        found = entitlements.check(tx, other, "customer-acme", "sso")
        assert isinstance(found, Refused)
        assert found.code == "not_found"


@pytest.mark.parametrize(
    ("limit", "soft", "quantity", "expected"),
    [
        ("10", False, "3", Decision(allowed=True, reason="7 of 10 used")),
        (
            "10",
            False,
            "3.5",
            Decision(allowed=False, reason="7 of 10 used, and 3.5 more is beyond the limit"),
        ),
        (
            "10",
            True,
            "4",
            Decision(
                allowed=True,
                reason="7 of 10 used, and 4 more is beyond the limit, which is soft",
                over=True,
            ),
        ),
        (None, False, "1000000", Decision(allowed=True, reason="the plan grants calls")),
    ],
    ids=["within", "beyond", "soft", "unlimited"],
)
def test_a_limit_holds_up_to_and_including_it(
    limit: str | None, quantity: str, expected: Decision, *, soft: bool
) -> None:
    """What is asked for must fit in as a whole."""
    entitlement = Entitlement(
        feature_id="fea_1", usage_limit=None if limit is None else Decimal(limit), soft=soft
    )
    subscription = SubscriptionRow(plan_version=1, period_index=0)
    one = Granted(
        FeatureRow(lookup_key="calls", type="meter"), subscription, entitlement, Decimal(7)
    )
    assert decide(one, Decimal(quantity)) == expected._replace(granted=one)


def test_nothing_is_left_of_a_limit_that_is_overrun() -> None:
    """And not less than nothing."""
    entitlement = Entitlement(feature_id="fea_1", usage_limit=Decimal(5))
    subscription = SubscriptionRow(plan_version=1, period_index=0)
    one = Granted(FeatureRow(), subscription, entitlement, Decimal(7))
    assert one.remaining == 0
