"""/api/v1/plans/{plan}/charges and /features: what a plan costs and grants, one by one.

Each change makes the plan's next version.
"""

from typing import Annotated

from fastapi import Response

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Id, answer
from usageflow.api.plan_terms import (
    NAMES,
    ChargeOut,
    ChargePatch,
    EntitlementBody,
    EntitlementOut,
    NewCharge,
    told_charge,
    told_entitlement,
)
from usageflow.api.rest import v1_router
from usageflow.api.v1.plans import IfVersion, charge_of, done, meter_ids
from usageflow.catalog import plan_edits, plans
from usageflow.catalog.charges import Terms
from usageflow.db.billing_tables import PlanRow
from usageflow.db.session import Tx

router = v1_router("plans")


class PlanChargeOut(ChargeOut):
    """A charge, and the version of the plan that has it first."""

    plan_id: str
    plan_version: int


class PlanEntitlementOut(EntitlementOut):
    """An entitlement, and the version of the plan that has it first."""

    plan_id: str
    plan_version: int


@router.post("/plans/{plan}/charges", response_model=PlanChargeOut, status_code=201)
def add_charge(
    *,
    plan: Id,
    body: NewCharge,
    access: Annotated[Access, needs("plans.write")],
    rest: RestDep,
    if_version: IfVersion = None,
) -> Response:
    """Add a charge."""
    with rest.db.transaction() as tx:
        charge = charge_of(tx, access, body)
        row = plan_edits.add_charge(
            tx,
            access.organization_id,
            plan,
            charge,
            actor=access.actor,
            if_version=if_version,
        )
        names = NAMES if body.metric else NAMES | {"metric": "meter_id"}
        return answer(_plan_charge(tx, access, done(row, names), charge.id), 201)


@router.patch("/plans/{plan}/charges/{charge}", response_model=PlanChargeOut)
def change_charge(
    *,
    plan: Id,
    charge: Id,
    body: ChargePatch,
    access: Annotated[Access, needs("plans.write")],
    rest: RestDep,
    if_version: IfVersion = None,
) -> Response:
    """Change a price, or end a charge with `{"status": "INACTIVE"}`."""
    with rest.db.transaction() as tx:
        row = plan_edits.change_charge(
            tx,
            access.organization_id,
            plan,
            charge,
            actor=access.actor,
            if_version=if_version,
            **body.changes(),
        )
        return answer(_plan_charge(tx, access, done(row), charge))


@router.post("/plans/{plan}/features", response_model=PlanEntitlementOut, status_code=201)
def entitle(
    *,
    plan: Id,
    body: EntitlementBody,
    access: Annotated[Access, needs("plans.write")],
    rest: RestDep,
    if_version: IfVersion = None,
) -> Response:
    """Entitle subscribers to a feature, instead of as the plan did before."""
    with rest.db.transaction() as tx:
        row = done(
            plan_edits.entitle(
                tx,
                access.organization_id,
                plan,
                body.entitlement(),
                actor=access.actor,
                if_version=if_version,
            )
        )
        told = told_entitlement(_newest(tx, row).entitlements[-1]).model_dump()
        return answer(PlanEntitlementOut(plan_id=row.id, plan_version=row.version, **told), 201)


@router.delete("/plans/{plan}/features/{feature}", status_code=204)
def withdraw(
    *,
    plan: Id,
    feature: Id,
    access: Annotated[Access, needs("plans.write")],
    rest: RestDep,
    if_version: IfVersion = None,
) -> Response:
    """Entitle subscribers to a feature no more."""
    with rest.db.transaction() as tx:
        done(
            plan_edits.withdraw(
                tx,
                access.organization_id,
                plan,
                feature,
                actor=access.actor,
                if_version=if_version,
            )
        )
        return Response(status_code=204)


def _plan_charge(tx: Tx, access: Access, row: PlanRow, charge_id: str) -> PlanChargeOut:
    terms = _newest(tx, row)
    charge = next(charge for charge in terms.charges if charge.id == charge_id)
    told = told_charge(charge, meter_ids(tx, access, [terms])).model_dump()
    return PlanChargeOut(plan_id=row.id, plan_version=row.version, **told)


def _newest(tx: Tx, row: PlanRow) -> Terms:
    pair = (row.id, row.version)
    return plans.terms_of_many(tx, [pair])[pair]
