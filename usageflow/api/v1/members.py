"""/api/v1/members: the people of an organization and their roles."""

from datetime import datetime
from typing import Annotated

from fastapi import Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog import members
from usageflow.catalog.members import Member
from usageflow.catalog.permissions import Role
from usageflow.catalog.refusals import Refused

router = v1_router("members")


class MemberChange(Body):
    """The role a member shall have."""

    role: Role


class MemberOut(Answer):
    """A member."""

    id: str
    email: str
    role: Role
    created_at: datetime


@router.get("/members", response_model=Listed[MemberOut])
def list_members(
    access: Annotated[Access, needs("members.read")], rest: RestDep, page: PageDep
) -> Response:
    """The members, the first to join first."""
    with rest.db.reading() as tx:
        rows, total = members.listing(
            tx, access.organization_id, offset=page.offset, limit=page.limit
        )
    return listed([_told(row) for row in rows], total, page)


@router.patch("/members/{member_id}", response_model=MemberOut)
def change_member(
    member_id: Id,
    body: MemberChange,
    access: Annotated[Access, needs("members.invite")],
    rest: RestDep,
) -> Response:
    """Give a member another role. Owners are for owners alone, and one always remains."""
    with rest.db.transaction() as tx:
        changed = members.change_role(
            tx,
            access.organization_id,
            member_id,
            body.role,
            may=access.permissions,
            actor=access.actor,
        )
        return refusal(changed) if isinstance(changed, Refused) else answer(_told(changed))


@router.delete("/members/{member_id}", status_code=204)
def remove_member(
    member_id: Id, access: Annotated[Access, needs("members.invite")], rest: RestDep
) -> Response:
    """Remove a member, who is out at once. Owners are for owners alone, and one always remains."""
    with rest.db.transaction() as tx:
        refused = members.remove(
            tx, access.organization_id, member_id, may=access.permissions, actor=access.actor
        )
        return refusal(refused) if refused else Response(status_code=204)


def _told(member: Member) -> MemberOut:
    return MemberOut.model_validate(member._asdict())
