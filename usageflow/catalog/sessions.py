"""Sessions: a person signed in, acting for one of their organizations.

Two random tokens prove it, of which only hashes are kept: the access token of every request, with a
short life, and the refresh token, which is exchanged for new ones. Who shows a refresh token again
that was exchanged has a stolen copy, or is who it was stolen from: the session ends. Passwords and
cookies are not known here.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement
from sqlalchemy import select as sa_select
from sqlmodel import col, delete, or_, select, update

from usageflow.db.ids import new_id
from usageflow.db.session import Tx
from usageflow.db.tables import MemberRow, PersonRow, SessionRow

ACCESS_LIFE: Final = timedelta(minutes=15)
"""Of an access token (product documents: fluxrate-quickstart)."""
REFRESH_LIFE: Final = timedelta(days=7)
"""Of a refresh token: who is away for longer signs in again."""
SESSION_LIFE: Final = timedelta(days=30)
"""Of a session, however often it is refreshed."""
TOKEN_BYTES: Final = 32
USER_AGENT_CHARS_MAX: Final = 200
"""Enough to recognise one's browser in a list."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a browser keeps of a session, and for how long. They exist here only."""

    session_id: str
    access_token: str
    refresh_token: str
    access_life: timedelta
    refresh_life: timedelta

    def __repr__(self) -> str:
        return f"Tokens({self.session_id})"


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who a request is from: a person, and their role in the organization they act for."""

    session_id: str
    person_id: str
    email: str
    organization_id: str
    role: str


def begin(
    tx: Tx, person_id: str, organization_id: str, *, address: str = "", user_agent: str = ""
) -> Tokens:
    """Sign a person in, for an organization; their sessions that are over are forgotten."""
    tx.session.exec(
        delete(SessionRow).where(
            col(SessionRow.person_id) == person_id,
            or_(
                col(SessionRow.refresh_expires_at) <= tx.now,
                col(SessionRow.revoked_at).is_not(None),
            ),
        )
    )
    session = SessionRow(
        id=new_id("ses"),
        person_id=person_id,
        organization_id=organization_id,
        created_at=tx.now,
        address=address,
        user_agent=user_agent[:USER_AGENT_CHARS_MAX],
    )
    tokens = _renew(session, tx.now)
    tx.session.add(session)
    return tokens


def refresh(tx: Tx, refresh_token: str) -> Tokens | None:
    """New tokens for a session; None if this is not, or no longer, its refresh token."""
    given = _hash(refresh_token)
    session = tx.session.exec(
        select(SessionRow)
        .where(
            or_(col(SessionRow.refresh_hash) == given, col(SessionRow.refresh_used_hash) == given),
            col(SessionRow.revoked_at).is_(None),
        )
        .with_for_update()
    ).one_or_none()
    if session is None or session.refresh_expires_at <= tx.now:
        return None
    if session.refresh_hash != given:
        session.revoked_at = tx.now
        return None
    session.refresh_used_hash = given
    return _renew(session, tx.now)


def authenticate(tx: Tx, access_token: str) -> SignedIn | None:
    """Who has this access token; None if it is over, or the person is no member any more."""
    found = tx.session.execute(
        sa_select(
            col(SessionRow.id),
            col(PersonRow.id),
            col(PersonRow.email),
            col(MemberRow.organization_id),
            col(MemberRow.role),
        )
        .join(PersonRow, col(PersonRow.id) == SessionRow.person_id)
        .join(
            MemberRow,
            (col(MemberRow.person_id) == SessionRow.person_id)
            & (col(MemberRow.organization_id) == SessionRow.organization_id),
        )
        .where(
            col(SessionRow.access_hash) == _hash(access_token),
            col(SessionRow.access_expires_at) > tx.now,
            col(SessionRow.revoked_at).is_(None),
        )
    ).one_or_none()
    return None if found is None else SignedIn(*found)


def switch(tx: Tx, session_id: str, organization_id: str) -> bool:
    """Act for another of the person's organizations; False if they are no member of it."""
    switched = tx.session.exec(
        update(SessionRow)
        .where(
            col(SessionRow.id) == session_id,
            select(MemberRow.id)
            .where(
                col(MemberRow.person_id) == SessionRow.person_id,
                col(MemberRow.organization_id) == organization_id,
            )
            .exists(),
        )
        .values(organization_id=organization_id)
    )
    return switched.rowcount == 1


def listing(tx: Tx, person_id: str) -> list[SessionRow]:
    """Where a person is signed in, the latest used first."""
    return list(
        tx.session.exec(
            select(SessionRow)
            .where(
                col(SessionRow.person_id) == person_id,
                col(SessionRow.revoked_at).is_(None),
                col(SessionRow.refresh_expires_at) > tx.now,
            )
            .order_by(col(SessionRow.last_used_at).desc(), col(SessionRow.id))
        )
    )


def revoke(tx: Tx, person_id: str, session_id: str) -> bool:
    """Sign a person out somewhere; False if that is no live session of theirs."""
    return _revoke(tx, col(SessionRow.person_id) == person_id, col(SessionRow.id) == session_id)


def revoke_others(tx: Tx, person_id: str, session_id: str) -> bool:
    """Sign a person out everywhere but here; whether there was another."""
    return _revoke(tx, col(SessionRow.person_id) == person_id, col(SessionRow.id) != session_id)


def revoke_in(tx: Tx, person_id: str, organization_id: str) -> bool:
    """Sign a person out wherever they act for this organization; whether they did."""
    return _revoke(
        tx,
        col(SessionRow.person_id) == person_id,
        col(SessionRow.organization_id) == organization_id,
    )


def revoke_presented(tx: Tx, *tokens: str) -> bool:
    """Sign out whoever has one of these tokens, access or refresh, even if its life is over."""
    hashes = [_hash(token) for token in tokens]
    return _revoke(
        tx,
        or_(col(SessionRow.access_hash).in_(hashes), col(SessionRow.refresh_hash).in_(hashes)),
    )


def _revoke(tx: Tx, *which: ColumnElement[bool]) -> bool:
    revoked = tx.session.exec(
        update(SessionRow)
        .where(col(SessionRow.revoked_at).is_(None), *which)
        .values(revoked_at=tx.now)
    )
    return revoked.rowcount > 0


def _renew(session: SessionRow, now: datetime) -> Tokens:
    """Give a session new tokens, none of which outlives it."""
    left = session.created_at + SESSION_LIFE - now
    tokens = Tokens(
        session.id,
        access_token=secrets.token_urlsafe(TOKEN_BYTES),
        refresh_token=secrets.token_urlsafe(TOKEN_BYTES),
        access_life=min(ACCESS_LIFE, left),
        refresh_life=min(REFRESH_LIFE, left),
    )
    session.access_hash = _hash(tokens.access_token)
    session.access_expires_at = now + tokens.access_life
    session.refresh_hash = _hash(tokens.refresh_token)
    session.refresh_expires_at = now + tokens.refresh_life
    session.last_used_at = now
    return tokens


def _hash(token: str) -> str:
    """256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
