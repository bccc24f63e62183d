"""One change of an organization's catalog at a time, so that what was checked still holds.

On SQLite all writers take turns anyway.
"""

from sqlmodel import col, select

from usageflow.db.session import Tx
from usageflow.db.tables import OrganizationRow


def take_turn(tx: Tx, organization_id: str) -> None:
    """Wait for the other changes of this organization; the turn ends with the transaction.

    Rows that refer to the organization can be added meanwhile: ingest never waits for this, but
    where it makes a new customer.
    """
    tx.session.exec(
        select(OrganizationRow.id)
        .where(col(OrganizationRow.id) == organization_id)
        .with_for_update(key_share=True)
    ).one()
    tx.session.expire_all()  # what was read before the turn may have changed since
