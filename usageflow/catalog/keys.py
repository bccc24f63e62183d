"""API keys: made once, shown once, kept as a hash; checked on every request of an edge."""

import hashlib
import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlmodel import col, select, update

from usageflow.db.session import Tx
from usageflow.db.tables import ApiKeyRow
from usageflow.errors import ConfigurationError

SCOPES: Final = ("usage.write", "usage.read", "policies.write", "metrics.read")
"""What a key may be allowed to do."""
PREFIX_CHARS: Final = 12
"""How much of a key is shown afterwards: `uf_live_` and four characters of 48."""

_FORM: Final = re.compile(r"uf_live_[0-9a-f]{48}")


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


def create_key(tx: Tx, organization_id: str, name: str, scopes: Sequence[str]) -> NewKey:
    """Make a key. Raises ConfigurationError for no scope or an unknown one."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        wrong = f"unknown scope {unknown[0]!r}" if unknown else "a key needs a scope"
        raise ConfigurationError(f"{wrong}; there are {', '.join(SCOPES)}")
    secret = f"uf_live_{secrets.token_hex(24)}"
    api_key = ApiKeyRow(
        id=str(uuid.uuid4()),
        organization_id=organization_id,
        name=name,
        prefix=secret[:PREFIX_CHARS],
        key_hash=_hash(secret),
        scopes=" ".join(sorted(set(scopes))),
        created_at=tx.now,
    )
    tx.session.add(api_key)
    tx.session.flush()
    tx.session.expunge(api_key)  # it is read after the transaction
    return NewKey(secret, api_key)


def authenticate(tx: Tx, secret: str, scope: str) -> Caller | Refusal:
    """Whose key this is, if it is good for `scope`. Reads only."""
    if not _FORM.fullmatch(secret):
        return Refusal("invalid_api_key", "not a UsageFlow API key: uf_live_ and 48 hex digits")
    found = tx.session.exec(
        select(ApiKeyRow).where(col(ApiKeyRow.key_hash) == _hash(secret))
    ).one_or_none()
    if found is None:
        return Refusal("invalid_api_key", "this API key is not known here")
    if found.revoked_at is not None:
        return Refusal("invalid_api_key", f"API key {found.name!r} was revoked")
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
    return list(
        tx.session.exec(
            select(ApiKeyRow)
            .where(col(ApiKeyRow.organization_id) == organization_id)
            .order_by(col(ApiKeyRow.created_at), col(ApiKeyRow.id))
        )
    )


def revoke(tx: Tx, organization_id: str, key: str) -> bool:
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
    return bool(found)


def _hash(secret: str) -> str:
    """192 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
