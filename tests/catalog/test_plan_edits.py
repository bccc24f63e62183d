"""Charges and entitlements of a plan, changed one by one."""

from decimal import Decimal

import pytest
from msgspec.structs import replace

from usageflow.catalog import features, metrics, plan_edits, plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Entitlement, Terms
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow
from usageflow.db.session import Tx

ANN = Actor("ann@example.com")
CALLS = Charge(
    id="chg_1",
    kind="usage",
    display_name="API calls",
    metric="api_call",
    model="included",
    unit_price=Decimal("0.01"),
    included=Decimal(10_000),
)


@pytest.fixture
def plan(tx: Tx, organization_id: str) -> PlanRow:
    """A plan `pro` without charges, a metric API_CALL and two features."""
    metrics.create(tx, organization_id, ["API_CALL"])
    features.create(tx, organization_id, lookup_key="sso", name="SSO", type="switch", actor=ANN)
    features.create(tx, organization_id, lookup_key="seats", name="Seats", type="meter", actor=ANN)
    made = plans.create(
        tx,
        organization_id,
        name="Pro",
        lookup_id="pro",
        terms=Terms(type="HYBRID", currency="USD", interval="month"),
        actor=ANN,
    )
    assert isinstance(made, PlanRow)
    return made


def terms(tx: Tx, plan: PlanRow) -> Terms:
    """The newest terms."""
    found = plans.terms(tx, plan.organization_id, plan.id, plan.version)
    assert found is not None
    return found


def test_terms_change_as_given(tx: Tx, plan: PlanRow) -> None:
    """The rest stays, and the version before too."""
    plan_edits.change_terms(
        tx, plan.organization_id, "pro", base_price=Decimal(49), trial_days=14, actor=ANN
    )
    newest = terms(tx, plan)
    assert (newest.base_price, newest.trial_days, newest.currency) == (Decimal(49), 14, "USD")
    before = plans.terms(tx, plan.organization_id, plan.id, 1)
    assert before == replace(newest, base_price=Decimal(0), trial_days=0)


def test_a_charge_is_added_and_changed(tx: Tx, plan: PlanRow) -> None:
    """It keeps its id, and so does its line; each change is a version."""
    assert plan_edits.add_charge(tx, plan.organization_id, "pro", CALLS, actor=ANN) is plan
    assert terms(tx, plan).charges == (replace(CALLS, metric="API_CALL"),)
    fixed = Charge(
        id="chg_2", kind="fixed", display_name="Support", model="fixed", unit_price=Decimal(5)
    )
    plan_edits.add_charge(tx, plan.organization_id, "pro", fixed, actor=ANN)
    plan_edits.change_charge(
        tx, plan.organization_id, "pro", "chg_1", unit_price=Decimal("0.02"), actor=ANN
    )
    calls, support = terms(tx, plan).charges
    assert (calls.id, calls.unit_price, calls.included) == (
        "chg_1",
        Decimal("0.02"),
        Decimal(10_000),
    )
    assert support == fixed
    assert plan.version == 4


def test_a_charge_ends_for_good(tx: Tx, plan: PlanRow) -> None:
    """Its metric is free for another charge then."""
    plan_edits.add_charge(tx, plan.organization_id, "pro", CALLS, actor=ANN)
    again = replace(CALLS, id="chg_2")
    refused = plan_edits.add_charge(tx, plan.organization_id, "pro", again, actor=ANN)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("invalid", "charges")
    for active in (False, False):
        ended = plan_edits.change_charge(
            tx, plan.organization_id, "pro", "chg_1", active=active, actor=ANN
        )
        assert ended is plan
    assert plan.version == 3
    revived = plan_edits.change_charge(
        tx, plan.organization_id, "pro", "chg_1", active=True, actor=ANN
    )
    inactive = "an inactive charge stays so; add another one"
    assert revived == Refused("conflict", inactive, "status")
    assert plan_edits.add_charge(tx, plan.organization_id, "pro", again, actor=ANN) is plan


def test_what_is_wrong_with_one_charge_is_told_without_its_place(tx: Tx, plan: PlanRow) -> None:
    """Whoever sends one charge does not know which of many it becomes."""
    plan_edits.add_charge(tx, plan.organization_id, "pro", CALLS, actor=ANN)
    wrong = replace(CALLS, id="chg_2", metric="OTHER")
    added = plan_edits.add_charge(tx, plan.organization_id, "pro", wrong, actor=ANN)
    assert isinstance(added, Refused)
    assert (added.field, added.message) == ("metric", "there is no metric OTHER; make it first")
    changed = plan_edits.change_charge(
        tx, plan.organization_id, "pro", "chg_1", unit_price=None, actor=ANN
    )
    assert isinstance(changed, Refused)
    assert changed.field == "unit_price"
    missing = plan_edits.change_charge(
        tx, plan.organization_id, "pro", "chg_9", active=False, actor=ANN
    )
    assert missing == Refused("not_found", "the plan has no charge chg_9")
    assert plan.version == 2


def test_a_plan_entitles_to_features(tx: Tx, plan: PlanRow) -> None:
    """Each once: what is granted anew takes the place of what was."""
    granted = Entitlement(feature_id="seats", usage_limit=Decimal(5))
    plan_edits.entitle(tx, plan.organization_id, "pro", granted, actor=ANN)
    plan_edits.entitle(tx, plan.organization_id, "pro", Entitlement(feature_id="sso"), actor=ANN)
    more = replace(granted, usage_limit=Decimal(10))
    assert plan_edits.entitle(tx, plan.organization_id, "pro", more, actor=ANN) is plan
    ids = {
        key: feature.id
        for key in ("sso", "seats")
        if (feature := features.find(tx, plan.organization_id, key))
    }
    assert [(one.feature_id, one.usage_limit) for one in terms(tx, plan).entitlements] == [
        (ids["sso"], None),
        (ids["seats"], 10),
    ]
    for name in (ids["sso"], "seats"):
        assert plan_edits.withdraw(tx, plan.organization_id, "pro", name, actor=ANN) is plan
    assert terms(tx, plan).entitlements == ()


def test_what_cannot_be_granted_or_withdrawn_is_refused(tx: Tx, plan: PlanRow) -> None:
    """Unknown features, limits of what has no usage, and what was never granted."""
    organization_id = plan.organization_id
    unknown = plan_edits.entitle(tx, organization_id, "pro", Entitlement(feature_id="x"), actor=ANN)
    assert unknown == features.unknown("x", "feature_id")
    limited = Entitlement(feature_id="sso", usage_limit=Decimal(1))
    wrong = plan_edits.entitle(tx, organization_id, "pro", limited, actor=ANN)
    assert isinstance(wrong, Refused)
    assert wrong.field == "usage_limit"
    for feature in ("sso", "x"):
        missing = plan_edits.withdraw(tx, organization_id, "pro", feature, actor=ANN)
        assert isinstance(missing, Refused)
        assert missing.code == "not_found"
    assert plan.version == 1
