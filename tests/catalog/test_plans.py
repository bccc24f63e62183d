"""Plans: versions are only ever added, and never change."""

from dataclasses import replace as replaced
from decimal import Decimal

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from usageflow.catalog import audit, features, metrics, plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Entitlement, Terms
from usageflow.catalog.organizations import create as create_organization
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow
from usageflow.db.session import Database, Tx

ANN = Actor("ann@example.com")
PRO = Terms(type="HYBRID", currency="USD", interval="month", base_price=Decimal(100))


def charge(metric: str = "API_CALL", unit_price: str = "0.01") -> Charge:
    """A price per unit of a metric."""
    return Charge(
        id=f"chg_{metric}",
        kind="usage",
        display_name="API calls",
        metric=metric,
        model="per_unit",
        unit_price=Decimal(unit_price),
    )


def made(
    tx: Tx, organization_id: str, lookup_id: str = "pro", terms: Terms = PRO
) -> PlanRow | Refused:
    """A plan, or why not."""
    return plans.create(
        tx, organization_id, name=lookup_id.title(), lookup_id=lookup_id, terms=terms, actor=ANN
    )


def plan(tx: Tx, organization_id: str, lookup_id: str = "pro", terms: Terms = PRO) -> PlanRow:
    """A plan."""
    row = made(tx, organization_id, lookup_id, terms)
    assert isinstance(row, PlanRow), row
    return row


def priced(
    tx: Tx, organization_id: str, base_price: int, *, if_version: int | None = None
) -> PlanRow | Refused:
    """The plan `pro` at another base price."""
    return plans.amend(
        tx,
        organization_id,
        "pro",
        lambda terms: replace(terms, base_price=Decimal(base_price)),
        action="plan.change_terms",
        actor=ANN,
        if_version=if_version,
    )


def test_a_plan_begins_with_its_first_version(tx: Tx, organization_id: str) -> None:
    """Found by id and lookup id in its organization; metrics and features by what they are named
    by, kept by key and id.
    """
    metrics.create(tx, organization_id, ["API_CALL"])
    feature = features.create(
        tx, organization_id, lookup_key="sso", name="SSO", type="switch", actor=ANN
    )
    assert not isinstance(feature, Refused)
    wanted = replace(
        PRO, charges=(charge("api_call"),), entitlements=(Entitlement(feature_id="sso"),)
    )
    row = plan(tx, organization_id, terms=wanted)
    assert (row.version, row.is_active, row.name) == (1, True, "Pro")
    kept = plans.terms(tx, organization_id, row.id, 1)
    assert kept == replace(
        wanted,
        charges=(replace(wanted.charges[0], metric="API_CALL"),),
        entitlements=(Entitlement(feature_id=feature.id),),
    )
    assert plans.find(tx, organization_id, row.id) is row
    assert plans.find(tx, organization_id, "pro") is row
    other = create_organization(tx, "other", actor="test")
    assert plans.find(tx, other, row.id) is None
    assert plans.terms(tx, other, row.id, 1) is None


def test_wrong_terms_are_refused_with_their_place(tx: Tx, organization_id: str) -> None:
    """The first thing wrong is told; no plan is made."""
    metrics.create(tx, organization_id, ["API_CALL"])
    for terms, field in (
        (replace(PRO, currency="XXX"), "currency"),
        (replace(PRO, charges=(charge("NONE"),)), "charges[0].metric"),
        (replace(PRO, charges=(charge(), charge(unit_price="-1"))), "charges"),
        (replace(PRO, charges=(charge(unit_price="-1"),)), "charges[0].unit_price"),
        (replace(PRO, entitlements=(Entitlement(feature_id="x"),)), "entitlements[0].feature_id"),
    ):
        refused = made(tx, organization_id, terms=terms)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.field) == ("invalid", field)
    assert plans.listing(tx, organization_id, offset=0, limit=9) == ([], 0)


def test_a_change_of_terms_makes_the_next_version(tx: Tx, organization_id: str) -> None:
    """The version before stays as it was; a change that changes nothing makes none."""
    row = plan(tx, organization_id)
    assert priced(tx, organization_id, 120) is row
    assert priced(tx, organization_id, 120) is row
    assert row.version == 2
    pairs = [(row.id, 1), (row.id, 2), (row.id, 3)]
    found = plans.terms_of_many(tx, pairs)
    assert {pair: terms.base_price for pair, terms in found.items()} == {
        (row.id, 1): 100,
        (row.id, 2): 120,
    }
    versions, total = plans.versions(tx, organization_id, row.id, offset=0, limit=1)
    assert ([version.version for version in versions], total) == ([2], 2)
    (entry,), total = audit.listing(
        tx, organization_id, action="plan.change_terms", offset=0, limit=9
    )
    assert total == 1
    assert (entry.before or "").startswith('{"version":1,"terms":{"alignment":"anniversary"')
    assert '"base_price":"120"' in (entry.after or "")


