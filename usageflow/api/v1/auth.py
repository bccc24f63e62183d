"""/api/v1/auth: signing up, in and out, and who one is.

Whoever signs in gets two cookies: `access_token` for every request, and `refresh_token`, which
`/refresh` exchanges for new ones.
"""

from datetime import datetime
from typing import Annotated, Final

from fastapi import Request, Response
from pydantic import StringConstraints

from usageflow.api.access import Access, RestDep, needs, request_id_of, unauthorized
from usageflow.api.exact_json import Answer, Body, Email, Id, Name, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.api.signing_in import (
    REFRESH_COOKIE,
    SAME_SITE,
    GuardDep,
    begin,
    forget,
    keep,
    tokens_of,
    wrong_password,
)
from usageflow.api.who import MeOut, SignedInOut, told
from usageflow.catalog import audit, founding, invitations, members, passwords, people, sessions
from usageflow.catalog.audit import Actor
from usageflow.catalog.refusals import Refused
from usageflow.catalog.sessions import Tokens
from usageflow.db.session import Tx
from usageflow.db.tables import PersonRow, SessionRow
from usageflow.errors import RequestRefused

router = v1_router("auth")

NOWHERE: Final = Refused(
    "forbidden", "you are a member of no organization any more; ask to be invited"
)

Password = Annotated[str, StringConstraints(max_length=passwords.PASSWORD_CHARS_MAX)]
Token = Annotated[str, StringConstraints(max_length=100)]


class SignUp(Body):
    """Who signs up: to found an organization of this name, or with the token of an invitation."""

    email: Email
    password: Password
    organization_name: Name | None = None
    invitation: Token | None = None


class Login(Body):
    """Who signs in."""

    email: Email
    password: Password


class Switch(Body):
    """Which organization to act for."""

    organization_id: Id


class NewPassword(Body):
    """One's password, and what it shall be."""

    current: Password
    new: Password


class SessionOut(Answer):
    """Where one is signed in; `current` is this very session."""

    id: str
    address: str
    user_agent: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    current: bool


@router.post("/auth/signup", response_model=SignedInOut, status_code=201, dependencies=[SAME_SITE])
def sign_up(body: SignUp, request: Request, rest: RestDep, guard: GuardDep) -> Response:
    """Make an account, and sign in. Who may is the setting `signup`; who is invited always may."""
    guard.admit(request, body.email)
    if problem := passwords.password_problem(body.password):
        refusal(Refused("invalid", problem, "password"))
    guard.failed(request, body.email)  # each counts: it makes work, and tells who has an account
    password_hash = passwords.hashed(body.password)
    with rest.db.transaction() as tx:
        found = _signed_up(tx, body, password_hash, request, rest)
        if isinstance(found, Refused):
            refusal(found)
        tokens = begin(tx, request, *found)
        content = told(tx, *found)
    return keep(answer(content.brief(), 201), tokens, request, rest)


@router.post("/auth/login", response_model=SignedInOut, dependencies=[SAME_SITE])
def login(body: Login, request: Request, rest: RestDep, guard: GuardDep) -> Response:
    """Sign in, for the organization one joined first."""
    guard.admit(request, body.email)
    person_id = people.recognised(rest.db, body.email, body.password)
    if person_id is None:
        guard.failed(request, body.email)
        wrong_password()
    with rest.db.transaction() as tx:
        found = members.memberships(tx, person_id)
        if not found:
            refusal(NOWHERE)
        tokens = begin(tx, request, person_id, found[0].organization_id)
        content = told(tx, person_id, found[0].organization_id)
    return keep(answer(content.brief()), tokens, request, rest)


@router.post("/auth/refresh", response_model=SignedInOut, dependencies=[SAME_SITE])
def refresh(request: Request, rest: RestDep) -> Response:
    """New cookies for the refresh token, which is used up: shown again, it ends the session."""
    found = _refreshed(request, rest)
    if found is None:
        raise unauthorized("invalid_session", "the session has ended; sign in")
    tokens, content = found
    return keep(answer(content.brief()), tokens, request, rest)


@router.post("/auth/logout", status_code=204, dependencies=[SAME_SITE])
def logout(request: Request, rest: RestDep) -> Response:
    """End the session of these cookies, and take them away."""
    with rest.db.transaction() as tx:
        sessions.revoke_presented(tx, *tokens_of(request))
    return forget(Response(status_code=204))


