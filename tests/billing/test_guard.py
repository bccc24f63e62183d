"""The guard against being paid twice: what is refused, in both directions, and what is not."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from usageflow.billing import guard
from usageflow.catalog import policies
from usageflow.catalog.charges import Charge, Terms
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.policies.models import Policy

if TYPE_CHECKING:
    from tests.billing.conftest import Shop


def policy(**changes: Any) -> Policy:
    """A policy that forwards API_CALL to Stripe."""
    values: dict[str, Any] = {
        "name": "calls",
        "match": "GET /",
        "identify": [{"from": "header", "name": "x-account"}],
        "field": "account_id",
        "metric": "API_CALL",
        "event_name": "api_request",
    }
    return Policy.model_validate(values | changes)


def terms(*charges: Charge, collect: Any = "local") -> Terms:
    """Terms with these charges."""
    return Terms(type="USAGE", currency="USD", interval="month", collect=collect, charges=charges)


def publish(shop: "Shop", *published: Policy) -> None:
    """Make these the policies in use."""
    with shop.tx() as tx:
        policies.publish(tx, shop.organization_id, published)


def problem(shop: "Shop", wanted: Terms, besides: str | None = None) -> str | None:
    """Why the customer acme cannot have these terms."""
    with shop.database.reading() as tx:
        found = guard.problem(tx, shop.organization_id, "customer-acme", wanted, besides=besides)
    return None if found is None else found.message


def policy_problem(shop: "Shop", *published: Policy) -> str | None:
    """Why these policies cannot be in use."""
    with shop.database.reading() as tx:
        found = guard.policy_problem(tx, shop.organization_id, published)
    return None if found is None else found.message


def test_what_a_live_policy_forwards_is_not_invoiced_locally(
    shop: "Shop", per_unit: Callable[..., Charge]
) -> None:
    """The reason names policy, metric and event name, and what to do."""
    publish(shop, policy())
    assert problem(shop, terms(per_unit("API_CALL"))) == (
        "the policy calls forwards API_CALL to Stripe as api_request, and this plan would charge "
        "it on our own invoices too; remove the policy's event_name, or let the plan collect by "
        "stripe_meters"
    )
    assert problem(shop, terms(per_unit("API_CALL"), collect="stripe_meters")) is None
    assert problem(shop, terms(per_unit("TOKENS"))) is None


@pytest.mark.parametrize(
    "changes",
    [{"event_name": None}, {"mode": "shadow"}, {"mode": "off"}],
    ids=["not forwarded", "shadow", "off"],
)
def test_what_stripe_does_not_price_may_be_charged(
    shop: "Shop", per_unit: Callable[..., Charge], changes: dict[str, Any]
) -> None:
    """A policy without event name, and one that is not live."""
    publish(shop, policy(**changes))
    assert problem(shop, terms(per_unit("API_CALL"))) is None


def test_a_charge_that_is_not_active_charges_nothing(
    shop: "Shop", per_unit: Callable[..., Charge]
) -> None:
    """So it is in nobody's way."""
    publish(shop, policy())
    assert problem(shop, terms(per_unit("API_CALL", active=False))) is None


@pytest.mark.parametrize(("has", "wants"), [("local", "stripe_meters"), ("stripe_meters", "local")])
def test_a_customer_is_not_charged_for_a_metric_in_two_ways(
    shop: "Shop", per_unit: Callable[..., Charge], has: str, wants: str
) -> None:
    """Whichever came first, and whether it is the same way twice or another."""
    shop.plan("first", per_unit("API_CALL"), collect=has)
    shop.customer()
    shop.customer("zenith")
    mine = shop.subscribe("first")
    shop.subscribe("first", "zenith")
    wanted = terms(per_unit("API_CALL"), collect=wants)
    assert "the customer subscribes to First, which charges API_CALL" in str(problem(shop, wanted))
    assert "which charges API_CALL" in str(problem(shop, terms(per_unit("API_CALL"), collect=has)))
    assert problem(shop, terms(per_unit("OTHER"), collect=has)) is None
    assert problem(shop, wanted, besides=mine.id) is None
    with shop.tx() as tx:
        tx.session.get_one(SubscriptionRow, mine.id).state = "CANCELLED"
    assert problem(shop, wanted) is None


def test_a_plan_to_come_counts(shop: "Shop", per_unit: Callable[..., Charge]) -> None:
    """A subscription that is to change to a plan is treated as if it had."""
    shop.plan()
    later = shop.plan("later", per_unit("API_CALL"))
    shop.customer()
    mine = shop.subscribe()
    assert policy_problem(shop, policy()) is None
    with shop.tx() as tx:
        row = tx.session.get_one(SubscriptionRow, mine.id)
        row.next_plan_id, row.next_plan_version = later.id, later.version
    assert problem(shop, terms(per_unit("API_CALL"), collect="stripe_meters"))
    assert "the plan Later charges it" in str(policy_problem(shop, policy()))


def test_a_policy_does_not_forward_what_subscribers_pay_us_for(
    shop: "Shop", per_unit: Callable[..., Charge]
) -> None:
    """Publishing it is refused while a local subscription charges its metric."""
    shop.plan("ours", per_unit("API_CALL"))
    shop.customer()
    mine = shop.subscribe("ours")
    assert policy_problem(shop, policy()) == (
        "the policy calls would forward API_CALL to Stripe as api_request, and the plan Ours "
        "charges it on our own invoices; leave out the event_name, or move its subscribers to a "
        "plan that collects by stripe_meters"
    )
    assert policy_problem(shop, policy(event_name=None), policy(name="b", metric="TOKENS")) is None
    assert policy_problem(shop, policy(mode="shadow")) is None
    with shop.tx() as tx:
        tx.session.get_one(SubscriptionRow, mine.id).state = "CANCELLED"
    assert policy_problem(shop, policy()) is None


def test_what_stripe_prices_may_be_forwarded(shop: "Shop", per_unit: Callable[..., Charge]) -> None:
    """That is what its plan is for."""
    shop.plan("stripes", per_unit("API_CALL"), collect="stripe_meters")
    shop.customer()
    shop.subscribe("stripes")
    assert policy_problem(shop, policy()) is None
