"""/api/v1/customers: the payers, and how usage recognises them.

A customer is named by its id or its external id. What it subscribes to, uses and owes is answered
by the routers of those nouns.
"""

from datetime import datetime
from typing import Annotated, Any, cast

from fastapi import Query, Response
from pydantic import Field, StringConstraints

from usageflow.api.access import Access, Rest, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Email, Exact, Id, Line, Name, Number, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.patches import Patch, left_out
from usageflow.api.rest import refusal, v1_router
from usageflow.api.v1.metrics import Search
from usageflow.catalog import customers, identities
from usageflow.catalog.customers import CustomerChanges
from usageflow.catalog.identities import Identity
from usageflow.catalog.refusals import Refused
from usageflow.db.tables import CustomerRow
from usageflow.events import IDENTITY_CHARS_MAX
from usageflow.policies.models import FIELD_CHARS_MAX

router = v1_router("customers")

IDENTITIES_AT_ONCE_MAX = 100
"""Identities given with a new customer; more are added one by one."""
METADATA_MAX = 50
"""Entries of a customer's metadata; as many as Stripe keeps."""

Country = Annotated[str, StringConstraints(pattern=r"^([A-Z]{2})?$")]
"""ISO 3166-1 alpha-2; empty if unknown."""
Percent = Annotated[Exact, Field(ge=0, le=100)]
FieldName = Annotated[Name, StringConstraints(max_length=FIELD_CHARS_MAX)]
IdentityValue = Annotated[Id, StringConstraints(max_length=IDENTITY_CHARS_MAX)]
Metadata = Annotated[dict[Name, Line], Field(max_length=METADATA_MAX)]


_ADDRESS_PREFIX = "billing_address_"
_NO_DETAILS = {"external_id", "identities"}
"""What can be told only once, when a customer is made."""


class Address(Body):
    """Where a customer is written to."""

    line1: Line = ""
    line2: Line = ""
    city: Line = ""
    state: Line = ""
    postal_code: Line = ""
    country: Country = ""


class IdentityBody(Body):
    """One way a customer is recognised, such as the field account_id and the value acct_42."""

    field: FieldName
    value: IdentityValue


class NewIdentity(IdentityBody):
    """An identity to add; with `move` it is taken from the customer who has it."""

    move: bool = False


class CustomerDetails(Patch):
    """What can be told of a customer; the parts of the address also as fields of their own."""

    email: Email | None = left_out()
    phone: Line | None = left_out()
    address: Address = left_out()
    billing_address_line1: Line = left_out()
    billing_address_line2: Line = left_out()
    billing_address_city: Line = left_out()
    billing_address_state: Line = left_out()
    billing_address_postal_code: Line = left_out()
    billing_address_country: Country = left_out()
    tax_percent: Percent | None = left_out()
    stripe_customer_id: Id | None = left_out()
    metadata: Metadata = left_out()

    def changes(self) -> CustomerChanges:
        """What is told, for the catalog."""
        values, address = dict[str, Any](), dict[str, str]()
        for field, value in self.given().items():
            if field in _NO_DETAILS:
                continue
            if field == "address":
                address |= value.model_dump(exclude_unset=True)
            elif field.startswith(_ADDRESS_PREFIX):
                address[field.removeprefix(_ADDRESS_PREFIX)] = value
            else:
                values[field] = value
        return cast("CustomerChanges", values | {"address": address})


class NamedCustomer(CustomerDetails):
    """All that is told of a customer."""

    name: Name


class NewCustomer(NamedCustomer):
    """A customer to make; without an external id, its id is that too."""

    external_id: Id = left_out()
    identities: Annotated[list[IdentityBody], Field(max_length=IDENTITIES_AT_ONCE_MAX)] = Field(
        default_factory=list
    )


class CustomerPatch(CustomerDetails):
    """What to change in a customer."""

    name: Name = left_out()


class ToldAddress(Answer):
    """Where a customer is written to; empty texts where nobody said."""

    line1: str
    line2: str
    city: str
    state: str
    postal_code: str
    country: str


class CustomerOut(Answer):
    """A customer. One without a name was made by its usage."""

    id: str
    external_id: str
    name: str | None
    email: str | None
    phone: str | None
    address: ToldAddress
    tax_percent: Number | None
    stripe_customer_id: str | None
    metadata: dict[str, str]
    created_at: datetime
    archived_at: datetime | None


class IdentityOut(Answer):
    """One way a customer is recognised."""

    field: str
    value: str
    customer_id: str


@router.get("/customers", response_model=Listed[CustomerOut])
def list_customers(
    *,
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    page: PageDep,
    search: Search = None,
    external_id: Id | None = None,
    email: Id | None = None,
    archived: bool = False,
) -> Response:
    """Customers by external id, the current or the `archived`; `search` is a part of a name."""
    with rest.db.reading() as tx:
        rows, total = customers.listing(
            tx,
            access.organization_id,
            search=search,
            external_id=external_id,
            email=email,
            archived=archived,
            offset=page.offset,
            limit=page.limit,
        )
        return listed([_customer(row) for row in rows], total, page)


