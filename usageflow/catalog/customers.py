"""Customers: the payers, as people describe them. Usage makes customers too, without a name.

How usage finds its customer by an identity is `ledger.customers`'s.
"""

import uuid
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, TypedDict, Unpack

import msgspec
from sqlalchemy import ColumnElement
from sqlmodel import col, or_, select

from usageflow.catalog import audit, identities, uses
from usageflow.catalog.audit import Actor
from usageflow.catalog.identities import Identity
from usageflow.catalog.listings import paged
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow

DEFAULT: Final = "default"
"""The external id of the customer who subscribes where an organization itself is said to."""


class Address(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where to write to; `country` is ISO 3166-1 alpha-2."""

    line1: str = ""
    line2: str = ""
    city: str = ""
    state: str = ""
    postal_code: str = ""
    country: str = ""


class CustomerDetails(TypedDict, total=False):
    """What people tell of a customer beside its name; see `CustomerRow`."""

    email: str | None
    phone: str | None
    address: Mapping[str, str]
    """Parts of an `Address`; the others stay."""
    tax_percent: Decimal | None
    stripe_customer_id: str | None
    metadata: dict[str, str]


class CustomerChanges(CustomerDetails, total=False):
    """The same, and the name."""

    name: str


def find(tx: Tx, organization_id: str, customer: str) -> CustomerRow | None:
    """The customer of this id, or of this external id; archived ones too."""
    if "\0" in customer:  # PostgreSQL takes no such text, and no customer is called so
        return None
    found = tx.session.exec(
        select(CustomerRow).where(
            col(CustomerRow.organization_id) == organization_id,
            or_(col(CustomerRow.id) == customer, col(CustomerRow.external_id) == customer),
        )
    ).all()
    return next((row for row in found if row.id == customer), found[0] if found else None)


def listing(
    tx: Tx,
    organization_id: str,
    *,
    search: str | None = None,
    external_id: str | None = None,
    email: str | None = None,
    archived: bool = False,
    offset: int,
    limit: int,
) -> tuple[list[CustomerRow], int]:
    """Customers, current or archived, by external id; how many there are.

    `search` is a part of name, e-mail or external id; the other filters are the whole of theirs.
    """
    gone = col(CustomerRow.archived_at)
    wanted: list[ColumnElement[bool]] = [
        col(CustomerRow.organization_id) == organization_id,
        gone.is_not(None) if archived else gone.is_(None),
    ]
    if search is not None:
        texts = (col(CustomerRow.name), col(CustomerRow.email), col(CustomerRow.external_id))
        wanted.append(or_(*(text.icontains(search, autoescape=True) for text in texts)))
    if external_id is not None:
        wanted.append(col(CustomerRow.external_id) == external_id)
    if email is not None:
        wanted.append(col(CustomerRow.email) == email)
    statement = select(CustomerRow).where(*wanted).order_by(col(CustomerRow.external_id))
    return paged(tx, statement, offset=offset, limit=limit)


def default_customer(tx: Tx, organization_id: str) -> CustomerRow:
    """The customer `default`, made if there is none: "the organization subscribes"."""
    found = _of_external_id(tx, organization_id, DEFAULT)
    if found is None:
        take_turn(tx, organization_id)
        found = _of_external_id(tx, organization_id, DEFAULT)
    if found is None:
        found = _row(tx, organization_id, DEFAULT)
        tx.session.add(found)
        tx.session.flush()
    return found


def create(
    tx: Tx,
    organization_id: str,
    *,
    name: str,
    external_id: str | None = None,
    recognised_by: Collection[Identity] = (),
    actor: Actor,
    **details: Unpack[CustomerDetails],
) -> CustomerRow | Refused:
    """Make a customer; without an external id, its id is that too.

    One that only usage knows so far, and which so has no name, is completed. Refused if the
    external id or an identity belongs to another.
    """
    take_turn(tx, organization_id)
    found = None if external_id is None else _of_external_id(tx, organization_id, external_id)
    if found is not None and (found.name is not None or found.archived_at is not None):
        there = f"there is a customer {external_id} already"
        archived = f"{there}; it is archived, and can be restored"
        return Refused("conflict", archived if found.archived_at else there, "external_id")
    row = found or _row(tx, organization_id, external_id)
    for identity in recognised_by:
        if refused := _taken(tx, row, identity):
            return refused
    before = told(row) if found else None
    _describe(row, {"name": name, **details})
    tx.session.add(row)
    tx.session.flush()
    for identity in recognised_by:
        identities.give(tx, row.organization_id, identity, row.id)
    after = told(row) | {"identities": [*recognised_by]}
    _record(tx, row, "customer.create", actor, before=before, after=after)
    return row


def change(
    tx: Tx,
    organization_id: str,
    customer: str,
    *,
    actor: Actor,
    **details: Unpack[CustomerChanges],
) -> CustomerRow | Refused:
    """Change what is given. The external id stays: usage already names it."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, customer)
    if row is None:
        return unknown(customer)
    before = told(row)
    _describe(row, details)
    tx.session.flush()
    if told(row) != before:
        _record(tx, row, "customer.change", actor, before=before, after=told(row))
    return row


def anew(details: CustomerChanges) -> CustomerChanges:
    """These details, and every other one as if it had never been told."""
    nothing: CustomerDetails = {
        "email": None,
        "phone": None,
        "tax_percent": None,
        "stripe_customer_id": None,
        "metadata": {},
    }
    nowhere = dict.fromkeys(Address.__struct_fields__, "")
    return {**nothing, **details, "address": {**nowhere, **details.get("address", {})}}


def archive(tx: Tx, organization_id: str, customer: str, *, actor: Actor) -> Refused | None:
    """Take a customer out of use; all that concerns it stays. Refused while it subscribes."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, customer)
    if row is None:
        return unknown(customer)
    if user := uses.of_customer(tx, organization_id, row.id):
        return Refused("conflict", f"the customer {row.external_id} cannot be archived: {user}")
    if row.archived_at is None:
        row.archived_at = tx.now
        _record(tx, row, "customer.archive", actor, before=told(row))
    return None


def restore(tx: Tx, organization_id: str, customer: str, *, actor: Actor) -> CustomerRow | Refused:
    """Take an archived customer into use again."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, customer)
    if row is None:
        return unknown(customer)
    if row.archived_at is not None:
        row.archived_at = None
        _record(tx, row, "customer.restore", actor, after=told(row))
    return row


def add_identity(
    tx: Tx,
    organization_id: str,
    customer: str,
    identity: Identity,
    *,
    move: bool = False,
    actor: Actor,
) -> CustomerRow | Refused:
    """Recognise a customer by this too; refused if that is another, unless it is to `move`.

    Usage to come is then this customer's; what was counted stays where it is.
    """
    take_turn(tx, organization_id)
    row = find(tx, organization_id, customer)
    if row is None:
        return unknown(customer)
    if not move and (refused := _taken(tx, row, identity)):
        return refused
    other = identities.give(tx, organization_id, identity, row.id)
    if other != row.id:
        after = {**identity._asdict(), "customer_id": row.id}
        before = after | {"customer_id": other} if other else None
        _record(tx, row, "customer.add_identity", actor, before=before, after=after)
    return row


def remove_identity(
    tx: Tx, organization_id: str, customer: str, identity: Identity, *, actor: Actor
) -> Refused | None:
    """Recognise a customer by this no more: usage of it makes another customer, or is refused."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, customer)
    if row is None:
        return unknown(customer)
    if identities.owner(tx, organization_id, identity) != row.id:
        called = f"{identity.field} {identity.value}"
        return Refused("not_found", f"the customer {row.external_id} has no identity {called}")
    identities.drop(tx, organization_id, identity)
    _record(tx, row, "customer.remove_identity", actor, before=identity._asdict())
    return None


def unknown(customer: str, field: str | None = None) -> Refused:
    """There is no such customer; `field` if it is named in a body."""
    code: Literal["not_found", "invalid"] = "not_found" if field is None else "invalid"
    return Refused(code, f"there is no customer {customer}", field)


def address_of(row: CustomerRow) -> Address:
    """Where the customer is written to; empty if nobody said."""
    return msgspec.json.decode(row.address or "{}", type=Address)


def metadata_of(row: CustomerRow) -> dict[str, str]:
    """What people keep with the customer."""
    return msgspec.json.decode(row.metadata_ or "{}", type=dict[str, str])


def told(row: CustomerRow) -> dict[str, Any]:
    """What a customer is, as plain values: what the audit log keeps of it."""
    columns = ("external_id", "name", "email", "phone", "tax_percent", "stripe_customer_id")
    return {column: getattr(row, column) for column in columns} | {
        "address": address_of(row),
        "metadata": metadata_of(row),
    }


def _of_external_id(tx: Tx, organization_id: str, external_id: str) -> CustomerRow | None:
    return tx.session.exec(
        select(CustomerRow).where(
            col(CustomerRow.organization_id) == organization_id,
            col(CustomerRow.external_id) == external_id,
        )
    ).one_or_none()


def _row(tx: Tx, organization_id: str, external_id: str | None) -> CustomerRow:
    made = str(uuid.uuid4())
    return CustomerRow(
        id=made, organization_id=organization_id, external_id=external_id or made, created_at=tx.now
    )


def _describe(row: CustomerRow, details: CustomerChanges) -> None:
    values: dict[str, Any] = {**details}
    if "address" in values:
        address = msgspec.structs.replace(address_of(row), **values["address"])
        values["address"] = msgspec.json.encode(address).decode()
    if "metadata" in values:
        values["metadata_"] = msgspec.json.encode(values.pop("metadata")).decode()
    for column, value in values.items():
        setattr(row, column, value)


def _taken(tx: Tx, row: CustomerRow, identity: Identity) -> Refused | None:
    """That another customer is recognised by this."""
    other = identities.owner(tx, row.organization_id, identity)
    if other in (None, row.id):
        return None
    called = f"{identity.field} {identity.value}"
    return Refused("conflict", f"{called} is the customer {other}", "identities")


def _record(
    tx: Tx, row: CustomerRow, action: str, actor: Actor, **told: dict[str, Any] | None
) -> None:
    audit.record(
        tx,
        row.organization_id,
        actor=actor,
        action=action,
        subject=row.id,
        before=told.get("before"),
        after=told.get("after"),
    )
