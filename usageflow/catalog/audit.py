"""The audit log: who changed what, when, and what it was before. Rows are never changed.

The entries of an organization are a chain: each keeps the SHA-256 of the one before and of itself,
so that `verify` finds an entry that was changed, left out or put in behind our back. Who can
rewrite the whole chain is found out by its head, which `usageflow audit verify` prints to be kept
elsewhere. What is worth an entry is not decided here.
"""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement
from sqlmodel import col, func, select, update

from usageflow.db.session import Tx
from usageflow.db.statements import insert
from usageflow.db.tables import AuditHeadRow, AuditRow

CLI: Final = "command line"
"""The actor of what is done by a command: whoever may use the database."""
SYSTEM: Final = "system"
"""The actor of what UsageFlow does by itself."""
VERIFIED_AT_ONCE: Final = 1_000
"""Entries in memory while a chain is verified."""

_encoder: Final = msgspec.json.Encoder(decimal_format="number")


class Actor(NamedTuple):
    """Who does something: a person's e-mail address or a key's name, and in which request."""

    name: str
    request_id: str | None = None


def record(
    tx: Tx,
    organization_id: str,
    *,
    actor: Actor | str,
    action: str,
    subject: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Note a change, in its transaction. `before` and `after` become JSON; no secrets in them.

    Call it last: on PostgreSQL the organization's other changes wait from here to the commit.
    """
    who = Actor(actor) if isinstance(actor, str) else actor
    entry = AuditRow(
        organization_id=organization_id,
        at=tx.now,
        actor=who.name,
        action=action,
        subject=subject,
        before=_json(before),
        after=_json(after),
        request_id=who.request_id,
    )
    entry.hash = _hash(_taken_head(tx, organization_id), entry)
    tx.session.add(entry)
    tx.session.exec(
        update(AuditHeadRow)
        .where(col(AuditHeadRow.organization_id) == organization_id)
        .values(hash=entry.hash)
    )
    tx.session.flush()  # numbered while the head is ours: the numbers are the order of the chain


def verify(tx: Tx, organization_id: str) -> str | None:
    """What is wrong with an organization's chain, by its first entry that does not follow.

    None if every entry is as it was written and none is missing. Entries from before there was a
    chain have no hash; they stand only at its beginning.
    """
    hash_before, entries = "", 0
    for entry in _chain(tx, organization_id):
        if entry.hash is None and not entries:
            continue
        if entry.hash != _hash(hash_before, entry):
            return (
                f"entry {entry.seq} ({entry.action} {entry.subject}, {entry.at:%Y-%m-%d %H:%M:%S} "
                f"UTC) does not follow: it was changed, or one before it is missing"
            )
        hash_before, entries = entry.hash, entries + 1
    ended = head(tx, organization_id)
    if ended != (hash_before, entries):
        return f"the last entries are missing: {entries} are left of {ended[1]}"
    return None


def head(tx: Tx, organization_id: str) -> tuple[str, int]:
    """The end of an organization's chain: the hash of its last entry, and how many it has."""
    found = tx.session.exec(
        select(AuditHeadRow.hash, AuditHeadRow.entries).where(
            AuditHeadRow.organization_id == organization_id
        )
    ).one_or_none()
    return ("", 0) if found is None else found


def listing(
    tx: Tx,
    organization_id: str,
    *,
    action: str | None = None,
    subject: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    offset: int,
    limit: int,
) -> tuple[list[AuditRow], int]:
    """Entries, newest first, and how many there are in all. `action` is a prefix: `plan.`."""
    wanted: list[ColumnElement[bool]] = [col(AuditRow.organization_id) == organization_id]
    if action is not None:
        wanted.append(col(AuditRow.action).startswith(action, autoescape=True))
    if subject is not None:
        wanted.append(col(AuditRow.subject) == subject)
    if actor is not None:
        wanted.append(col(AuditRow.actor) == actor)
    if since is not None:
        wanted.append(col(AuditRow.at) >= since)
    rows = tx.session.exec(
        select(AuditRow)
        .where(*wanted)
        .order_by(col(AuditRow.seq).desc())
        .offset(offset)
        .limit(limit)
    ).all()
    total = tx.session.exec(select(func.count()).select_from(AuditRow).where(*wanted)).one()
    return list(rows), total


def _taken_head(tx: Tx, organization_id: str) -> str:
    """The hash at the end of the chain, which is ours until the transaction ends."""
    taken = (
        insert(tx, AuditHeadRow)
        .values(organization_id=organization_id, hash="", entries=1)
        .on_conflict_do_update(
            index_elements=["organization_id"], set_={"entries": AuditHeadRow.entries + 1}
        )
        .returning(col(AuditHeadRow.hash))
    )
    return str(tx.session.execute(taken).scalar_one())


def _chain(tx: Tx, organization_id: str) -> Iterator[AuditRow]:
    """An organization's entries in order, some at a time."""
    after: int | None = 0
    while rows := tx.session.exec(
        select(AuditRow)
        .where(col(AuditRow.organization_id) == organization_id, col(AuditRow.seq) > after)
        .order_by(col(AuditRow.seq))
        .limit(VERIFIED_AT_ONCE)
    ).all():
        yield from rows
        after = rows[-1].seq


def _hash(hash_before: str, entry: AuditRow) -> str:
    """SHA-256 over the hash before and the entry as a JSON array, which has one spelling."""
    content = _encoder.encode(
        [
            hash_before,
            entry.organization_id,
            entry.at,
            entry.actor,
            entry.action,
            entry.subject,
            entry.before,
            entry.after,
            entry.request_id,
        ]
    )
    return hashlib.sha256(content).hexdigest()


def _json(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else _encoder.encode(values).decode()
