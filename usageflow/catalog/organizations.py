"""Organizations: whose usage it is. There is one, `default`, until there are more."""

import uuid
from typing import Final

from sqlmodel import col, select

from usageflow.db.session import Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import OrganizationRow

DEFAULT: Final = "default"
"""The name of the organization a fresh installation has."""


def default_organization(tx: Tx) -> str:
    """The id of the organization `default`, made if there is none."""
    found = organization(tx, DEFAULT)
    if found is not None:
        return found
    row = {"id": str(uuid.uuid4()), "name": DEFAULT, "created_at": tx.now}
    insert_new(tx, OrganizationRow, [row], key=["name"], give="id")
    return tx.session.exec(
        select(OrganizationRow.id).where(col(OrganizationRow.name) == DEFAULT)
    ).one()


def organization(tx: Tx, name: str) -> str | None:
    """The id of the organization of this name, None if there is none."""
    return tx.session.exec(
        select(OrganizationRow.id).where(col(OrganizationRow.name) == name)
    ).one_or_none()