@router.post("/customers", response_model=CustomerOut, status_code=201)
def create_customer(
    body: NewCustomer, access: Annotated[Access, needs("customers.write")], rest: RestDep
) -> Response:
    """Make a customer, or complete the one that only its usage has made so far."""
    with rest.db.transaction() as tx:
        made = customers.create(
            tx,
            access.organization_id,
            external_id=body.external_id,
            recognised_by=[Identity(one.field, one.value) for one in body.identities],
            actor=access.actor,
            **body.changes(),
        )
        return refusal(made) if isinstance(made, Refused) else answer(_customer(made), 201)


@router.get("/customers/{customer}", response_model=CustomerOut)
def read_customer(
    customer: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """One customer."""
    with rest.db.reading() as tx:
        row = customers.find(tx, access.organization_id, customer)
        return refusal(customers.unknown(customer)) if row is None else answer(_customer(row))


@router.patch("/customers/{customer}", response_model=CustomerOut)
def change_customer(
    customer: Id,
    body: CustomerPatch,
    access: Annotated[Access, needs("customers.write")],
    rest: RestDep,
) -> Response:
    """Change what is given."""
    return _changed(rest, access, customer, body.changes())


@router.put("/customers/{customer}", response_model=CustomerOut)
def replace_customer(
    customer: Id,
    body: NamedCustomer,
    access: Annotated[Access, needs("customers.write")],
    rest: RestDep,
) -> Response:
    """Tell everything anew: what is left out is forgotten."""
    return _changed(rest, access, customer, customers.anew(body.changes()))


@router.delete("/customers/{customer}", status_code=204)
def archive_customer(
    customer: Id, access: Annotated[Access, needs("customers.write")], rest: RestDep
) -> Response:
    """Archive a customer without subscriptions. Its usage and its invoices stay."""
    with rest.db.transaction() as tx:
        refused = customers.archive(tx, access.organization_id, customer, actor=access.actor)
        return refusal(refused) if refused else Response(status_code=204)


@router.post("/customers/{customer}/restore", response_model=CustomerOut)
def restore_customer(
    customer: Id, access: Annotated[Access, needs("customers.write")], rest: RestDep
) -> Response:
    """Take an archived customer into use again."""
    with rest.db.transaction() as tx:
        row = customers.restore(tx, access.organization_id, customer, actor=access.actor)
        return refusal(row) if isinstance(row, Refused) else answer(_customer(row))


@router.get("/customers/{customer}/identities", response_model=Listed[IdentityOut])
def list_identities(
    customer: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep, page: PageDep
) -> Response:
    """How usage recognises the customer."""
    with rest.db.reading() as tx:
        row = customers.find(tx, access.organization_id, customer)
        if row is None:
            refusal(customers.unknown(customer))
        rows, total = identities.listing(
            tx, access.organization_id, row.id, offset=page.offset, limit=page.limit
        )
        told = [IdentityOut.model_validate(one, from_attributes=True) for one in rows]
        return listed(told, total, page)


@router.post("/customers/{customer}/identities", response_model=IdentityOut, status_code=201)
def add_identity(
    customer: Id,
    body: NewIdentity,
    access: Annotated[Access, needs("customers.write")],
    rest: RestDep,
) -> Response:
    """Recognise the customer by this too; what was counted before stays where it is."""
    with rest.db.transaction() as tx:
        row = customers.add_identity(
            tx,
            access.organization_id,
            customer,
            Identity(body.field, body.value),
            move=body.move,
            actor=access.actor,
        )
        if isinstance(row, Refused):
            refusal(row)
        return answer(IdentityOut(field=body.field, value=body.value, customer_id=row.id), 201)


@router.delete("/customers/{customer}/identities", status_code=204)
def remove_identity(
    customer: Id,
    field: Annotated[FieldName, Query()],
    value: Annotated[IdentityValue, Query()],
    access: Annotated[Access, needs("customers.write")],
    rest: RestDep,
) -> Response:
    """Recognise the customer by this no more."""
    identity = Identity(field, value)
    with rest.db.transaction() as tx:
        refused = customers.remove_identity(
            tx, access.organization_id, customer, identity, actor=access.actor
        )
        return refusal(refused) if refused else Response(status_code=204)


def _changed(rest: Rest, access: Access, customer: str, changes: CustomerChanges) -> Response:
    with rest.db.transaction() as tx:
        row = customers.change(tx, access.organization_id, customer, actor=access.actor, **changes)
        return refusal(row) if isinstance(row, Refused) else answer(_customer(row))


def _customer(row: CustomerRow) -> CustomerOut:
    return CustomerOut(
        id=row.id,
        external_id=row.external_id,
        name=row.name,
        email=row.email,
        phone=row.phone,
        address=ToldAddress.model_validate(customers.address_of(row), from_attributes=True),
        tax_percent=row.tax_percent,
        stripe_customer_id=row.stripe_customer_id,
        metadata=customers.metadata_of(row),
        created_at=row.created_at,
        archived_at=row.archived_at,
    )