def test_the_database_keeps_versions_as_they_are(database: Database) -> None:
    """Not even a statement of one's own changes a price that somebody may have subscribed to."""
    with database.transaction() as tx:
        plan(tx, default_organization(tx))
    with pytest.raises(DBAPIError, match="never change"), database.transaction() as tx:
        tx.session.execute(text("UPDATE plan_version SET document = '{}'"))


def test_who_edits_an_old_version_is_told(tx: Tx, organization_id: str) -> None:
    """With `if_version` nothing is changed unless it is the newest."""
    plan(tx, organization_id)
    assert isinstance(priced(tx, organization_id, 110, if_version=1), PlanRow)
    refused = priced(tx, organization_id, 120, if_version=1)
    stale = "the plan is at version 2, not 1; read it again"
    assert refused == Refused("conflict", stale, "if_version")


def test_an_edit_may_be_refused(tx: Tx, organization_id: str) -> None:
    """By the edit itself, by what is wrong with its outcome, or for want of the plan."""
    row = plan(tx, organization_id)
    no = Refused("conflict", "no")

    def amended(edit: object, name: str = "pro") -> object:
        return plans.amend(tx, organization_id, name, lambda _: edit, action="x", actor=ANN)  # type: ignore[arg-type, return-value]

    assert amended(no) == no
    assert amended(PRO, "basic") == Refused("not_found", "there is no plan basic")
    wrong = amended(replace(PRO, trial_days=-1))
    assert isinstance(wrong, Refused)
    assert replaced(wrong, message="") == Refused("invalid", "", "trial_days")
    assert row.version == 1


def test_what_a_plan_refers_to_is_asked_for_once(tx: Tx, organization_id: str) -> None:
    """A feature that is archived since does not stand in the way of another price."""
    features.create(tx, organization_id, lookup_key="sso", name="SSO", type="switch", actor=ANN)
    plan(tx, organization_id, terms=replace(PRO, entitlements=(Entitlement(feature_id="sso"),)))
    features.archive(tx, organization_id, "sso", actor=ANN)
    assert isinstance(priced(tx, organization_id, 120), PlanRow)


def test_names_change_without_a_version(tx: Tx, organization_id: str) -> None:
    """So does whether it can be subscribed to; a lookup id is one plan's."""
    row = plan(tx, organization_id)
    plan(tx, organization_id, "basic")
    for _ in range(2):
        renamed = plans.rename(
            tx, organization_id, "pro", name="Professional", is_active=False, actor=ANN
        )
        assert renamed is row
    assert (row.name, row.is_active, row.lookup_id, row.version) == (
        "Professional",
        False,
        "pro",
        1,
    )
    assert audit.listing(tx, organization_id, action="plan.change", offset=0, limit=9)[1] == 1
    same = plans.rename(tx, organization_id, "pro", lookup_id="pro", actor=ANN)
    assert same is row
    for refused in (
        plans.rename(tx, organization_id, "pro", lookup_id="basic", actor=ANN),
        made(tx, organization_id, "basic"),
    ):
        taken = "the plan Basic has this lookup id"
        assert refused == Refused("conflict", taken, "lookup_id")
    missing = plans.rename(tx, organization_id, "x", name="X", actor=ANN)
    assert missing == plans.unknown("x")


def test_plans_are_listed_newest_first(tx: Tx, organization_id: str) -> None:
    """All, those that can be subscribed to or not, or those with a part in their name."""
    for lookup_id in ("a", "b", "c"):
        plan(tx, organization_id, lookup_id)
    plans.rename(tx, organization_id, "b", is_active=False, actor=ANN)

    def listed(*, is_active: bool | None = None, search: str | None = None) -> list[str]:
        found, total = plans.listing(
            tx, organization_id, is_active=is_active, search=search, offset=0, limit=9
        )
        assert len(found) == total
        return [row.lookup_id for row in found]

    assert listed() == ["c", "b", "a"]
    assert listed(is_active=True) == ["c", "a"]
    assert listed(is_active=False) == listed(search="B") == ["b"]


def test_only_a_plan_nobody_took_is_deleted(tx: Tx, organization_id: str) -> None:
    """With its versions; the audit log keeps what it was."""
    row = plan(tx, organization_id)
    priced(tx, organization_id, 120)
    assert plans.delete(tx, organization_id, "pro", actor=ANN) is None
    assert plans.find(tx, organization_id, row.id) is None
    assert plans.terms_of_many(tx, [(row.id, 1)]) == {}
    assert plans.delete(tx, organization_id, "pro", actor=ANN) == plans.unknown("pro")
    (entry,), _ = audit.listing(tx, organization_id, action="plan.delete", offset=0, limit=9)
    assert '"base_price":"120"' in (entry.before or "")


def test_unknown_plans_are_told_by_field_or_as_missing() -> None:
    """A plan in the path is not found; one in a body is a mistake of the body."""
    assert plans.unknown("x").code == "not_found"
    assert plans.unknown("x", "plan_id").code == "invalid"
