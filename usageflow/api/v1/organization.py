"""/api/v1/organization: what it is called, and what it bills by."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import Response
from pydantic import Field, StringConstraints

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Exact, Line, Name, Number, Prose, answer
from usageflow.api.patches import Patch, left_out
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog import organization_settings, organizations
from usageflow.catalog.organization_settings import (
    DAYS_MAX,
    GRACE_S_MAX,
    LATE_HOURS_MAX,
    LINE_CHARS_MAX,
    LINES_MAX,
    NOTE_CHARS_MAX,
    PERCENT_MAX,
    UnknownCustomer,
)
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.tables import OrganizationRow

router = v1_router("organization")

Days = Annotated[int, Field(ge=0, le=DAYS_MAX)]
ShortLine = Annotated[Line, StringConstraints(max_length=LINE_CHARS_MAX)]


class IssuerPatch(Patch):
    """What to change in the head and the foot of invoices."""

    name: ShortLine = left_out()
    address: Annotated[list[ShortLine], Field(max_length=LINES_MAX)] = left_out()
    email: ShortLine = left_out()
    tax_id: ShortLine = left_out()
    note: Annotated[Prose, StringConstraints(max_length=NOTE_CHARS_MAX)] = left_out()


class OrganizationPatch(Patch):
    """What to change in an organization; it holds for what comes, not for what was issued."""

    name: Name = left_out()
    currency: Name = left_out()
    time_zone: Name = left_out()
    grace_s: Annotated[int, Field(ge=0, le=GRACE_S_MAX)] = left_out()
    payment_terms_days: Days = left_out()
    suspend_after_days: Days | None = left_out()
    late_hours: Annotated[int, Field(ge=0, le=LATE_HOURS_MAX)] = left_out()
    unknown_customer: UnknownCustomer = left_out()
    tax_percent: Annotated[Exact, Field(ge=0, le=PERCENT_MAX)] | None = left_out()
    issuer: IssuerPatch = left_out()


class IssuerOut(Answer):
    """Whose invoices they are."""

    name: str
    address: list[str]
    email: str
    tax_id: str
    note: str


class OrganizationOut(Answer):
    """An organization. `key` is what commands call it by.

    `grace_s`: how long a draft waits before it is issued. `suspend_after_days`: after how many an
    unpaid invoice suspends its subscription; null never. `late_hours`: how late usage may come.
    `unknown_customer`: whether tracking makes a customer for an id that there is not.
    """

    id: str
    key: str
    name: str
    created_at: datetime
    currency: str
    time_zone: str
    grace_s: int
    payment_terms_days: int
    suspend_after_days: int | None
    late_hours: int
    unknown_customer: UnknownCustomer
    tax_percent: Number | None
    issuer: IssuerOut


@router.get("/organization", response_model=OrganizationOut)
def read_organization(
    access: Annotated[Access, needs("organization.read")], rest: RestDep
) -> Response:
    """The organization this request acts for."""
    with rest.db.reading() as tx:
        return answer(_told(tx, access.organization_id))


@router.patch("/organization", response_model=OrganizationOut)
def change_organization(
    body: OrganizationPatch,
    access: Annotated[Access, needs("organization.write")],
    rest: RestDep,
) -> Response:
    """Change what is given."""
    changes = body.given()
    if "issuer" in changes:
        changes["issuer"] = changes["issuer"].given()
    name: str | None = changes.pop("name", None)
    with rest.db.transaction() as tx:
        changed = organization_settings.change(
            tx, access.organization_id, changes, actor=access.actor
        )
        if isinstance(changed, Refused):
            refusal(changed)
        if name is not None:
            organizations.rename(tx, access.organization_id, name, actor=access.actor)
        return answer(_told(tx, access.organization_id))


def _told(tx: Tx, organization_id: str) -> OrganizationOut:
    row = tx.session.get_one(OrganizationRow, organization_id)
    fields: dict[str, Any] = msgspec.structs.asdict(organization_settings.read(tx, row.id))
    fields["issuer"] = msgspec.to_builtins(fields["issuer"])
    return OrganizationOut(
        id=row.id,
        key=row.name,
        name=row.display_name or row.name,
        created_at=row.created_at,
        **fields,
    )
