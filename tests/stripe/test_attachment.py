"""A person says whose usage is."""

import json
from typing import TYPE_CHECKING

import pytest
from sqlmodel import select

from usageflow.db.tables import AuditRow
from usageflow.errors import ConfigurationError
from usageflow.stripe.attachment import attach

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

IDENTITY = ("account_id", "acct_1")


def test_parked_usage_goes_to_whom_a_person_says(way: "Way") -> None:
    """At once, and above what Stripe's metadata say; the audit log knows who it was before."""
    one, other, chosen = way.emulator.seed([{"account_id": "acct_1"}] * 2 + [{}], ["tokens"])
    way.use(5)
    forwarder = way.forwarder()
    way.forward(forwarder)
    assert way.states() == [("parked", "5")]
    released = attach(way.database, way.account_id, way.gateway, IDENTITY, chosen, actor="ada")
    assert released == 1
    way.forward(forwarder)
    assert way.emulator.applied("none") == {(chosen, "tokens"): 5}
    with way.database.reading() as tx:
        row = tx.session.exec(select(AuditRow)).one()
        assert (row.actor, row.action, row.subject) == ("ada", "inbox.attach", "account_id acct_1")
        assert json.loads(row.before or "") == {"stripe_customers": sorted([one, other])}
        assert json.loads(row.after or "") == {"stripe_customers": [chosen]}


def test_nobody_is_attached_that_stripe_does_not_know(way: "Way") -> None:
    """A slip of the pen would send usage nowhere."""
    with pytest.raises(ConfigurationError, match="there is no customer cus_x in this account"):
        attach(way.database, way.account_id, way.gateway, IDENTITY, "cus_x", actor="ada")
    with way.database.reading() as tx:
        assert tx.session.exec(select(AuditRow)).all() == []
