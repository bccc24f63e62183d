"""/api/v1/invitations: who was invited, and how they come in."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Request, Response

from usageflow.api.access import ACCESS_COOKIE, Access, Rest, RestDep, needs, request_id_of
from usageflow.api.exact_json import Answer, Body, Email, Id, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.api.signing_in import SAME_SITE, GuardDep, begin, keep
from usageflow.api.v1.auth import Password, Token
from usageflow.api.who import SignedInOut, told
from usageflow.catalog import invitations, sessions
from usageflow.catalog.audit import Actor
from usageflow.catalog.invitations import Joined
from usageflow.catalog.permissions import Role
from usageflow.catalog.refusals import Refused
from usageflow.db.tables import InvitationRow
from usageflow.stripe.connect import public_url

router = v1_router("invitations")


class NewInvitation(Body):
    """Whom to invite, and as what."""

    email: Email
    role: Role


class Acceptance(Body):
    """The token of the link. `password`: of one's account, or for a new one; none is needed by who
    is signed in with the address that was invited.
    """

    token: Token
    password: Password | None = None


class InvitationOut(Answer):
    """An open invitation."""

    id: str
    email: str
    role: Role
    invited_by: str
    created_at: datetime
    expires_at: datetime


class InvitedOut(InvitationOut):
    """An invitation just made. The link was mailed too; it is shown only now."""

    link: str


@router.get("/invitations", response_model=Listed[InvitationOut])
def list_invitations(
    access: Annotated[Access, needs("members.read")], rest: RestDep, page: PageDep
) -> Response:
    """The open invitations, the latest first."""
    with rest.db.reading() as tx:
        rows, total = invitations.listing(
            tx, access.organization_id, offset=page.offset, limit=page.limit
        )
        return listed([InvitationOut(**_fields(row)) for row in rows], total, page)


@router.post("/invitations", response_model=InvitedOut, status_code=201)
def invite(
    body: NewInvitation, access: Annotated[Access, needs("members.invite")], rest: RestDep
) -> Response:
    """Invite an address, for 48 hours. Owners are invited by owners alone."""
    with rest.db.transaction() as tx:
        made = invitations.invite(
            tx,
            access.organization_id,
            email=body.email,
            role=body.role,
            may=access.permissions,
            base_url=public_url(rest.settings),
            actor=access.actor,
        )
        if isinstance(made, Refused):
            refusal(made)
        content = InvitedOut(**_fields(made.invitation), link=made.link)
    rest.on_billing()
    return answer(content, 201, headers={"cache-control": "no-store"})


@router.delete("/invitations/{invitation_id}", status_code=204)
def revoke_invitation(
    invitation_id: Id, access: Annotated[Access, needs("members.invite")], rest: RestDep
) -> Response:
    """Take an open invitation back: its link works no more."""
    with rest.db.transaction() as tx:
        refused = invitations.revoke(tx, access.organization_id, invitation_id, actor=access.actor)
        return refusal(refused) if refused else Response(status_code=204)


@router.post("/invitations/accept", response_model=SignedInOut, dependencies=[SAME_SITE])
def accept_invitation(
    body: Acceptance, request: Request, rest: RestDep, guard: GuardDep
) -> Response:
    """Come in by a link, and sign in: with the account one has, or with a new one."""
    guard.admit(request, body.token)
    joined = _joined(body, request, rest)
    if isinstance(joined, Refused):
        guard.failed(request, body.token)
        refusal(joined)
    with rest.db.transaction() as tx:
        tokens = begin(tx, request, *joined)
        content = told(tx, *joined)
    return keep(answer(content.brief()), tokens, request, rest)


def _joined(body: Acceptance, request: Request, rest: Rest) -> Joined | Refused:
    """By being signed in with the address that was invited, or else by its password."""
    request_id = request_id_of(request)
    with rest.db.transaction() as tx:
        signed_in = sessions.authenticate(tx, request.cookies.get(ACCESS_COOKIE, ""))
        if signed_in is not None:
            actor = Actor(signed_in.email, request_id)
            joined = invitations.accept(tx, body.token, signed_in.person_id, actor=actor)
            if joined != invitations.OTHER_ADDRESS:
                return joined
    return invitations.accept_with_password(
        rest.db, body.token, body.password or "", request_id=request_id
    )


def _fields(row: InvitationRow) -> dict[str, Any]:
    return row.model_dump(include=set(InvitationOut.model_fields))
