"""Members: the people of an organization and their roles, and how its first owner comes in.

An organization with people always has an owner, and owners are made, changed and removed by owners
alone. What else a role may do is `permissions`; how other people come in is `invitations`.

The first owner comes by a link. Its one-time token is all the right it takes, so it is random, kept
as a hash, of limited life, and gone once used.
"""

import hashlib
import secrets
import uuid
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import select as sa_select
from sqlmodel import col, delete, func, select, update

from usageflow.catalog import audit, people, sessions
from usageflow.catalog.audit import Actor
from usageflow.catalog.keys import NewKey, create_key
from usageflow.catalog.permissions import Permissions
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.statements import insert, insert_new
from usageflow.db.tables import (
    InvitationRow,
    MemberRow,
    OrganizationRow,
    PersonRow,
    SignupTokenRow,
)

SIGNUP_LIFE: Final = timedelta(hours=48)
"""Long enough to come back to a machine that was set up on a Friday evening."""
EDGE_KEY_NAME: Final = "edge"
OWNER: Final = "OWNER"
NO_LINK: Final = Refused("not_found", "this link was used already, is too old, or was replaced")
NO_MEMBER: Final = Refused("not_found", "there is no such member")
OWNERS_ALONE: Final = Refused("forbidden", "only an owner may make, change or remove an owner")
LAST_OWNER: Final = Refused("conflict", "an organization needs an owner: make another one first")
KNOWN_ADDRESS: Final = Refused(
    "conflict", "this address has an account already: sign in with it", "email"
)


class Member(NamedTuple):
    """A person in an organization."""

    id: str
    person_id: str
    email: str
    role: str
    created_at: datetime


class Membership(NamedTuple):
    """An organization of a person. `name` is what commands call it by."""

    organization_id: str
    name: str
    display_name: str | None
    role: str


def open_signup(tx: Tx, organization_id: str) -> str | None:
    """A new token for the owner's sign-up, in place of the one before; None if there are members.

    It is 256 random bits as URL-safe text, good for SIGNUP_LIFE, and kept nowhere else.
    """
    if has_members(tx, organization_id):
        return None
    token = secrets.token_urlsafe(32)
    values = {
        "token_hash": _hash(token),
        "created_at": tx.now,
        "expires_at": tx.now + SIGNUP_LIFE,
    }
    tx.session.execute(
        insert(tx, SignupTokenRow)
        .values(organization_id=organization_id, **values)
        .on_conflict_do_update(index_elements=["organization_id"], set_=values)
    )
    return token


def is_open(tx: Tx, token: str) -> bool:
    """Whether this token may still be used."""
    found = tx.session.exec(
        select(SignupTokenRow.expires_at).where(col(SignupTokenRow.token_hash) == _hash(token))
    ).one_or_none()
    return found is not None and tx.now < found


def sign_up(
    tx: Tx,
    token: str,
    *,
    organization_name: str,
    email: str,
    password_hash: str,
    request_id: str | None = None,
) -> NewKey | Refused:
    """Make the owner, name the organization, use up the token; a first key for an edge.

    Refused as `not_found` if the token cannot be used: of several at the same moment one succeeds.
    """
    link = tx.session.exec(
        select(SignupTokenRow)
        .where(
            col(SignupTokenRow.token_hash) == _hash(token), col(SignupTokenRow.expires_at) > tx.now
        )
        .with_for_update()
    ).one_or_none()
    if link is None or has_members(tx, link.organization_id):
        return NO_LINK
    person_id = people.create(tx, email, password_hash)
    if person_id is None:
        return KNOWN_ADDRESS
    tx.session.delete(link)
    organization_id = link.organization_id
    actor = Actor(people.normalised(email), request_id)
    own(tx, organization_id, person_id, organization_name=organization_name, actor=actor)
    return create_key(tx, organization_id, EDGE_KEY_NAME, ["usage.write"], actor=actor)


def own(
    tx: Tx, organization_id: str, person_id: str, *, organization_name: str, actor: Actor
) -> None:
    """Make a person the first owner of an organization, which gets its name from them."""
    tx.session.exec(
        update(OrganizationRow)
        .where(col(OrganizationRow.id) == organization_id)
        .values(display_name=organization_name)
    )
    join(tx, organization_id, person_id, OWNER, actor=actor)


def join(tx: Tx, organization_id: str, person_id: str, role: str, *, actor: Actor) -> bool:
    """Make a person a member; False if they are one."""
    member_id = str(uuid.uuid4())
    values = {
        "id": member_id,
        "organization_id": organization_id,
        "person_id": person_id,
        "role": role,
        "created_at": tx.now,
    }
    key = ["organization_id", "person_id"]
    if not insert_new(tx, MemberRow, [values], key=key, give="id"):
        return False
    after = {"person_id": person_id, "role": role}
    audit.record(
        tx, organization_id, actor=actor, action="member.join", subject=member_id, after=after
    )
    return True


