"""/api/v1/plans: what can be subscribed to, its charges, what it entitles to, and its versions.

A plan is named by its id or its lookup id. Every change of what it costs or grants makes the next
version; those who subscribed to another keep that.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, cast

from fastapi import Path, Query, Response
from pydantic import Field

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Exact, Id, Key, Name, Prose, answer
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.patches import Patch, left_out
from usageflow.api.plan_terms import (
    NAMES,
    EntitlementBody,
    NewCharge,
    TermsOut,
    told_terms,
)
from usageflow.api.rest import refusal, v1_router
from usageflow.api.v1.metrics import Search
from usageflow.api.wording import reworded
from usageflow.catalog import metrics, organization_settings, plan_edits, plans
from usageflow.catalog.charges import (
    CHARGES_MAX,
    ENTITLEMENTS_MAX,
    TRIAL_DAYS_MAX,
    Charge,
    Collect,
    Payment,
    PlanType,
    Terms,
)
from usageflow.catalog.plan_edits import TermsChanges
from usageflow.catalog.plans import PlanNames
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow, PlanVersionRow
from usageflow.db.session import Tx
from usageflow.periods import Alignment, Interval

router = v1_router("plans")

_NAMES = frozenset(PlanNames.__annotations__)
"""What `plans.rename` changes."""

TrialDays = Annotated[int, Field(ge=0, le=TRIAL_DAYS_MAX)]
IfVersion = Annotated[
    int | None, Query(ge=1, le=2**31 - 1, description="The change is refused at another version.")
]


class NewPlan(Body):
    """A plan to make. Without a lookup id its name is that, as far as it can be; without a
    currency it has the organization's.
    """

    name: Name
    lookup_id: Key | None = None
    description: Prose = ""
    is_active: bool = True
    type: PlanType = "HYBRID"
    billing_interval: Interval = "month"
    alignment: Alignment = "anniversary"
    currency: Name | None = None
    base_price: Exact = Field(default=0, validate_default=True)
    minimum: Exact | None = None
    trial_days: TrialDays = 0
    collect: Collect = "local"
    payment: Payment = "manual"
    charges: Annotated[list[NewCharge], Field(max_length=CHARGES_MAX)] = Field(default_factory=list)
    features: Annotated[list[EntitlementBody], Field(max_length=ENTITLEMENTS_MAX)] = Field(
        default_factory=list
    )


class PlanPatch(Patch):
    """What to change in a plan. Another currency or interval is another plan."""

    name: Name = left_out()
    lookup_id: Key = left_out()
    description: Prose = left_out()
    is_active: bool = left_out()
    type: PlanType = left_out()
    alignment: Alignment = left_out()
    base_price: Exact = left_out()
    minimum: Exact | None = left_out()
    trial_days: TrialDays = left_out()
    collect: Collect = left_out()
    payment: Payment = left_out()


class PlanHead(Answer):
    """What a plan is called."""

    id: str
    name: str
    lookup_id: str
    description: str
    is_active: bool


class PlanOut(TermsOut, PlanHead):
    """A plan, in its newest version."""

    updated_at: datetime


@router.get("/plans", response_model=Listed[PlanOut])
def list_plans(
    *,
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    page: PageDep,
    search: Search = None,
    is_active: bool | None = None,
) -> Response:
    """Plans, newest first; `search` is a part of name or lookup id."""
    with rest.db.reading() as tx:
        rows, total = plans.listing(
            tx,
            access.organization_id,
            is_active=is_active,
            search=search,
            offset=page.offset,
            limit=page.limit,
        )
        return listed(_plans(tx, access, rows), total, page)


@router.post("/plans", response_model=PlanOut, status_code=201)
def create_plan(
    body: NewPlan, access: Annotated[Access, needs("plans.write")], rest: RestDep
) -> Response:
    """Make a plan, with its charges or without any yet."""
    with rest.db.transaction() as tx:
        made = plans.create(
            tx,
            access.organization_id,
            name=body.name,
            lookup_id=body.lookup_id or _slug(body.name),
            description=body.description,
            is_active=body.is_active,
            terms=_terms(tx, access, body),
            actor=access.actor,
        )
        return answer(_plan(tx, access, made), 201)


@router.get("/plans/{plan}", response_model=PlanOut)
def read_plan(
    plan: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """One plan, with its charges."""
    with rest.db.reading() as tx:
        return answer(_plan(tx, access, _found(tx, access, plan)))


@router.patch("/plans/{plan}", response_model=PlanOut)
def change_plan(
    *,
    plan: Id,
    body: PlanPatch,
    access: Annotated[Access, needs("plans.write")],
    rest: RestDep,
    if_version: IfVersion = None,
) -> Response:
    """Change what is given; a change of terms makes the next version."""
    given = body.given()
    names = cast("PlanNames", {name: given.pop(name) for name in _NAMES & given.keys()})
    with rest.db.transaction() as tx:
        row = plan_edits.change_terms(
            tx,
            access.organization_id,
            plan,
            actor=access.actor,
            if_version=if_version,
            **cast("TermsChanges", given),
        )
        if isinstance(row, PlanRow):
            row = plans.rename(tx, access.organization_id, row.id, actor=access.actor, **names)
        return answer(_plan(tx, access, row))


@router.delete("/plans/{plan}", status_code=204)
def delete_plan(
    plan: Id, access: Annotated[Access, needs("plans.write")], rest: RestDep
) -> Response:
    """Delete a plan to which nobody ever subscribed."""
    with rest.db.transaction() as tx:
        refused = plans.delete(tx, access.organization_id, plan, actor=access.actor)
        return refusal(refused) if refused else Response(status_code=204)


@router.get("/plans/{plan}/versions", response_model=Listed[TermsOut])
def list_versions(
    plan: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep, page: PageDep
) -> Response:
    """The versions of a plan, newest first."""
    with rest.db.reading() as tx:
        row = _found(tx, access, plan)
        found, total = plans.versions(
            tx, access.organization_id, row.id, offset=page.offset, limit=page.limit
        )
        return listed(_versions(tx, access, found), total, page)


@router.get("/plans/{plan}/versions/{version}", response_model=TermsOut)
def read_version(
    plan: Id,
    version: Annotated[int, Path(ge=1, le=2**31 - 1)],
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
) -> Response:
    """What one version costs and grants."""
    with rest.db.reading() as tx:
        row = _found(tx, access, plan)
        found = plans.version(tx, access.organization_id, row.id, version)
        if found is None:
            refusal(Refused("not_found", f"the plan {row.name} has no version {version}"))
        return answer(_versions(tx, access, [found])[0])


def charge_of(tx: Tx, access: Access, body: NewCharge) -> Charge:
    """The charge of a body."""
    named = body.metric_name
    found = None if named is None else metrics.find(tx, access.organization_id, named)
    return body.charge(found)


def done(found: PlanRow | Refused, names: Mapping[str, str] = NAMES) -> PlanRow:
    """The plan, unless the request was refused; `names` are fields in its words."""
    return refusal(reworded(found, names)) if isinstance(found, Refused) else found


def meter_ids(tx: Tx, access: Access, terms: Iterable[Terms]) -> dict[str, str]:
    """The ids of the metrics that terms charge, by their keys."""
    keys = {charge.metric for one in terms for charge in one.charges if charge.metric}
    return metrics.ids(tx, access.organization_id, keys)


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") or "plan"


def _terms(tx: Tx, access: Access, body: NewPlan) -> Terms:
    settings = organization_settings.read(tx, access.organization_id)
    return Terms(
        type=body.type,
        currency=body.currency or settings.currency,
        interval=body.billing_interval,
        alignment=body.alignment,
        base_price=body.base_price,
        minimum=body.minimum,
        trial_days=body.trial_days,
        collect=body.collect,
        payment=body.payment,
        charges=tuple(charge_of(tx, access, charge) for charge in body.charges),
        entitlements=tuple(feature.entitlement() for feature in body.features),
    )


def _found(tx: Tx, access: Access, plan: str) -> PlanRow:
    row = plans.find(tx, access.organization_id, plan)
    return refusal(plans.unknown(plan)) if row is None else row


def _plan(tx: Tx, access: Access, found: PlanRow | Refused) -> PlanOut:
    return _plans(tx, access, [done(found)])[0]


def _plans(tx: Tx, access: Access, rows: Sequence[PlanRow]) -> list[PlanOut]:
    terms = plans.terms_of_many(tx, [(row.id, row.version) for row in rows])
    ids = meter_ids(tx, access, terms.values())
    return [
        PlanOut(
            **row.model_dump(),
            **told_terms(terms[row.id, row.version], ids),
        )
        for row in rows
    ]


def _versions(tx: Tx, access: Access, rows: Sequence[PlanVersionRow]) -> list[TermsOut]:
    terms = [plans.decoded(row.document) for row in rows]
    ids = meter_ids(tx, access, terms)
    return [
        TermsOut(version=row.version, created_at=row.created_at, **told_terms(one, ids))
        for row, one in zip(rows, terms, strict=True)
    ]
