"""Policies come into use: guarded, and noted."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sqlmodel import col, select

from usageflow.billing.publishing import publish
from usageflow.catalog.charges import Charge
from usageflow.catalog.policies import current
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
