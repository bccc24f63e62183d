"""How customers are recognised: pairs of field and value, each of them one customer's.

Who may change them, and what the audit log keeps of it, is `customers`'s.
"""

from typing import NamedTuple

from sqlmodel import col, select

from usageflow.catalog.listings import paged
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerIdentityRow


class Identity(NamedTuple):
    """One way a customer is recognised: what it is called where, such as (account_id, acct_42)."""

    field: str
    value: str


def listing(
    tx: Tx, organization_id: str, customer_id: str, *, offset: int, limit: int
) -> tuple[list[CustomerIdentityRow], int]:
    """How a customer is recognised, by field and value; in how many ways."""
    statement = select(CustomerIdentityRow).where(
        col(CustomerIdentityRow.organization_id) == organization_id,
        col(CustomerIdentityRow.customer_id) == customer_id,
    )
    order = (col(CustomerIdentityRow.field), col(CustomerIdentityRow.value))
    return paged(tx, statement.order_by(*order), offset=offset, limit=limit)


def owner(tx: Tx, organization_id: str, identity: Identity) -> str | None:
    """The id of the customer who is recognised by this; None if nobody is."""
    found = tx.session.get(CustomerIdentityRow, (organization_id, *identity))
    return None if found is None else found.customer_id


def give(tx: Tx, organization_id: str, identity: Identity, customer_id: str) -> str | None:
    """Make the customer recognised by this; the id of who was so far, if anybody was."""
    row = tx.session.get(CustomerIdentityRow, (organization_id, *identity))
    before = None if row is None else row.customer_id
    row = row or CustomerIdentityRow(organization_id=organization_id, **identity._asdict())
    row.customer_id = customer_id
    tx.session.add(row)
    tx.session.flush()
    return before


def drop(tx: Tx, organization_id: str, identity: Identity) -> None:
    """Recognise nobody by this."""
    tx.session.delete(tx.session.get_one(CustomerIdentityRow, (organization_id, *identity)))
    tx.session.flush()
