"""The people of an organization: how its owner, the first of them, comes in.

A link with a one-time token is all the right it takes, so the token is random, kept as a hash, of
limited life, and gone once used. What members may do later is not decided here.
"""

import hashlib
import secrets
import uuid
from datetime import timedelta
from typing import Final

from sqlmodel import col, delete, select, update

from usageflow.catalog.keys import NewKey, create_key
from usageflow.db.session import Tx
from usageflow.db.statements import insert
from usageflow.db.tables import MemberRow, OrganizationRow, PersonRow, SignupTokenRow

SIGNUP_LIFE: Final = timedelta(hours=48)
"""Long enough to come back to a machine that was set up on a Friday evening."""
EDGE_KEY_NAME: Final = "edge"


def open_signup(tx: Tx, organization_id: str) -> str | None:
    """A new token for the owner's sign-up, in place of the one before; None if there are members.

    It is 256 random bits as URL-safe text, good for SIGNUP_LIFE, and kept nowhere else.
    """
    if _has_members(tx, organization_id):
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
    tx: Tx, token: str, *, organization_name: str, email: str, password_hash: str
) -> NewKey | None:
    """Make the owner, name the organization, use up the token; a first key for an edge.

    None if the token cannot be used; of several at the same moment one succeeds.
    """
    organization_id = tx.session.scalar(
        delete(SignupTokenRow)
        .where(
            col(SignupTokenRow.token_hash) == _hash(token), col(SignupTokenRow.expires_at) > tx.now
        )
        .returning(col(SignupTokenRow.organization_id))
    )
    if organization_id is None or _has_members(tx, organization_id):
        return None
    tx.session.exec(
        update(OrganizationRow)
        .where(col(OrganizationRow.id) == organization_id)
        .values(display_name=organization_name)
    )
    person = PersonRow(
        id=str(uuid.uuid4()),
        email=email.lower(),
        password_hash=password_hash,
        created_at=tx.now,
    )
    tx.session.add(person)
    tx.session.flush()
    tx.session.add(
        MemberRow(
            id=str(uuid.uuid4()),
            organization_id=organization_id,
            person_id=person.id,
            role="OWNER",
            created_at=tx.now,
        )
    )
    return create_key(tx, organization_id, EDGE_KEY_NAME, ["usage.write"])


def _has_members(tx: Tx, organization_id: str) -> bool:
    return (
        tx.session.exec(
            select(MemberRow.id).where(col(MemberRow.organization_id) == organization_id).limit(1)
        ).first()
        is not None
    )


def _hash(token: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
