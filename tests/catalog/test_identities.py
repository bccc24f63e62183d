"""Identities: each is one customer's, in one organization."""

from usageflow.catalog import customers, identities
from usageflow.catalog.audit import Actor
from usageflow.catalog.identities import Identity
from usageflow.catalog.organizations import create as create_organization
from usageflow.db.session import Tx

ACCT = Identity("account_id", "acct_42")


def test_organizations_share_no_identity(tx: Tx, organization_id: str) -> None:
    """The same pair may be a customer in each."""
    other = create_organization(tx, "other", actor="test")
    mine, theirs = (customers.default_customer(tx, one).id for one in (organization_id, other))
    assert identities.give(tx, organization_id, ACCT, mine) is None
    assert identities.owner(tx, other, ACCT) is None
    assert identities.give(tx, other, ACCT, theirs) is None
    assert identities.owner(tx, organization_id, ACCT) == mine
    identities.drop(tx, other, ACCT)
    assert identities.owner(tx, organization_id, ACCT) == mine


def test_who_gives_learns_whose_it_was(tx: Tx, organization_id: str) -> None:
    """And it is nobody else's any more."""
    ids = []
    for name in "AB":
        row = customers.create(tx, organization_id, name=name, actor=Actor("ann"))
        assert not isinstance(row, tuple)
        ids.append(row.id)  # type: ignore[union-attr]  # nothing is refused here
    assert identities.give(tx, organization_id, ACCT, ids[0]) is None
    assert identities.give(tx, organization_id, ACCT, ids[1]) == ids[0]
    assert identities.listing(tx, organization_id, ids[0], offset=0, limit=9) == ([], 0)
    rows, total = identities.listing(tx, organization_id, ids[1], offset=0, limit=9)
    assert (rows[0].customer_id, total) == (ids[1], 1)
