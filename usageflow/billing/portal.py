"""Links by which a customer sees its own usage and invoices, without an account.

A link's token is all the right it takes, so it is random, kept as a hash, of limited life, bound to
one customer, and can be revoked. What is shown is `portal_page`'s.
"""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlmodel import col, delete, select, update

from usageflow.catalog import audit, customers
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PortalLinkRow
from usageflow.db.session import Tx

TOKEN_BYTES: Final = 32
"""256 random bits: nobody guesses one."""
LIFE_S: Final = 3_600
"""Long enough to look at an invoice."""
LIFE_S_MAX: Final = 30 * 86_400
"""A link in a mail is good for a month; who has an old one asks for another."""


class Link(NamedTuple):
    """A link, whose token is told this once."""

    token: str
    expires_at: datetime


class Visitor(NamedTuple):
    """Who came by a link, and until when it is good."""

    organization_id: str
    customer_id: str
    expires_at: datetime


def make(
    tx: Tx, organization_id: str, customer: str, *, life_s: int = LIFE_S, actor: Actor
) -> Link | Refused:
    """A link for a customer, by id or external id; those of it that are over are forgotten."""
    if not 0 < life_s <= LIFE_S_MAX:
        return Refused("invalid", f"from 1 to {LIFE_S_MAX} seconds are possible", "expires_in_s")
    row = customers.find(tx, organization_id, customer)
    if row is None:
        return _unknown(customer)
    link = Link(secrets.token_urlsafe(TOKEN_BYTES), tx.now + timedelta(seconds=life_s))
    links = col(PortalLinkRow.customer_id) == row.id, col(PortalLinkRow.expires_at) <= tx.now
    tx.session.exec(delete(PortalLinkRow).where(*links))
    tx.session.add(
        PortalLinkRow(
            token_hash=_hashed(link.token),
            organization_id=organization_id,
            customer_id=row.id,
            created_at=tx.now,
            expires_at=link.expires_at,
        )
    )
    audit.record(
        tx,
        organization_id,
        actor=actor,
        action="portal.link.create",
        subject=row.id,
        after={"expires_at": link.expires_at},
    )
    return link


def revoke(tx: Tx, organization_id: str, customer: str, *, actor: Actor) -> Refused | None:
    """Every link of the customer ends now."""
    row = customers.find(tx, organization_id, customer)
    if row is None:
        return _unknown(customer)
    tx.session.exec(
        update(PortalLinkRow)
        .where(col(PortalLinkRow.customer_id) == row.id, col(PortalLinkRow.revoked_at).is_(None))
        .values(revoked_at=tx.now)
    )
    audit.record(tx, organization_id, actor=actor, action="portal.link.revoke", subject=row.id)
    return None


def visitor(tx: Tx, token: str) -> Visitor | None:
    """Who comes by the link of this token; None if it is none, over or revoked."""
    row = tx.session.exec(
        select(PortalLinkRow).where(
            PortalLinkRow.token_hash == _hashed(token),
            col(PortalLinkRow.revoked_at).is_(None),
            col(PortalLinkRow.expires_at) > tx.now,
        )
    ).one_or_none()
    return None if row is None else Visitor(row.organization_id, row.customer_id, row.expires_at)


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _unknown(customer: str) -> Refused:
    return Refused("not_found", f"there is no customer {customer[:50]!r}", "customer_id")
