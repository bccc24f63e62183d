"""Links to the portal: for one customer, for some time, until they are revoked."""

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlmodel import select

from usageflow.billing import portal
from usageflow.billing.portal import LIFE_S, LIFE_S_MAX, Link, Visitor
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PortalLinkRow
from usageflow.db.tables import AuditRow

if TYPE_CHECKING:
    from tests.billing.conftest import Shop

ACTOR = Actor("ann@example.com")


def link(shop: "Shop", customer: str = "acme", *, life_s: int = LIFE_S) -> Link:
    """A new one."""
    with shop.tx() as tx:
        made = portal.make(tx, shop.organization_id, customer, life_s=life_s, actor=ACTOR)
    assert isinstance(made, Link)
    return made


def visitor(shop: "Shop", token: str) -> Visitor | None:
    """Who comes by a token now."""
    with shop.database.reading() as tx:
        return portal.visitor(tx, token)


def test_a_link_is_for_one_customer_and_an_hour(shop: "Shop") -> None:
    """By whichever of its ids the customer was named; then it is over."""
    customer = shop.customer()
    made = link(shop, customer.id)
    assert made.expires_at == shop.now + timedelta(hours=1)
    expected = Visitor(shop.organization_id, customer.id, made.expires_at)
    assert visitor(shop, made.token) == expected
    assert visitor(shop, made.token + "x") is None
    shop.wait(seconds=3_599)
    assert visitor(shop, made.token) == expected
    shop.wait(seconds=1)
    assert visitor(shop, made.token) is None


def test_only_a_hash_of_a_token_is_kept(shop: "Shop") -> None:
    """Who reads the database, or the audit log, comes in by none."""
    shop.customer()
    token = link(shop).token
    assert len(token) >= 43  # 32 bytes in base64
    with shop.database.reading() as tx:
        (row,) = tx.session.exec(select(PortalLinkRow)).all()
        assert row.token_hash == hashlib.sha256(token.encode()).hexdigest()
        (entry,) = tx.session.exec(select(AuditRow)).all()
        assert token not in f"{row!r}{entry!r}"
        assert (entry.action, entry.subject) == ("portal.link.create", row.customer_id)


def test_revoking_ends_every_link_of_a_customer(shop: "Shop") -> None:
    """And of no other; a new one can be made."""
    shop.customer()
    shop.customer("other")
    ours, theirs = [link(shop), link(shop)], link(shop, "other")
    with shop.tx() as tx:
        assert portal.revoke(tx, shop.organization_id, "acme", actor=ACTOR) is None
    assert [visitor(shop, one.token) for one in ours] == [None, None]
    assert visitor(shop, theirs.token) is not None
    assert visitor(shop, link(shop).token) is not None


def test_links_that_are_over_are_forgotten(shop: "Shop") -> None:
    """Whoever makes a link each minute keeps no more than an hour of them."""
    shop.customer()
    link(shop)
    shop.wait(hours=2)
    link(shop)
    with shop.database.reading() as tx:
        assert len(tx.session.exec(select(PortalLinkRow)).all()) == 1


@pytest.mark.parametrize("life_s", [0, -1, LIFE_S_MAX + 1])
def test_a_life_is_bounded(shop: "Shop", life_s: int) -> None:
    """At a month."""
    shop.customer()
    with shop.tx() as tx:
        made = portal.make(tx, shop.organization_id, "acme", life_s=life_s, actor=ACTOR)
    assert isinstance(made, Refused)
    assert made.field == "expires_in_s"


def test_a_customer_of_another_organization_is_not_there(shop: "Shop") -> None:
    """Neither to be let in, nor to be kept out."""
    customer = shop.customer()
    with shop.tx() as tx:
        for refused in (
            portal.make(tx, "another", customer.id, actor=ACTOR),
            portal.revoke(tx, "another", customer.id, actor=ACTOR),
        ):
            assert isinstance(refused, Refused)
            assert refused.code == "not_found"
