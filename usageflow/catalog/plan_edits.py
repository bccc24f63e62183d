"""Changes of a plan's terms: its prices, its charges, what it entitles to.

Each makes the next version through `plans.amend` and returns the plan, or why not.
"""

import re
from collections.abc import Callable
from dataclasses import replace as replaced
from decimal import Decimal
from typing import Final, TypedDict, Unpack

from msgspec.structs import replace

from usageflow.catalog import features, plans
from usageflow.catalog.audit import Actor
from usageflow.catalog.charges import (
    Charge,
    Collect,
    Entitlement,
    Model,
    Payment,
    PlanType,
    Terms,
    Tier,
)
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow
from usageflow.db.session import Tx
from usageflow.periods import Alignment

_PLACE: Final = re.compile(r"^(charges|entitlements)\[\d+\]\.")


class TermsChanges(TypedDict, total=False):
    """What can change from version to version; another currency or interval is another plan."""

    type: PlanType
    alignment: Alignment
    base_price: Decimal
    minimum: Decimal | None
    trial_days: int
    collect: Collect
    payment: Payment


class ChargeChanges(TypedDict, total=False):
    """What can change in a charge; another metric is another charge."""

    display_name: str
    model: Model
    unit_price: Decimal | None
    included: Decimal
    tiers: tuple[Tier, ...]
    package_size: Decimal | None
    minimum: Decimal | None
    maximum: Decimal | None
    active: bool


def change_terms(
    tx: Tx,
    organization_id: str,
    plan: str,
    *,
    actor: Actor,
    if_version: int | None = None,
    **changes: Unpack[TermsChanges],
) -> PlanRow | Refused:
    """Change what is given."""
    return plans.amend(
        tx,
        organization_id,
        plan,
        lambda terms: replace(terms, **changes),
        action="plan.change_terms",
        actor=actor,
        if_version=if_version,
    )


def add_charge(
    tx: Tx,
    organization_id: str,
    plan: str,
    charge: Charge,
    *,
    actor: Actor,
    if_version: int | None = None,
) -> PlanRow | Refused:
    """Add a charge; its metric may be named as `metrics.find` does."""
    return _of_one(
        plans.amend(
            tx,
            organization_id,
            plan,
            lambda terms: replace(terms, charges=(*terms.charges, charge)),
            action="plan.add_charge",
            actor=actor,
            if_version=if_version,
        )
    )


def change_charge(
    tx: Tx,
    organization_id: str,
    plan: str,
    charge_id: str,
    *,
    actor: Actor,
    if_version: int | None = None,
    **changes: Unpack[ChargeChanges],
) -> PlanRow | Refused:
    """Change what is given. A charge that is inactive stays so: add another one."""

    def changed(charge: Charge) -> Charge | Refused:
        if not charge.active and changes.get("active"):
            return Refused("conflict", "an inactive charge stays so; add another one", "status")
        return replace(charge, **changes)

    return _of_one(
        plans.amend(
            tx,
            organization_id,
            plan,
            lambda terms: _with_charge(terms, charge_id, changed),
            action="plan.change_charge",
            actor=actor,
            if_version=if_version,
        )
    )


def entitle(
    tx: Tx,
    organization_id: str,
    plan: str,
    entitlement: Entitlement,
    *,
    actor: Actor,
    if_version: int | None = None,
) -> PlanRow | Refused:
    """Entitle to a feature, named by its id or lookup key, instead of as the plan did before."""
    feature = features.find(tx, organization_id, entitlement.feature_id)
    if feature is None:
        return features.unknown(entitlement.feature_id, "feature_id")
    entitlement = replace(entitlement, feature_id=feature.id)

    def entitled(terms: Terms) -> Terms:
        others = (one for one in terms.entitlements if one.feature_id != entitlement.feature_id)
        return replace(terms, entitlements=(*others, entitlement))

    return _of_one(
        plans.amend(
            tx,
            organization_id,
            plan,
            entitled,
            action="plan.entitle",
            actor=actor,
            if_version=if_version,
        )
    )


def withdraw(
    tx: Tx,
    organization_id: str,
    plan: str,
    feature: str,
    *,
    actor: Actor,
    if_version: int | None = None,
) -> PlanRow | Refused:
    """Entitle to a feature no more; it is named by its id or lookup key."""
    found = features.find(tx, organization_id, feature)
    feature_id = found.id if found else feature

    def without(terms: Terms) -> Terms | Refused:
        left = tuple(one for one in terms.entitlements if one.feature_id != feature_id)
        if len(left) == len(terms.entitlements):
            return Refused("not_found", f"the plan does not entitle to the feature {feature}")
        return replace(terms, entitlements=left)

    return plans.amend(
        tx,
        organization_id,
        plan,
        without,
        action="plan.withdraw",
        actor=actor,
        if_version=if_version,
    )


def _with_charge(
    terms: Terms, charge_id: str, change: Callable[[Charge], Charge | Refused]
) -> Terms | Refused:
    if all(charge.id != charge_id for charge in terms.charges):
        return Refused("not_found", f"the plan has no charge {charge_id}")
    changed: list[Charge] = []
    for charge in terms.charges:
        after = change(charge) if charge.id == charge_id else charge
        if isinstance(after, Refused):
            return after
        changed.append(after)
    return replace(terms, charges=tuple(changed))


def _of_one(found: PlanRow | Refused) -> PlanRow | Refused:
    """Names the field as who sent one charge or entitlement knows it, without its place."""
    if isinstance(found, Refused) and found.field is not None:
        return replaced(found, field=_PLACE.sub("", found.field))
    return found
