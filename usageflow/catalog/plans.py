"""Plans: what can be subscribed to. What one costs and grants is in its versions.

A version (`charges.Terms`) never changes: every change of terms makes the next one, and who
subscribed to another keeps that. What the terms come to in money is `billing`'s.
"""

from collections.abc import Callable, Collection
from dataclasses import replace as replaced
from functools import lru_cache
from typing import Any, Final, TypedDict, Unpack

import msgspec
from msgspec.structs import replace
from sqlalchemy import delete as deleting
from sqlalchemy import tuple_
from sqlmodel import col, or_, select

from usageflow.catalog import audit, charges, features, metrics, uses
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import Charge, Entitlement, Terms
from usageflow.catalog.listings import paged
from usageflow.catalog.refusals import Refused
from usageflow.catalog.turns import take_turn
from usageflow.db.billing_tables import PlanRow, PlanVersionRow
from usageflow.db.ids import new_id
from usageflow.db.session import Tx

TERMS_CACHED_MAX: Final = 1_000
"""Versions kept decoded: closing many periods needs few plans, again and again."""


class PlanNames(TypedDict, total=False):
    """What can change in a plan without touching its terms."""

    name: str
    lookup_id: str
    description: str
    is_active: bool


def find(tx: Tx, organization_id: str, plan: str) -> PlanRow | None:
    """The plan of this id, or of this lookup id."""
    found = tx.session.exec(
        select(PlanRow).where(
            col(PlanRow.organization_id) == organization_id,
            or_(col(PlanRow.id) == plan, col(PlanRow.lookup_id) == plan),
        )
    ).all()
    return next((row for row in found if row.id == plan), found[0] if found else None)


def listing(
    tx: Tx,
    organization_id: str,
    *,
    is_active: bool | None = None,
    search: str | None = None,
    offset: int,
    limit: int,
) -> tuple[list[PlanRow], int]:
    """Plans, newest first, and how many there are; `search` is a part of name or lookup id."""
    statement = select(PlanRow).where(col(PlanRow.organization_id) == organization_id)
    if is_active is not None:
        statement = statement.where(col(PlanRow.is_active) == is_active)
    if search is not None:
        texts = (col(PlanRow.name), col(PlanRow.lookup_id))
        statement = statement.where(
            or_(*(text.icontains(search, autoescape=True) for text in texts))
        )
    newest = (col(PlanRow.created_at).desc(), col(PlanRow.id).desc())
    return paged(tx, statement.order_by(*newest), offset=offset, limit=limit)


def version(tx: Tx, organization_id: str, plan_id: str, number: int) -> PlanVersionRow | None:
    """One version of a plan; None if there is none of this number."""
    return tx.session.exec(
        select(PlanVersionRow).where(
            col(PlanVersionRow.organization_id) == organization_id,
            col(PlanVersionRow.plan_id) == plan_id,
            col(PlanVersionRow.version) == number,
        )
    ).one_or_none()


def terms(tx: Tx, organization_id: str, plan_id: str, number: int) -> Terms | None:
    """What this version says; None if there is none."""
    found = version(tx, organization_id, plan_id, number)
    return None if found is None else decoded(found.document)


def terms_of_many(tx: Tx, pairs: Collection[tuple[str, int]]) -> dict[tuple[str, int], Terms]:
    """What versions (plan id, number) say, of whatever organizations: for those who bill."""
    rows = tx.session.exec(
        select(PlanVersionRow.plan_id, PlanVersionRow.version, PlanVersionRow.document).where(
            tuple_(col(PlanVersionRow.plan_id), col(PlanVersionRow.version)).in_(set(pairs))
        )
    )
    return {(plan_id, version): decoded(document) for plan_id, version, document in rows}


def versions(
    tx: Tx, organization_id: str, plan_id: str, *, offset: int, limit: int
) -> tuple[list[PlanVersionRow], int]:
    """The versions of a plan, newest first, and how many there are."""
    statement = select(PlanVersionRow).where(
        col(PlanVersionRow.organization_id) == organization_id,
        col(PlanVersionRow.plan_id) == plan_id,
    )
    newest = col(PlanVersionRow.version).desc()
    return paged(tx, statement.order_by(newest), offset=offset, limit=limit)


@lru_cache(maxsize=TERMS_CACHED_MAX)
def decoded(document: str) -> Terms:
    """The terms of a version's document."""
    return charges.decode(document)


def create(
    tx: Tx,
    organization_id: str,
    *,
    name: str,
    lookup_id: str,
    terms: Terms,
    description: str = "",
    is_active: bool = True,
    actor: Actor,
) -> PlanRow | Refused:
    """Make a plan and its first version. Metrics in `terms` may be named as `metrics.find` does."""
    take_turn(tx, organization_id)
    if refused := _taken(tx, organization_id, lookup_id):
        return refused
    checked = _checked(tx, organization_id, terms)
    if isinstance(checked, Refused):
        return checked
    row = PlanRow(
        id=new_id("plan"),
        organization_id=organization_id,
        lookup_id=lookup_id,
        name=name,
        description=description,
        is_active=is_active,
        version=0,
        created_at=tx.now,
        updated_at=tx.now,
    )
    _add_version(tx, row, checked)
    _record(tx, row, "plan.create", actor, after=_told(row) | _told_terms(1, checked))
    return row


