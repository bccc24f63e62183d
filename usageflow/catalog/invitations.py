"""Invitations: how others than the first owner come into an organization, by a link, once.

A link is for one e-mail address. It is mailed, and shown once to whoever invites, so that it works
without mail. Only the SHA-256 of its token is kept. Who has been let in is `members`.
"""

import hashlib
import secrets
from datetime import timedelta
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement
from sqlmodel import col, select

from usageflow.catalog import audit, members, people
from usageflow.catalog.audit import Actor
from usageflow.catalog.listings import paged
from usageflow.catalog.members import KNOWN_ADDRESS, OWNER
from usageflow.catalog.passwords import hashed, password_problem
from usageflow.catalog.permissions import Permissions
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db import outbox
from usageflow.db.ids import new_id
from usageflow.db.session import Database, Tx
from usageflow.db.tables import InvitationRow, MemberRow, OrganizationRow, PersonRow

LIFE: Final = timedelta(hours=48)
"""Of a link (product documents: one active per address, expires after 48 hours)."""
PATH: Final = "/invite"
NO_INVITATION: Final = Refused("not_found", "there is no such open invitation")
NO_LINK: Final = Refused(
    "not_found", "this invitation was used already, is older than 48 hours, or was revoked"
)
WRONG_PASSWORD: Final = Refused(
    "forbidden", "this is not the password of the account that was invited", "password"
)
OTHER_ADDRESS: Final = Refused("forbidden", "this invitation is for another e-mail address")


class Invited(NamedTuple):
    """An invitation just made. `link` exists here and in its mail only."""

    invitation: InvitationRow
    link: str


class Offer(NamedTuple):
    """Whom a link is for, and what it makes of them. `organization`: as people call it."""

    email: str
    role: str
    organization: str
    has_account: bool


class Joined(NamedTuple):
    """Who came in, and where."""

    person_id: str
    organization_id: str


def invite(
    tx: Tx,
    organization_id: str,
    *,
    email: str,
    role: str,
    may: Permissions,
    base_url: str,
    actor: Actor,
) -> Invited | Refused:
    """Invite an address, and mail the link. `may`: what whoever invites is permitted.

    One that nobody took in time makes room for a new one.
    """
    address = people.normalised(email)
    if problem := people.email_problem(address):
        return Refused("invalid", problem, "email")
    if role == OWNER and "members.owners" not in may:
        return Refused("forbidden", "only an owner may invite another", "role")
    take_turn(tx, organization_id)
    if refused := _in_the_way(tx, organization_id, address):
        return refused
    token = secrets.token_urlsafe(32)
    invitation = InvitationRow(
        id=new_id("invite"),
        organization_id=organization_id,
        email=address,
        role=role,
        token_hash=_hash(token),
        invited_by=actor.name,
        created_at=tx.now,
        expires_at=tx.now + LIFE,
    )
    tx.session.add(invitation)
    link = f"{base_url.rstrip('/')}{PATH}?token={token}"
    _mail(tx, invitation, link)
    _record(tx, invitation, "invitation.create", actor)
    return Invited(invitation, link)


def offer(tx: Tx, token: str) -> Offer | None:
    """What a link offers, while it can be used."""
    found = _find(tx, col(InvitationRow.token_hash) == _hash(token))
    if found is None:
        return None
    return Offer(
        email=found.email,
        role=found.role,
        organization=_name(tx, found.organization_id),
        has_account=people.find(tx, found.email) is not None,
    )


def accept(tx: Tx, token: str, person_id: str, *, actor: Actor) -> Joined | Refused:
    """Let the person in who was invited. The link is used up."""
    found = _held(tx, token)
    if found is None:
        return NO_LINK
    person = tx.session.get_one(PersonRow, person_id)
    if person.email != found.email:
        return OTHER_ADDRESS
    found.accepted_at = tx.now
    _record(tx, found, "invitation.accept", actor)
    members.join(tx, found.organization_id, person_id, found.role, actor=actor)
    return Joined(person_id, found.organization_id)


