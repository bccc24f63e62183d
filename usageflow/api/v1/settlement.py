"""/api/v1/stripe/statement and /reconciliations: what became of usage on its way to Stripe.

The statement says where all of it is; a reconciliation is what ledger and Stripe differ by in one
hour, what is proposed about it, and what a person decides.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Path, Response
from pydantic import StringConstraints

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Instant, Number, answer
from usageflow.api.faults import STRIPE_ERRORS, told
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.db.tables import ReconciliationRow
from usageflow.ledger import statement
from usageflow.ledger.inbox import unknown
from usageflow.periods import hour_start
from usageflow.stripe import corrections, differences
from usageflow.stripe.access import reaching

router = v1_router("stripe")

DifferenceId = Annotated[int, Path(ge=1, le=2**63 - 1)]
State = Literal["open", "applied", "dismissed", "resolved"]


class Dismissal(Body):
    """Why a difference is accepted as it is."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class LineOut(Answer):
    """The usage of an event name: what was metered, and where it is; `difference` is what is
    nowhere, and 0 if all is well.
    """

    event_name: str
    metered: Number
    settled: Number
    in_flight: Number
    parked: Number
    quarantined: Number
    held: Number
    written_off: Number
    difference: Number


class StatementOut(Answer):
    """All usage at one moment. `unknown`: events in no sum now, as nobody knows whose or how
    much; the inbox has them.
    """

    at: datetime
    lines: list[LineOut]
    adds_up: bool
    unknown: int


class DifferenceOut(Answer):
    """A difference between ledger and Stripe.

    `proposal`: `unit` sends `quantity`, `cancel` takes back the event `identifier`, `reissue` sends
    the unit `identifier` as another; null: nothing is proposed, and `reason` says why.
    """

    id: int
    state: State
    stripe_customer: str
    event_name: str
    hour: datetime
    expected: Number
    observed: Number
    classification: Literal["unsettled", "late", "foreign", "rejected"]
    reason: str
    proposal: Literal["unit", "cancel", "reissue"] | None
    quantity: Number | None
    identifier: str | None
    first_seen_at: datetime
    checked_at: datetime


@router.get("/stripe/statement", response_model=StatementOut)
def read_statement(
    access: Annotated[Access, needs("catalog.read")], rest: RestDep, at: Instant | None = None
) -> Response:
    """Where all metered usage is now, or was in the hour of `at`: its statement was stored then."""
    with rest.db.reading() as tx:
        moment = tx.now if at is None else hour_start(at)
        lines = (
            statement.statement(tx, access.organization_id)
            if at is None
            else _stored(tx, access.organization_id, moment)
        )
        waiting = unknown(tx, access.organization_id)
    return answer(
        StatementOut(
            at=moment,
            lines=[LineOut(**line._asdict(), difference=line.difference) for line in lines],
            adds_up=not any(line.difference for line in lines),
            unknown=waiting,
        )
    )


@router.get("/stripe/reconciliations", response_model=Listed[DifferenceOut])
def list_reconciliations(
    *,
    access: Annotated[Access, needs("catalog.read")],
    rest: RestDep,
    page: PageDep,
    state: State | None = None,
    event_name: Id | None = None,
) -> Response:
    """What differs or is being corrected, the oldest hour first; with `state`, what is in it."""
    with rest.db.reading() as tx:
        rows, total = differences.listing(
            tx,
            access.organization_id,
            states=("open", "applied") if state is None else (state,),
            event_name=event_name,
            offset=page.offset,
            limit=page.limit,
        )
        return listed([_difference(row) for row in rows], total, page)


@router.get("/stripe/reconciliations/{difference}", response_model=DifferenceOut)
def read_reconciliation(
    difference: DifferenceId, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """One difference."""
    with rest.db.reading() as tx:
        return answer(_difference(_found(tx, access, difference)))


@router.post(
    "/stripe/reconciliations/{difference}/apply",
    response_model=DifferenceOut,
    responses=STRIPE_ERRORS,
)
def apply_proposal(
    difference: DifferenceId, access: Annotated[Access, needs("organization.write")], rest: RestDep
) -> Response:
    """Carry out what is proposed; it is judged again before, and never carried out twice."""
    organization_id = access.organization_id
    with rest.db.reading() as tx:
        account_id = _found(tx, access, difference).account_id
    with told(), reaching(rest.db, rest.settings, organization_id, account_id) as (_, gateway):
        refused = corrections.apply(
            rest.db, organization_id, difference, gateway, actor=access.actor
        )
    if refused is not None:
        refusal(Refused("conflict", refused))
    rest.on_events()
    with rest.db.reading() as tx:
        return answer(_difference(_found(tx, access, difference)))


@router.post("/stripe/reconciliations/{difference}/dismiss", response_model=DifferenceOut)
def dismiss_difference(
    difference: DifferenceId,
    body: Dismissal,
    access: Annotated[Access, needs("organization.write")],
    rest: RestDep,
) -> Response:
    """Accept a difference as it is, from now on."""
    with rest.db.transaction() as tx:
        _found(tx, access, difference)
        refused = corrections.dismiss(
            tx, access.organization_id, difference, reason=body.reason, actor=access.actor
        )
        if refused is not None:
            refusal(Refused("conflict", refused))
        return answer(_difference(_found(tx, access, difference)))


def _stored(tx: Tx, organization_id: str, hour: datetime) -> list[statement.Line]:
    lines = statement.stored(tx, organization_id, hour)
    if not lines:
        newest = statement.latest(tx, organization_id)
        has = "none is" if newest is None else f"the newest is of {newest:%Y-%m-%dT%H:%MZ}"
        message = f"no statement is stored for {hour:%Y-%m-%dT%H:%MZ}; {has}"
        refusal(Refused("not_found", message))
    return lines


def _found(tx: Tx, access: Access, difference: int) -> ReconciliationRow:
    row = differences.find(tx, access.organization_id, difference)
    if row is None:
        return refusal(Refused("not_found", f"there is no difference {difference}"))
    return row


def _difference(row: ReconciliationRow) -> DifferenceOut:
    return DifferenceOut.model_validate(
        {**row.model_dump(), "stripe_customer": row.stripe_customer_id}
    )