def rename(
    tx: Tx, organization_id: str, plan: str, *, actor: Actor, **names: Unpack[PlanNames]
) -> PlanRow | Refused:
    """Change what is given of names and of whether the plan can be subscribed to."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, plan)
    if row is None:
        return unknown(plan)
    lookup_id = names.get("lookup_id", row.lookup_id)
    if lookup_id != row.lookup_id and (refused := _taken(tx, organization_id, lookup_id)):
        return refused
    before = _told(row)
    for column, value in names.items():
        setattr(row, column, value)
    if _told(row) != before:
        row.updated_at = tx.now
        _record(tx, row, "plan.change", actor, before=before, after=_told(row))
    return row


def amend(
    tx: Tx,
    organization_id: str,
    plan: str,
    edit: Callable[[Terms], Terms | Refused],
    *,
    action: str,
    actor: Actor,
    if_version: int | None = None,
) -> PlanRow | Refused:
    """Make the next version of what `edit` makes of the newest; none if that changes nothing.

    Two who edit one plan take turns, so neither loses what the other did. With `if_version` the
    edit is refused unless that is the newest version.
    """
    take_turn(tx, organization_id)
    row = find(tx, organization_id, plan)
    if row is None:
        return unknown(plan)
    if if_version not in (None, row.version):
        stale = f"the plan is at version {row.version}, not {if_version}; read it again"
        return Refused("conflict", stale, "if_version")
    before = _newest(tx, row)
    edited = edit(before)
    if isinstance(edited, Terms):
        edited = _checked(tx, organization_id, edited, before)
    if isinstance(edited, Refused):
        return edited
    if edited != before:
        told = _told_terms(row.version, before)
        _add_version(tx, row, edited)
        _record(tx, row, action, actor, before=told, after=_told_terms(row.version, edited))
    return row


def delete(tx: Tx, organization_id: str, plan: str, *, actor: Actor) -> Refused | None:
    """Delete a plan to which nobody ever subscribed, with its versions."""
    take_turn(tx, organization_id)
    row = find(tx, organization_id, plan)
    if row is None:
        return unknown(plan)
    if user := uses.of_plan(tx, organization_id, row.id):
        return Refused(
            "conflict",
            f"the plan {row.name} cannot be deleted: {user}; "
            "with is_active = false nobody can subscribe to it any more",
        )
    before = _told(row) | _told_terms(row.version, _newest(tx, row))
    _record(tx, row, "plan.delete", actor, before=before)
    tx.session.execute(deleting(PlanVersionRow).where(col(PlanVersionRow.plan_id) == row.id))
    tx.session.delete(row)
    tx.session.flush()
    return None


def unknown(plan: str, field: str | None = None) -> Refused:
    """There is no such plan; `field` if it is named in a body."""
    return Refused("not_found" if field is None else "invalid", f"there is no plan {plan}", field)


def _newest(tx: Tx, row: PlanRow) -> Terms:
    found = terms(tx, row.organization_id, row.id, row.version)
    assert found is not None  # noqa: S101 - a plan is added with its version
    return found


def _taken(tx: Tx, organization_id: str, lookup_id: str) -> Refused | None:
    found = find(tx, organization_id, lookup_id)
    if found is None:
        return None
    return Refused("conflict", f"the plan {found.name} has this lookup id", "lookup_id")


def _checked(
    tx: Tx, organization_id: str, terms: Terms, before: Terms | None = None
) -> Terms | Refused:
    """The terms with metrics by their keys and features by their ids, or what is wrong with them.

    What was there `before` is not asked for again: a feature may have been archived since.
    """
    priced: list[Charge] = []
    for index, charge in enumerate(terms.charges):
        if charge.metric is not None and (before is None or charge not in before.charges):
            metric = metrics.find(tx, organization_id, charge.metric)
            if metric is None:
                return metrics.unknown(charge.metric, f"charges[{index}].metric")
            charge = replace(charge, metric=metric.key)  # noqa: PLW2901 - the same, called rightly
        priced.append(charge)
    granted: list[Entitlement] = []
    for index, entitlement in enumerate(terms.entitlements):
        found: Entitlement | Refused = entitlement
        if before is None or entitlement not in before.entitlements:
            found = features.grantable(tx, organization_id, entitlement)
        if isinstance(found, Refused):
            return replaced(found, field=f"entitlements[{index}].{found.field}")
        granted.append(found)
    terms = replace(terms, charges=tuple(priced), entitlements=tuple(granted))
    for field, message in charges.problems(terms):
        return Refused("invalid", message, field)
    return terms


def _add_version(tx: Tx, row: PlanRow, terms: Terms) -> None:
    row.version += 1
    row.updated_at = tx.now
    tx.session.add(row)
    tx.session.flush()  # the version refers to it
    tx.session.add(
        PlanVersionRow(
            plan_id=row.id,
            version=row.version,
            organization_id=row.organization_id,
            document=charges.encode(terms),
            created_at=tx.now,
        )
    )
    tx.session.flush()


def _record(tx: Tx, row: PlanRow, action: str, actor: Actor, **told: dict[str, Any] | None) -> None:
    audit.record(
        tx,
        row.organization_id,
        actor=actor,
        action=action,
        subject=row.id,
        before=told.get("before"),
        after=told.get("after"),
    )


def _told(row: PlanRow) -> dict[str, Any]:
    """What the audit log keeps of a plan."""
    return {column: getattr(row, column) for column in PlanNames.__annotations__}


def _told_terms(version: int, terms: Terms) -> dict[str, Any]:
    return {"version": version, "terms": msgspec.Raw(charges.encode(terms).encode())}
