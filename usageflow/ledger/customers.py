"""Customers as usage reveals them: an identity seen for the first time becomes a customer."""

import uuid
from collections.abc import Collection
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Select, insert, select
from sqlmodel import col

from usageflow.db.billing_tables import SubscriptionRow
from usageflow.db.columns import table
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerIdentityRow, CustomerRow, OrganizationRow
from usageflow.ledger.given import Kind, encoded, looked_up, prepared

EXTERNAL_ID: Final = "external_id"
"""The identity field whose value is a customer's own name here: clients of the API use it."""

DEFAULT: Final = "default"
"""The external id of the organization's own customer: it is meant where nobody is named."""

Identified: TypeAlias = tuple[str, str]
"""(field, value)."""
_IDENTITY: Final[dict[str, Kind]] = {"organization_id": "text", "field": "text", "value": "text"}
_NAME: Final[dict[str, Kind]] = {"organization_id": "text", "external_id": "text"}


class Payer(NamedTuple):
    """Who an identity is. An archived one takes no more usage from clients of the API."""

    id: str
    archived: bool


def resolve(
    tx: Tx, organization_id: str, identities: Collection[Identified]
) -> dict[Identified, str]:
    """The customer id of each identity; unknown ones become customers.

    A new customer's `external_id` is the value, or `field:value` where that is taken. Transactions
    that make customers of one organization take turns, so an identity never gets two.
    """
    payers = known(tx, organization_id, identities)
    found = {identity: payer.id for identity, payer in payers.items()}
    if len(found) < len(set(identities)):
        tx.session.execute(
            select(col(OrganizationRow.id))
            .where(col(OrganizationRow.id) == organization_id)
            .with_for_update(key_share=True)
        )
        others = known(tx, organization_id, set(identities) - found.keys())
        found |= {identity: payer.id for identity, payer in others.items()}
        found |= _create(tx, organization_id, sorted(set(identities) - found.keys()))
    return found


def known(
    tx: Tx, organization_id: str, identities: Collection[Identified]
) -> dict[Identified, Payer]:
    """Who the identities are that are known: by an identity of theirs or by their external id."""
    found = _identified(tx, organization_id, identities)
    called = {value for field, value in identities if field == EXTERNAL_ID} - {
        value for _, value in found
    }
    return found | _called(tx, organization_id, called)


def subscriber(tx: Tx, organization_id: str) -> Payer | None:
    """The organization's own customer, if it has a subscription: it pays for who is no customer."""
    payer, subscription = table(CustomerRow).c, table(SubscriptionRow).c
    found = tx.session.execute(
        select(payer.id, payer.archived_at)
        .join_from(
            payer.id.table,
            subscription.id.table,
            (subscription.organization_id == organization_id)
            & (subscription.customer_id == payer.id)
            & (subscription.state != "CANCELLED"),
        )
        .where(payer.organization_id == organization_id, payer.external_id == DEFAULT)
        .limit(1)
    ).first()
    return None if found is None else Payer(found.id, found.archived_at is not None)


def _identified(
    tx: Tx, organization_id: str, identities: Collection[Identified]
) -> dict[Identified, Payer]:
    if not identities:
        return {}
    asked = encoded(tx, _IDENTITY, [(organization_id, *identity) for identity in identities])
    result = tx.session.execute(_by_identity(tx), {"asked": asked})
    return {
        (field, value): Payer(customer_id, archived_at is not None)
        for field, value, customer_id, archived_at in result
    }


@prepared
def _by_identity(tx: Tx) -> Select[Any]:
    identity, payer = table(CustomerIdentityRow), table(CustomerRow)
    return (
        select(identity.c.field, identity.c.value, payer.c.id, payer.c.archived_at)
        .select_from(looked_up(tx, identity, _IDENTITY))
        .join(payer, payer.c.id == identity.c.customer_id)
    )


def _called(tx: Tx, organization_id: str, names: Collection[str]) -> dict[Identified, Payer]:
    """The customers with these external ids."""
    if not names:
        return {}
    asked = encoded(tx, _NAME, [(organization_id, name) for name in names])
    return {
        (EXTERNAL_ID, name): Payer(customer_id, archived_at is not None)
        for name, customer_id, archived_at in tx.session.execute(_by_name(tx), {"asked": asked})
    }


@prepared
def _by_name(tx: Tx) -> Select[Any]:
    payer = table(CustomerRow)
    return select(payer.c.external_id, payer.c.id, payer.c.archived_at).select_from(
        looked_up(tx, payer, _NAME)
    )


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
        # nobody becomes the organization's own customer by what a request said of its caller
        barred = taken if identity[0] == EXTERNAL_ID else taken | {DEFAULT}
        given[identity] = next(name for name in names if name not in barred)
        taken.add(given[identity])
    return given
