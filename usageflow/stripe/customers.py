"""Whose Stripe customer an identity is: exactly one, by the exact value of a metadata field.

Known pairs are in the table `stripe_customer`: filled by one sweep of the list for each field, and
by a search for a value that is not there. None or several is an answer that parks the usage; it is
never dropped and never given to "the first". Changes of a known customer are not noticed yet.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import delete
from sqlmodel import col, select

from usageflow.db.session import Database, Tx
from usageflow.db.statements import insert_new
from usageflow.db.tables import LaneRow, StripeCustomerRow
from usageflow.ledger.verdicts import Parked
from usageflow.stripe.client import StripeGateway

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""From when on the first customer of a value is meant: usage may be older than the customer."""
SHOWN_MAX = 3
"""How many of several customers a reason names."""


def waiting_fields(tx: Tx, account_id: str) -> set[str]:
    """The fields by which the customers of waiting usage are known."""
    return set(
        tx.session.exec(
            select(LaneRow.identity_field)
            .where(col(LaneRow.account_id) == account_id, col(LaneRow.waiting))
            .distinct()
        )
    )


def is_known(tx: Tx, account_id: str, field: str) -> bool:
    """Whether any customer is known by `field`."""
    ours = select(StripeCustomerRow.value).where(
        col(StripeCustomerRow.account_id) == account_id, col(StripeCustomerRow.field) == field
    )
    return tx.session.exec(ours.limit(1)).first() is not None


def sweep(db: Database, account_id: str, gateway: StripeGateway, fields: Iterable[str]) -> int:
    """List every customer once and remember those that have one of `fields`; how many pairs."""
    wanted = set(fields)
    found = [
        (field, value, customer.customer_id)
        for customer in gateway.list_customers()
        for field, value in customer.metadata.items()
        if field in wanted
    ]
    with db.transaction() as tx:
        _remember(tx, account_id, found)
    return len(found)


def known(tx: Tx, account_id: str, field: str, value: str) -> Sequence[str]:
    """The ids of the customers this identity is known to be."""
    return tx.session.exec(
        select(StripeCustomerRow.stripe_customer_id)
        .where(
            col(StripeCustomerRow.account_id) == account_id,
            col(StripeCustomerRow.field) == field,
            col(StripeCustomerRow.value) == value,
        )
        .order_by(StripeCustomerRow.stripe_customer_id)
    ).all()


def look_up(gateway: StripeGateway, field: str, value: str, before: Sequence[str]) -> list[str]:
    """Ask Stripe whose identity this is; `before`: those known so far.

    The search is a minute behind and compares without case, so each candidate is read as it is now.
    """
    found = {customer.customer_id for customer in gateway.search_customers(field, value)}
    now = [gateway.customer(customer_id) for customer_id in sorted(found.union(before))]
    return [one.customer_id for one in now if one and one.metadata.get(field) == value]


def replace(tx: Tx, account_id: str, field: str, value: str, customer_ids: Sequence[str]) -> None:
    """Remember that this identity is exactly these customers."""
    tx.session.exec(
        delete(StripeCustomerRow).where(
            col(StripeCustomerRow.account_id) == account_id,
            col(StripeCustomerRow.field) == field,
            col(StripeCustomerRow.value) == value,
        )
    )
    _remember(tx, account_id, [(field, value, customer_id) for customer_id in customer_ids])


def unclear(field: str, value: str, customer_ids: Sequence[str]) -> Parked:
    """Why usage must wait while the identity is none or several customers."""
    if not customer_ids:
        return Parked(f"no Stripe customer has metadata {field} = {value}")
    names = ", ".join(customer_ids[:SHOWN_MAX]) + (", ..." if len(customer_ids) > SHOWN_MAX else "")
    return Parked(f"{len(customer_ids)} Stripe customers have metadata {field} = {value}: {names}")


def _remember(tx: Tx, account_id: str, found: Iterable[tuple[str, str, str]]) -> None:
    rows = [
        {
            "account_id": account_id,
            "field": field,
            "value": value,
            "stripe_customer_id": customer_id,
            "valid_from": ALWAYS,
            "source": "stripe",
            "seen_at": tx.now,
        }
        for field, value, customer_id in found
    ]
    key = ["account_id", "field", "value", "stripe_customer_id", "valid_from"]
    insert_new(tx, StripeCustomerRow, rows, key=key, give="stripe_customer_id")
