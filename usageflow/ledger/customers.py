"""Customers as usage reveals them: an identity seen for the first time becomes a customer."""

import uuid
from collections.abc import Collection
from typing import TypeAlias

from sqlalchemy import insert, select, tuple_
from sqlmodel import col

from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerIdentityRow, CustomerRow, OrganizationRow

Identified: TypeAlias = tuple[str, str]
"""(field, value)."""


def resolve(
    tx: Tx, organization_id: str, identities: Collection[Identified]
) -> dict[Identified, str]:
    """The customer id of each identity; unknown ones become customers.

    A new customer's `external_id` is the value, or `field:value` where that is taken. Transactions
    that make customers of one organization take turns, so an identity never gets two.
    """
    found = _known(tx, organization_id, identities)
    if len(found) < len(set(identities)):
        tx.session.execute(
            select(col(OrganizationRow.id))
            .where(col(OrganizationRow.id) == organization_id)
            .with_for_update(key_share=True)
        )
        found |= _known(tx, organization_id, set(identities) - found.keys())
        found |= _create(tx, organization_id, sorted(set(identities) - found.keys()))
    return found


def _known(
    tx: Tx, organization_id: str, identities: Collection[Identified]
) -> dict[Identified, str]:
    rows = table(CustomerIdentityRow).c
    result = tx.session.execute(
        select(rows.field, rows.value, rows.customer_id).where(
            rows.organization_id == organization_id,
            tuple_(rows.field, rows.value).in_(list(identities)),
        )
    )
    return {(field, value): customer_id for field, value, customer_id in result}


def _create(
    tx: Tx, organization_id: str, identities: Collection[Identified]
) -> dict[Identified, str]:
    """Make a customer of each. Only with the organization's turn, and only for unknown ones."""
    if not identities:
        return {}
    made = {identity: str(uuid.uuid4()) for identity in identities}
    names = _names(tx, organization_id, made)
    tx.session.execute(
        insert(table(CustomerRow)),
        [
            {
                "id": customer_id,
                "organization_id": organization_id,
                "external_id": names[identity],
                "created_at": tx.now,
            }
            for identity, customer_id in made.items()
        ],
    )
    tx.session.execute(
        insert(table(CustomerIdentityRow)),
        [
            {
                "organization_id": organization_id,
                "field": field,
                "value": value,
                "customer_id": customer_id,
            }
            for (field, value), customer_id in made.items()
        ],
    )
    return made


def _names(tx: Tx, organization_id: str, made: dict[Identified, str]) -> dict[Identified, str]:
    """An `external_id` for each new customer that no other has; in the last resort, its id."""
    choices = {
        (field, value): (value, f"{field}:{value}", customer_id)
        for (field, value), customer_id in made.items()
    }
    rows = table(CustomerRow).c
    taken = set(
        tx.session.scalars(
            select(rows.external_id).where(
                rows.organization_id == organization_id,
                rows.external_id.in_([name for names in choices.values() for name in names[:2]]),
            )
        )
    )
    given = {}
    for identity, names in choices.items():
        given[identity] = next(name for name in names if name not in taken)
        taken.add(given[identity])
    return given
