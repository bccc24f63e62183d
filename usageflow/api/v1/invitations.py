"""/api/v1/invitations: who was invited, and how they come in."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Request, Response

from usageflow.api.access import ACCESS_COOKIE, Access, Rest, RestDep, needs, request_id_of
from usageflow.api.exact_json import Answer, Body, Email, Id, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.api.signing_in import SAME_SITE, Guard, GuardDep, begin, keep, wrong_password
from usageflow.api.v1.auth import Password, Token
from usageflow.api.who import SignedInOut, told
from usageflow.catalog import invitations, passwords, people, sessions
from usageflow.catalog.audit import Actor
from usageflow.catalog.members import KNOWN_ADDRESS
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
    guard.admit(request)
    with rest.db.reading() as tx:
        email = invitations.email_of(tx, body.token)
    if email is None:
        guard.failed(request)
        refusal(invitations.NO_LINK)
    account = _account(body, email, request, rest, guard)
    password_hash = None if account else _new_password(body)
    with rest.db.transaction() as tx:
        person_id = account or people.create(tx, email, password_hash or "")
        if person_id is None:
            refusal(KNOWN_ADDRESS)
        actor = Actor(email, request_id_of(request))
        joined = invitations.accept(tx, body.token, person_id, actor=actor)
        if isinstance(joined, Refused):
            refusal(joined)
        tokens = begin(tx, request, person_id, joined)
        content = told(tx, person_id, joined)
    return keep(answer(content.brief()), tokens, request, rest)


def _account(
    body: Acceptance, email: str, request: Request, rest: Rest, guard: Guard
) -> str | None:
    """The id of the person with this address, who has proved it; None if nobody has it yet."""
    with rest.db.reading() as tx:
        if people.find(tx, email) is None:
            return None
        signed_in = sessions.authenticate(tx, request.cookies.get(ACCESS_COOKIE, ""))
    if signed_in is not None and signed_in.email == email:
        return signed_in.person_id
    guard.admit(request, email)
    person_id = people.recognised(rest.db, email, body.password or "")
    if person_id is None:
        guard.failed(request, email)
        wrong_password()
    return person_id


def _new_password(body: Acceptance) -> str:
    """What is kept of the password of a new account."""
    given = body.password or ""
    if problem := passwords.password_problem(given):
        refusal(Refused("invalid", problem, "password"))
    return passwords.hashed(given)


def _fields(row: InvitationRow) -> dict[str, Any]:
    return row.model_dump(include=set(InvitationOut.model_fields))