def accept_with_password(
    db: Database, token: str, password: str, *, request_id: str | None = None
) -> Joined | Refused:
    """Let in who has a link and the password of its address; who has no account gets one with it.

    Opens its own transactions, because hashing must not happen in one.
    """
    with db.reading() as tx:
        offered = offer(tx, token)
    if offered is None:
        return NO_LINK
    email, password_hash = offered.email, ""
    if offered.has_account:
        person_id = people.recognised(db, email, password)
        if person_id is None:
            return WRONG_PASSWORD
    else:
        if problem := password_problem(password):
            return Refused("invalid", problem, "password")
        person_id, password_hash = None, hashed(password)
    with db.transaction() as tx:
        if _held(tx, token) is None:  # it was used in the meantime: no account is made
            return NO_LINK
        person_id = person_id or people.create(tx, email, password_hash)
        if person_id is None:
            return KNOWN_ADDRESS
        return accept(tx, token, person_id, actor=Actor(email, request_id))


def revoke(tx: Tx, organization_id: str, invitation_id: str, *, actor: Actor) -> Refused | None:
    """Take an open invitation back: its link works no more."""
    found = _find(
        tx,
        col(InvitationRow.organization_id) == organization_id,
        col(InvitationRow.id) == invitation_id,
        hold=True,
    )
    if found is None:
        return NO_INVITATION
    found.revoked_at = tx.now
    _record(tx, found, "invitation.revoke", actor)
    return None


def listing(
    tx: Tx, organization_id: str, *, offset: int, limit: int
) -> tuple[list[InvitationRow], int]:
    """The open invitations of an organization, newest first, and how many there are in all."""
    ours = col(InvitationRow.organization_id) == organization_id
    newest = (col(InvitationRow.created_at).desc(), col(InvitationRow.id))
    statement = select(InvitationRow).where(ours, *_open(tx)).order_by(*newest)
    return paged(tx, statement, offset=offset, limit=limit)


def _in_the_way(tx: Tx, organization_id: str, email: str) -> Refused | None:
    """Why this address cannot be invited now; an invitation that is too old is taken back."""
    member = tx.session.exec(
        select(MemberRow.id)
        .join(PersonRow, col(PersonRow.id) == MemberRow.person_id)
        .where(col(MemberRow.organization_id) == organization_id, col(PersonRow.email) == email)
    ).one_or_none()
    if member is not None:
        return Refused("conflict", f"{email} is a member already", "email")
    invited = tx.session.exec(
        select(InvitationRow).where(
            col(InvitationRow.organization_id) == organization_id,
            col(InvitationRow.email) == email,
            col(InvitationRow.accepted_at).is_(None),
            col(InvitationRow.revoked_at).is_(None),
        )
    ).one_or_none()
    if invited is None:
        return None
    if invited.expires_at > tx.now:
        return Refused("conflict", f"{email} has an open invitation; revoke it first", "email")
    invited.revoked_at = tx.now
    tx.session.flush()  # before the new one, which takes its place in the index
    return None


def _held(tx: Tx, token: str) -> InvitationRow | None:
    return _find(tx, col(InvitationRow.token_hash) == _hash(token), hold=True)


def _find(tx: Tx, *which: ColumnElement[bool], hold: bool = False) -> InvitationRow | None:
    """An open invitation; whoever else wants to `hold` it waits until the transaction ends."""
    statement = select(InvitationRow).where(*which, *_open(tx))
    return tx.session.exec(statement.with_for_update() if hold else statement).one_or_none()


def _open(tx: Tx) -> tuple[ColumnElement[bool], ...]:
    return (
        col(InvitationRow.accepted_at).is_(None),
        col(InvitationRow.revoked_at).is_(None),
        col(InvitationRow.expires_at) > tx.now,
    )


def _mail(tx: Tx, invitation: InvitationRow, link: str) -> None:
    name = _name(tx, invitation.organization_id)
    outbox.post(
        tx,
        invitation.organization_id,
        recipient=invitation.email,
        subject=f"Join {name} on UsageFlow",
        text=(
            f"{invitation.invited_by} invites you to {name} on UsageFlow, as {invitation.role}.\n\n"
            f"Open this link within 48 hours to accept:\n\n{link}\n\n"
            f"If you did not expect this, do nothing.\n"
        ),
    )


def _name(tx: Tx, organization_id: str) -> str:
    row = tx.session.get_one(OrganizationRow, organization_id)
    return row.display_name or row.name


def _record(tx: Tx, invitation: InvitationRow, action: str, actor: Actor) -> None:
    audit.record(
        tx,
        invitation.organization_id,
        actor=actor,
        action=action,
        subject=invitation.id,
        after={"email": invitation.email, "role": invitation.role},
    )


def _hash(token: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
