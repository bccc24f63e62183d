"""API keys: made once, shown once, kept as a hash; checked on every request of an edge.

What a scope allows is `permissions`; how a key comes with a request is `api.access`.
"""

import hashlib
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlmodel import col, func, select, update
from sqlmodel.sql.expression import SelectOfScalar

from usageflow.catalog import audit
from usageflow.catalog.audit import Actor
from usageflow.catalog.permissions import SCOPES, Permissions, of_scopes
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.tables import ApiKeyRow
from usageflow.errors import ConfigurationError

KeyKind = Literal["uf_live", "org_live"]
"""What a key begins with: made by a command, or over the API."""
KeyStatus = Literal["ACTIVE", "EXPIRED", "REVOKED"]
PREFIX_CHARS: Final = {"uf_live": 12, "org_live": 13}
"""How much of a key is shown afterwards: what it begins with and four characters of 48."""
OVERLAP: Final = timedelta(hours=24)
"""How long a key that was replaced still works, if nothing else is said."""
OVERLAP_MAX: Final = timedelta(days=30)
"""A key that should work for longer is not being replaced."""

_FORM: Final = re.compile(r"(?:uf|org)_live_[0-9a-f]{48}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `secret` exists here only; it cannot be shown again."""

    secret: str
    api_key: ApiKeyRow

    def __repr__(self) -> str:
        return f"NewKey({self.api_key.prefix}...)"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who holds the key of a request."""

    organization_id: str
    key_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a key is not good enough. `code`: invalid_api_key or insufficient_scope."""

    code: str
    message: str


def create_key(
    tx: Tx,
    organization_id: str,
    name: str,
    scopes: Sequence[str],
    *,
    kind: KeyKind = "uf_live",
    expires_at: datetime | None = None,
    actor: Actor | str = audit.CLI,
) -> NewKey:
    """Make a key. Raises ConfigurationError for no scope or an unknown one."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        wrong = f"unknown scope {unknown[0]!r}" if unknown else "a key needs a scope"
        raise ConfigurationError(f"{wrong}; there are {', '.join(SCOPES)}")
    secret = f"{kind}_{secrets.token_hex(24)}"
    api_key = ApiKeyRow(
        id=str(uuid.uuid4()),
        organization_id=organization_id,
        name=name,
        prefix=secret[: PREFIX_CHARS[kind]],
        key_hash=_hash(secret),
        scopes=" ".join(sorted(set(scopes))),
        created_at=tx.now,
        expires_at=expires_at,
    )
    tx.session.add(api_key)
    tx.session.flush()
    tx.session.expunge(api_key)  # it is read after the transaction
    after = {"name": name, "scopes": api_key.scopes, "expires_at": expires_at}
    _record(tx, api_key, "api_key.create", actor, after=after)
    return NewKey(secret, api_key)


def beyond(scopes: Sequence[str], may: Permissions) -> Refused | None:
    """Why somebody who `may` so much cannot be given a key with these scopes, None if they can."""
    if not (lacking := sorted(of_scopes(scopes) - may)):
        return None
    message = f"you cannot give what you do not have: {', '.join(lacking)}"
    return Refused("forbidden", message, "scopes")


def rotate(
    tx: Tx,
    organization_id: str,
    key_id: str,
    overlap: timedelta = OVERLAP,
    *,
    expires_at: datetime | None = None,
    may: Permissions,
    actor: Actor | str,
) -> NewKey | Refused:
    """A new key of the same name, scopes and kind; the old one works for `overlap` more.

    `may`: what whoever gets the new one is permitted.
    """
    old = tx.session.exec(
        select(ApiKeyRow)
        .where(col(ApiKeyRow.organization_id) == organization_id, col(ApiKeyRow.id) == key_id)
        .with_for_update()
    ).one_or_none()
    if old is None:
        return Refused("not_found", "there is no such API key")
    if (found := status(old, tx.now)) != "ACTIVE":
        return Refused("conflict", f"API key {old.name!r} is {found.lower()}; make a new one")
    if refused := beyond(old.scopes.split(), may):
        return refused
    new = create_key(
        tx,
        organization_id,
        old.name,
        old.scopes.split(),
        kind="org_live" if old.prefix.startswith("org_") else "uf_live",
        expires_at=expires_at,
        actor=actor,
    )
    ends = tx.now + overlap
    old.expires_at = ends if old.expires_at is None else min(ends, old.expires_at)
    after = {"replaced_by": new.api_key.id, "expires_at": old.expires_at}
    _record(tx, old, "api_key.rotate", actor, after=after)
    return new


def status(key: ApiKeyRow, now: datetime) -> KeyStatus:
    """Whether a key works now."""
    if key.revoked_at is not None:
        return "REVOKED"
    return "EXPIRED" if key.expires_at is not None and key.expires_at <= now else "ACTIVE"


def lookup(tx: Tx, secret: str) -> ApiKeyRow | Refusal:
    """The key with this secret, if it works now, whatever it is good for. Reads only."""
    if not _FORM.fullmatch(secret):
        form = "uf_live_ or org_live_ and 48 hex digits"
        return Refusal("invalid_api_key", f"not a UsageFlow API key: {form}")
    found = tx.session.exec(
        select(ApiKeyRow).where(col(ApiKeyRow.key_hash) == _hash(secret))
    ).one_or_none()
    if found is None:
        return Refusal("invalid_api_key", "this API key is not known here")
    if (state := status(found, tx.now)) != "ACTIVE":
        was = "was revoked" if state == "REVOKED" else "has expired"
        return Refusal("invalid_api_key", f"API key {found.name!r} {was}")
    tx.session.expunge(found)  # it is read after the transaction
    return found


def authenticate(tx: Tx, secret: str, scope: str) -> Caller | Refusal:
    """Whose key this is, if it is good for `scope`. Reads only."""
    found = lookup(tx, secret)
    if isinstance(found, Refusal):
        return found
    if scope not in found.scopes.split():
        return Refusal("insufficient_scope", f"API key {found.name!r} lacks the scope {scope}")
    return Caller(found.organization_id, found.id, found.name)


def mark_used(tx: Tx, key_id: str) -> None:
    """Note that the key was used now."""
    tx.session.exec(
        update(ApiKeyRow).where(col(ApiKeyRow.id) == key_id).values(last_used_at=tx.now)
    )


def listing(tx: Tx, organization_id: str) -> list[ApiKeyRow]:
    """Every key of the organization, revoked ones too, oldest first."""
    return list(tx.session.exec(_of(organization_id)))


def page(tx: Tx, organization_id: str, *, offset: int, limit: int) -> tuple[list[ApiKeyRow], int]:
    """Some of `listing`, and how many there are in all."""
    rows = tx.session.exec(_of(organization_id).offset(offset).limit(limit)).all()
    total = tx.session.exec(
        select(func.count()).where(col(ApiKeyRow.organization_id) == organization_id)
    ).one()
    return list(rows), total


def revoke(tx: Tx, organization_id: str, key: str, *, actor: Actor | str = audit.CLI) -> bool:
    """Revoke the key with this id or shown prefix. False if no key in use has it.

    Raises ConfigurationError if several keys share the prefix; then the id tells them apart.
    """
    found = [
        row
        for row in listing(tx, organization_id)
        if row.revoked_at is None and key in (row.id, row.prefix)
    ]
    if len(found) > 1:
        raise ConfigurationError(f"{len(found)} keys begin with {key}; name one by its id")
    for row in found:
        row.revoked_at = tx.now
        tx.session.add(row)
        _record(tx, row, "api_key.revoke", actor)
    return bool(found)


def _of(organization_id: str) -> SelectOfScalar[ApiKeyRow]:
    return (
        select(ApiKeyRow)
        .where(col(ApiKeyRow.organization_id) == organization_id)
        .order_by(col(ApiKeyRow.created_at), col(ApiKeyRow.id))
    )


def _record(
    tx: Tx,
    key: ApiKeyRow,
    action: str,
    actor: Actor | str,
    *,
    after: Mapping[str, object] | None = None,
) -> None:
    audit.record(
        tx,
        key.organization_id,
        actor=actor,
        action=action,
        subject=key.id,
        before={"name": key.name, "prefix": key.prefix} if action != "api_key.create" else None,
        after=after,
    )


def _hash(secret: str) -> str:
    """192 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