@router.get("/auth/me", response_model=MeOut)
def me(access: Annotated[Access, needs(None)], rest: RestDep) -> Response:
    """Who is signed in, what they may do, and where else they are members."""
    person_id, _ = _person(access)
    with rest.db.reading() as tx:
        return answer(told(tx, person_id, access.organization_id))


@router.post("/auth/organization", response_model=MeOut)
def switch(body: Switch, access: Annotated[Access, needs(None)], rest: RestDep) -> Response:
    """Act for another organization of one's own from now on."""
    person_id, session_id = _person(access)
    with rest.db.transaction() as tx:
        if not sessions.switch(tx, session_id, body.organization_id):
            message = "you are no member of such an organization"
            refusal(Refused("not_found", message, "organization_id"))
        return answer(told(tx, person_id, body.organization_id))


@router.post("/auth/password", status_code=204)
def change_password(
    *,
    body: NewPassword,
    request: Request,
    access: Annotated[Access, needs(None)],
    rest: RestDep,
    guard: GuardDep,
) -> Response:
    """Change one's password; everywhere else one is signed out."""
    person_id, session_id = _person(access)
    email = access.actor.name
    guard.admit(request, email)
    if problem := passwords.password_problem(body.new):
        refusal(Refused("invalid", problem, "new"))
    with rest.db.reading() as tx:
        kept = tx.session.get_one(PersonRow, person_id).password_hash
    if not passwords.matches(body.current, kept):
        guard.failed(request, email)
        refusal(Refused("invalid", "this is not your password", "current"))
    renewed = passwords.hashed(body.new)
    with rest.db.transaction() as tx:
        if not people.keep(tx, person_id, renewed, instead_of=kept):
            refusal(Refused("conflict", "your password was changed in the meantime"))
        sessions.revoke_others(tx, person_id, session_id)
        audit.record(
            tx,
            access.organization_id,
            actor=access.actor,
            action="person.password",
            subject=person_id,
        )
    return Response(status_code=204)


@router.get("/auth/sessions", response_model=Listed[SessionOut])
def list_sessions(access: Annotated[Access, needs(None)], rest: RestDep, page: PageDep) -> Response:
    """Where one is signed in, the latest used first."""
    person_id, session_id = _person(access)
    with rest.db.reading() as tx:
        rows = sessions.listing(tx, person_id)
        shown = rows[page.offset : page.offset + page.limit]
        return listed([_session(row, session_id) for row in shown], len(rows), page)


@router.delete("/auth/sessions/{session_id}", status_code=204)
def end_session(session_id: Id, access: Annotated[Access, needs(None)], rest: RestDep) -> Response:
    """Sign oneself out somewhere."""
    person_id, _ = _person(access)
    with rest.db.transaction() as tx:
        if not sessions.revoke(tx, person_id, session_id):
            refusal(Refused("not_found", "you are not signed in there"))
    return Response(status_code=204)


def _signed_up(
    tx: Tx, body: SignUp, password_hash: str, request: Request, rest: RestDep
) -> tuple[str, str] | Refused:
    """The ids of the new person and their organization."""
    actor = Actor(people.normalised(body.email), request_id_of(request))
    if body.invitation is not None:
        person_id = people.create(tx, body.email, password_hash)
        if person_id is None:
            return members.KNOWN_ADDRESS
        return invitations.accept(tx, body.invitation, person_id, actor=actor)
    if body.organization_name is None:
        return Refused("invalid", "Which organization is it?", "organization_name")
    return founding.sign_up(
        tx,
        rest.settings.signup,
        actor=actor,
        password_hash=password_hash,
        organization_name=body.organization_name.strip(),
    )


def _refreshed(request: Request, rest: RestDep) -> tuple[Tokens, MeOut] | None:
    with rest.db.transaction() as tx:
        tokens = sessions.refresh(tx, request.cookies.get(REFRESH_COOKIE, ""))
        if tokens is None:
            return None  # a session that was ended for it stays so
        found = sessions.authenticate(tx, tokens.access_token)
        return None if found is None else (tokens, told(tx, found.person_id, found.organization_id))


def _person(access: Access) -> tuple[str, str]:
    """The ids of the person who signed in and of the session."""
    if access.person_id is None or access.session_id is None:
        raise RequestRefused(403, "forbidden", "an API key is no person; sign in")
    return access.person_id, access.session_id


def _session(row: SessionRow, current: str) -> SessionOut:
    return SessionOut(
        id=row.id,
        address=row.address,
        user_agent=row.user_agent,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.refresh_expires_at,
        current=row.id == current,
    )
