"""Stored policies: versions that are only ever added, and which of them are in use.

What a policy means is `usageflow.policies`'s; here it is a document with a name. Only the latest
version of a name can be in use.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import tuple_
from sqlmodel import col, func, select

from usageflow.catalog import metrics
from usageflow.db.session import Tx
from usageflow.db.tables import OrganizationRow, PolicyRow
from usageflow.policies.document import canonical
from usageflow.policies.models import Metric, Policy


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing changed: names of policies, and of metrics that were created, in order."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    metrics: tuple[str, ...]


class CurrentPolicies(NamedTuple):
    """The policies in use as (canonical JSON, version), by name, and a strong ETag of them all."""

    items: list[tuple[str, str]]
    etag: str


def publish(
    tx: Tx, organization_id: str, policies: Sequence[Policy], declared: Sequence[Metric] = ()
) -> Published:
    """Make exactly these the policies in use, and create the metrics they name.

    `declared` metrics get the name and the unit they are declared with.

    A policy whose document changed gets the next version; one that did not keeps its own, also
    after it was out of use. Publishing the same set again changes nothing.
    """
    stored = _latest(tx, organization_id)
    before = {name for name, row in stored.items() if row.active}
    wanted = {policy.name: canonical(policy).decode() for policy in policies}
    renewed = set()
    for name, document in wanted.items():
        row = stored.get(name)
        if row is not None and row.document == document:
            row.active = True
            continue
        if row is not None:
            row.active = False
        tx.session.add(_version(tx, organization_id, name, document, after=row))
        renewed.add(name)
    for name in before - wanted.keys():
        stored[name].active = False
    tx.session.flush()
    made = metrics.describe(tx, organization_id, declared)
    made += metrics.create(tx, organization_id, {policy.metric for policy in policies})
    return Published(
        added=tuple(sorted(wanted.keys() - before)),
        changed=tuple(sorted(renewed & before)),
        removed=tuple(sorted(before - wanted.keys())),
        unchanged=tuple(sorted((wanted.keys() & before) - renewed)),
        metrics=tuple(sorted(made)),
    )


def current(tx: Tx, organization_id: str) -> CurrentPolicies:
    """The policies in use, in the order of their names."""
    rows = tx.session.exec(
        select(PolicyRow.document, PolicyRow.version)
        .where(col(PolicyRow.organization_id) == organization_id, col(PolicyRow.active))
        .order_by(col(PolicyRow.name))
    )
    items = [(document, str(version)) for document, version in rows]
    return CurrentPolicies(items, f'"{hashlib.sha256(repr(items).encode()).hexdigest()[:32]}"')


def versions(
    tx: Tx, organization_id: str, name: str, *, offset: int, limit: int
) -> tuple[list[PolicyRow], int]:
    """Versions of a policy, the newest first, and how many there are."""
    mine = col(PolicyRow.organization_id) == organization_id, col(PolicyRow.name) == name
    rows = tx.session.exec(
        select(PolicyRow)
        .where(*mine)
        .order_by(col(PolicyRow.version).desc())
        .offset(offset)
        .limit(limit)
    ).all()
    total = tx.session.exec(select(func.count()).select_from(PolicyRow).where(*mine)).one()
    return list(rows), total


def version(tx: Tx, organization_id: str, name: str, number: int) -> PolicyRow | None:
    """One version of a policy."""
    return tx.session.get(PolicyRow, (organization_id, name, number))


def _latest(tx: Tx, organization_id: str) -> dict[str, PolicyRow]:
    """The latest version of each policy; other publishers wait until this transaction ends."""
    ours = col(PolicyRow.organization_id) == organization_id
    tx.session.exec(
        select(OrganizationRow.id)
        .where(OrganizationRow.id == organization_id)
        .with_for_update(key_share=True)
    ).one()
    newest = (
        select(PolicyRow.name, func.max(PolicyRow.version)).where(ours).group_by(PolicyRow.name)
    )
    rows = tx.session.exec(
        select(PolicyRow).where(
            ours, tuple_(col(PolicyRow.name), col(PolicyRow.version)).in_(newest)
        )
    )
    return {row.name: row for row in rows}


def _version(
    tx: Tx, organization_id: str, name: str, document: str, *, after: PolicyRow | None
) -> PolicyRow:
    return PolicyRow(
        organization_id=organization_id,
        name=name,
        version=after.version + 1 if after else 1,
        document=document,
        active=True,
        created_at=tx.now,
    )