def change_role(
    tx: Tx,
    organization_id: str,
    member_id: str,
    role: str,
    *,
    may: Permissions,
    actor: Actor,
) -> Member | Refused:
    """Give a member another role; their open invitations end.

    `may`: what whoever asks for it is permitted.
    """
    found = _touched(tx, organization_id, member_id, may)
    if isinstance(found, Refused):
        return found
    member, is_last_owner = found
    if role == OWNER and "members.owners" not in may:
        return OWNERS_ALONE
    if role != OWNER and is_last_owner:
        return LAST_OWNER
    tx.session.exec(update(MemberRow).where(col(MemberRow.id) == member_id).values(role=role))
    if role != member.role:
        _withdraw(tx, organization_id, member.email)
    audit.record(
        tx,
        organization_id,
        actor=actor,
        action="member.change",
        subject=member_id,
        before={"email": member.email, "role": member.role},
        after={"role": role},
    )
    return member._replace(role=role)


def remove(
    tx: Tx, organization_id: str, member_id: str, *, may: Permissions, actor: Actor
) -> Refused | None:
    """Remove a member, who is out at once, wherever they are signed in for this organization.

    Their open invitations end: they have seen the links.
    """
    found = _touched(tx, organization_id, member_id, may)
    if isinstance(found, Refused):
        return found
    member, is_last_owner = found
    if is_last_owner:
        return LAST_OWNER
    tx.session.exec(delete(MemberRow).where(col(MemberRow.id) == member_id))
    sessions.revoke_in(tx, member.person_id, organization_id)
    _withdraw(tx, organization_id, member.email)
    audit.record(
        tx,
        organization_id,
        actor=actor,
        action="member.remove",
        subject=member_id,
        before={"email": member.email, "role": member.role},
    )
    return None


def listing(tx: Tx, organization_id: str, *, offset: int, limit: int) -> tuple[list[Member], int]:
    """The members of an organization, oldest first, and how many there are in all."""
    rows = tx.session.execute(
        _MEMBERS.where(col(MemberRow.organization_id) == organization_id)
        .order_by(col(MemberRow.created_at), col(MemberRow.id))
        .offset(offset)
        .limit(limit)
    )
    total = tx.session.exec(
        select(func.count()).where(col(MemberRow.organization_id) == organization_id)
    ).one()
    return [Member(*row) for row in rows], total


def memberships(tx: Tx, person_id: str) -> list[Membership]:
    """The organizations of a person, the first they joined first."""
    rows = tx.session.execute(
        sa_select(
            col(OrganizationRow.id),
            col(OrganizationRow.name),
            col(OrganizationRow.display_name),
            col(MemberRow.role),
        )
        .join(MemberRow, col(MemberRow.organization_id) == OrganizationRow.id)
        .where(col(MemberRow.person_id) == person_id)
        .order_by(col(MemberRow.created_at), col(MemberRow.id))
    )
    return [Membership(*row) for row in rows]


def has_members(tx: Tx, organization_id: str) -> bool:
    """Whether an organization has people at all."""
    ours = select(MemberRow.id).where(col(MemberRow.organization_id) == organization_id)
    return tx.session.exec(ours.limit(1)).first() is not None


_MEMBERS: Final = sa_select(
    col(MemberRow.id),
    col(PersonRow.id),
    col(PersonRow.email),
    col(MemberRow.role),
    col(MemberRow.created_at),
).join(PersonRow, col(PersonRow.id) == MemberRow.person_id)


def _touched(
    tx: Tx, organization_id: str, member_id: str, may: Permissions
) -> tuple[Member, bool] | Refused:
    """A member somebody wants to change, and whether that is the last owner.

    Until the transaction ends, whoever else wants to change one waits: two owners who leave at the
    same moment do so one after the other.
    """
    owners = tx.session.exec(
        select(MemberRow.id)
        .where(col(MemberRow.organization_id) == organization_id, col(MemberRow.role) == OWNER)
        .order_by(col(MemberRow.id))
        .with_for_update()
    ).all()
    row = tx.session.execute(
        _MEMBERS.where(
            col(MemberRow.organization_id) == organization_id, col(MemberRow.id) == member_id
        )
    ).one_or_none()
    if row is None:
        return NO_MEMBER
    member = Member(*row)
    if member.role == OWNER and "members.owners" not in may:
        return OWNERS_ALONE
    return member, list(owners) == [member.id]


def _withdraw(tx: Tx, organization_id: str, email: str) -> None:
    """End the open invitations of whoever may not invite any more, or not to as much."""
    tx.session.exec(
        update(InvitationRow)
        .where(
            col(InvitationRow.organization_id) == organization_id,
            col(InvitationRow.invited_by) == email,
            col(InvitationRow.accepted_at).is_(None),
            col(InvitationRow.revoked_at).is_(None),
        )
        .values(revoked_at=tx.now)
    )


def _hash(token: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
