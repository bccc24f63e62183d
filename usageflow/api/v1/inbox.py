"""/api/v1/inbox: what needs a human, each with its reason, and what they decide about it.

Saying whose usage is, is a matter of customers; sending or giving up usage one of invoices.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Final

from fastapi import Query, Response
from pydantic import Field, StringConstraints

from usageflow.api.access import Access, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Number, answer
from usageflow.api.faults import STRIPE_ERRORS, told
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.policy_bodies import refuse
from usageflow.api.rest import refusal, v1_router
from usageflow.catalog.refusals import Refused
from usageflow.db.session import Tx
from usageflow.ledger import inbox
from usageflow.ledger.inbox import Kind
from usageflow.ledger.inbox_details import details, document
from usageflow.policies.models import FIELD_CHARS_MAX
from usageflow.stripe import attachment, remedies
from usageflow.stripe.access import reaching
from usageflow.stripe.accounts import account_of
from usageflow.stripe.remedies import Outcome

router = v1_router("inbox")

UNITS_MAX: Final = 500
"""Units of one request: they are one transaction, and the server goes on in between."""

Reason = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]
Identifiers = Annotated[list[Id], Field(min_length=1, max_length=UNITS_MAX)]


class IdentityOf(Body):
    """An identity as usage has it. `account`: `own` or acct_..., else the one usage goes to."""

    field: Annotated[str, StringConstraints(min_length=1, max_length=FIELD_CHARS_MAX)]
    value: Id
    account: Id | None = None


class Attachment(IdentityOf):
    """Whose an identity is, above what Stripe's metadata say."""

    stripe_customer: Id


class Units(Body):
    """Units by their identifiers, as the inbox has them."""

    identifiers: Identifiers


class Retry(Body):
    """Units to send again: some, or those that Stripe refused with a code, such as no_meter.

    `skip` passes over so many with the code, which an earlier request could not help.
    """

    identifiers: Identifiers | None = None
    code: Id | None = None
    skip: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class WriteOff(Units):
    """Units to give up, and why."""

    reason: Reason


class IdentityOut(Answer):
    """Who was calling."""

    field: str
    value: str


class ItemOut(Answer):
    """Something that needs a human; what is not known of it is null.

    `id` is an event's id, a unit's identifier or a difference's number; `line` is what was sent
    and is no usage event.
    """

    kind: Kind
    state: str
    since: datetime
    id: str | None
    metric: str | None
    event_name: str | None
    identity: IdentityOut | None
    stripe_customer: str | None
    quantity: Number | None
    policy: str | None
    policy_version: str | None
    request: str | None
    status: int | None
    occurred_at: datetime | None
    reason: str
    line: str | None


class AttachedOut(Answer):
    """`lanes`: how many customers' parked usage goes on by it."""

    lanes: int


class OutcomeOut(Answer):
    """What became of a unit; if it was not `done`, nothing was changed, and `told` says why."""

    identifier: str
    done: bool
    told: str


class OutcomesOut(Answer):
    """What became of each. `left`: units with this code beyond those."""

    outcomes: list[OutcomeOut]
    left: int = 0


@router.get("/inbox", response_model=Listed[ItemOut])
def list_inbox(
    *,
    access: Annotated[Access, needs("usage.read")],
    rest: RestDep,
    page: PageDep,
    kind: Kind | None = None,
    state: Annotated[Id | None, Query(description="As `parked`, `quarantined`, `gap`")] = None,
) -> Response:
    """What needs a human, the latest first."""
    with rest.db.reading() as tx:
        found, total = inbox.listing(
            tx,
            access.organization_id,
            kind=kind,
            state=state,
            offset=page.offset,
            limit=page.limit,
        )
        of = details(tx, access.organization_id, found)
    items = [ItemOut(**document(item, of.get((item.kind, item.key)))) for item in found]
    return listed(items, total, page)


@router.post("/inbox/attach", response_model=AttachedOut, responses=STRIPE_ERRORS)
def attach_identity(
    body: Attachment, access: Annotated[Access, needs("customers.write")], rest: RestDep
) -> Response:
    """Say whose an identity is at Stripe; its parked usage goes on."""
    with (
        told(),
        reaching(rest.db, rest.settings, access.organization_id, body.account) as reached,
    ):
        account_id, gateway = reached
        lanes = attachment.attach(
            rest.db,
            account_id,
            gateway,
            (body.field, body.value),
            body.stripe_customer,
            actor=access.actor,
        )
    rest.on_events()
    return answer(AttachedOut(lanes=lanes))


@router.post("/inbox/detach", status_code=204)
def detach_identity(
    body: IdentityOf, access: Annotated[Access, needs("customers.write")], rest: RestDep
) -> Response:
    """Take that back: from now on Stripe's metadata say whose an identity is."""
    with told(), rest.db.transaction() as tx:
        account_id = account_of(tx, access.organization_id, body.account).id
        if not attachment.detach(tx, account_id, (body.field, body.value), actor=access.actor):
            message = f"{body.field} {body.value} is attached to no customer"
            refusal(Refused("not_found", message))
    return Response(status_code=204)


@router.post("/inbox/retry", response_model=OutcomesOut)
def retry_units(
    body: Retry, access: Annotated[Access, needs("invoices.write")], rest: RestDep
) -> Response:
    """Send units again, after what was in their way is mended."""
    if (body.code is None) is not bool(body.identifiers):
        refuse([("identifiers", "say which units: identifiers or code, one of the two")])

    def again(tx: Tx) -> tuple[list[Outcome], int]:
        identifiers: Sequence[str] = body.identifiers or ()
        if body.code is not None:
            identifiers = remedies.refused_with(tx, access.organization_id, body.code)[body.skip :]
        some = identifiers[:UNITS_MAX]
        outcomes = remedies.retry(tx, access.organization_id, some, actor=access.actor)
        return outcomes, len(identifiers) - len(some)

    return _applied(rest, again)


@router.post("/inbox/carry", response_model=OutcomesOut)
def carry_units(
    body: Units, access: Annotated[Access, needs("invoices.write")], rest: RestDep
) -> Response:
    """Send units that are too old for Stripe as usage of now."""
    return _applied(
        rest,
        lambda tx: (
            remedies.carry(tx, access.organization_id, body.identifiers, actor=access.actor),
            0,
        ),
    )


@router.post("/inbox/write-off", response_model=OutcomesOut)
def write_off_units(
    body: WriteOff, access: Annotated[Access, needs("invoices.write")], rest: RestDep
) -> Response:
    """Give units up: they are never billed."""
    return _applied(
        rest,
        lambda tx: (
            remedies.write_off(
                tx, access.organization_id, body.identifiers, body.reason, actor=access.actor
            ),
            0,
        ),
    )


def _applied(rest: RestDep, remedy: Callable[[Tx], tuple[list[Outcome], int]]) -> Response:
    """What the remedy did, and how many units are left for another request."""
    with rest.db.transaction() as tx:
        outcomes, left = remedy(tx)
    rest.on_events()
    told_of = [OutcomeOut(**outcome._asdict()) for outcome in outcomes]
    return answer(OutcomesOut(outcomes=told_of, left=left))
