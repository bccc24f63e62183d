"""Policies come into use: guarded, and noted."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.billing.publishing import publish, use
from usageflow.catalog.charges import Charge
from usageflow.catalog.policies import Published, current
from usageflow.catalog.refusals import Refused
from usageflow.db.tables import AuditRow
from usageflow.errors import ConfigurationError
from usageflow.policies.models import Policy

if TYPE_CHECKING:
    from tests.billing.conftest import Shop


def policy(**changes: Any) -> Policy:
    """A policy that forwards nothing."""
    values: dict[str, Any] = {
        "name": "calls",
        "match": "GET /",
        "identify": [{"from": "header", "name": "x-account"}],
        "field": "account_id",
        "metric": "API_CALL",
    }
    return Policy.model_validate(values | changes)


def test_a_change_is_noted_once(shop: "Shop") -> None:
    """Who made these the policies in use stands in the audit log; no change, no entry."""
    for _ in range(2):
        with shop.tx() as tx:
            publish(tx, shop.organization_id, [policy()], actor="ada@example.com")
    with shop.database.reading() as tx:
        noted = tx.session.exec(
            select(AuditRow).where(col(AuditRow.action) == "policies.publish")
        ).all()
        assert [(row.actor, row.after) for row in noted] == [
            ("ada@example.com", '{"added":["calls"],"changed":[],"removed":[]}')
        ]


def test_what_is_invoiced_here_is_not_forwarded(
    shop: "Shop", per_unit: Callable[..., Charge]
) -> None:
    """Nothing is published if one of the policies would let customers pay twice."""
    shop.plan("ours", per_unit("API_CALL"))
    shop.customer()
    shop.subscribe("ours")
    other = policy(name="other", metric="TOKENS")
    with pytest.raises(ConfigurationError, match="would forward API_CALL"), shop.tx() as tx:
        publish(tx, shop.organization_id, [other, policy(event_name="call")], actor="ada")
    with shop.database.reading() as tx:
        assert current(tx, shop.organization_id).items == []


def documents(shop: "Shop") -> list[str]:
    """What is in use, each with its version at the end."""
    with shop.database.reading() as tx:
        items = current(tx, shop.organization_id).items
    return [f"{document} {version}" for document, version in items]


def test_an_older_version_is_the_newest_again(shop: "Shop") -> None:
    """The others stay; to use it a second time changes nothing."""
    for quantity in (1, 2):
        with shop.tx() as tx:
            set_of = [policy(quantity=quantity), policy(name="b", match="GET /b")]
            publish(tx, shop.organization_id, set_of, actor="ada")
    before = documents(shop)
    for changed in (("calls",), ()):
        with shop.tx() as tx:
            done = use(tx, shop.organization_id, "calls", 1, actor="ada")
        assert isinstance(done, Published)
        assert (done.changed, done.unchanged) == (changed, ("b",) if changed else ("b", "calls"))
    after = documents(shop)
    assert after[0] == before[0]
    assert (before[1][-1], after[1][-1]) == ("2", "3")


def test_a_version_that_does_not_fit_any_more_is_refused(shop: "Shop") -> None:
    """Another policy counts the same requests by now; and there is no version of another name."""
    with shop.tx() as tx:
        publish(tx, shop.organization_id, [policy()], actor="ada")
        publish(tx, shop.organization_id, [policy(name="heir")], actor="ada")
    before = documents(shop)
    with shop.tx() as tx:
        refused = use(tx, shop.organization_id, "calls", 1, actor="ada")
        assert isinstance(refused, Refused)
        assert (refused.code, "both count API_CALL" in refused.message) == ("conflict", True)
        nobody = use(tx, shop.organization_id, "nobody", 1, actor="ada")
        assert isinstance(nobody, Refused)
        assert nobody.code == "not_found"
    assert documents(shop) == before
