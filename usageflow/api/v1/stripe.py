"""/api/v1/stripe: the accounts that usage is sent to, their meters, and connecting one.

No key is ever shown. What Stripe has of the usage is `settlement`'s.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import Response
from pydantic import Field, StringConstraints

from usageflow.api.access import Access, Rest, RestDep, needs
from usageflow.api.exact_json import Answer, Body, Id, Number, answer
from usageflow.api.faults import STRIPE_ERRORS, told
from usageflow.api.paging import Listed, PageDep, listed
from usageflow.api.rest import refusal, v1_router
from usageflow.api.stripe_connect import bind
from usageflow.catalog.refusals import Refused
from usageflow.catalog.secrets import Keyring
from usageflow.db.tables import StripeAccountRow
from usageflow.stripe import connect, own_key, status, sync_meters
from usageflow.stripe.access import access as way_to
from usageflow.stripe.access import platform_key, reaching
from usageflow.stripe.accounts import OF_STRIPE, OWN, accounts
from usageflow.stripe.meters import Meters
from usageflow.stripe.status import AccountStatus, LiveStatus

router = v1_router("stripe")

EventNames = Annotated[list[Id], Field(min_length=1, max_length=100)]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]


class OwnKey(Body):
    """The secret or restricted key of the organization's own account."""

    api_key: Secret


class MetersToMake(Body):
    """Event names whose meters are to be created or reactivated; Stripe never forgets a meter."""

    event_names: EventNames


class MeterOut(Answer):
    """A meter, or an event name without one. `policies` send to it."""

    event_name: str
    formula: str | None
    status: str
    policies: list[str]
    problem: str | None


class HookOut(Answer):
    """A webhook by which Stripe tells us of changes."""

    endpoint_id: str
    kind: str
    url: str


class AccountOut(Answer):
    """An account. `account` is its name here: `own`, or acct_... if it was connected.

    `problem` says why nothing is sent, if so. `units` are those that are not settled, by state;
    `lag_s` is how long the oldest has waited. `drift` is by how much both sides differ in `drifts`
    hours, `late` how many units belong to a billing period that has ended.
    """

    account: str
    kind: Literal["own", "connect"]
    mode: Literal["test", "live"]
    state: Literal["active", "paused", "deauthorized"]
    problem: str | None
    meters: list[MeterOut]
    units: dict[str, int]
    lag_s: float | None
    drift: Number
    drifts: int
    late: int
    webhooks: list[HookOut]
    reads_today: int


class LiveOut(AccountOut):
    """The same with what Stripe says of itself, or why it says nothing."""

    owner: str | None
    clock_skew_s: float | None
    unanswered: str | None


class StoredOut(Answer):
    """Whose key was stored; null if the key may not tell."""

    owner: str | None
    account: AccountOut


class RemovedOut(Answer):
    """`objection`: what Stripe said against it; nothing is sent to the account all the same."""

    account: str
    objection: str | None


class StepOut(Answer):
    """An event name, its meter if it has one, and what became of it. `done`: just now."""

    event_name: str
    state: Literal["ok", "missing", "inactive", "unusable"]
    meter: str | None
    policies: list[str]
    reason: str
    done: bool


class StepsOut(Answer):
    """Every event name that the policies in use send to."""

    meters: list[StepOut]


class ConnectOut(Answer):
    """Where the owner of an account decides, in the browser that asked, within 10 minutes."""

    url: str


@router.get("/stripe/accounts", response_model=Listed[AccountOut])
def list_accounts(
    access: Annotated[Access, needs("catalog.read")], rest: RestDep, page: PageDep
) -> Response:
    """The accounts of the organization, in the order in which they came."""
    found = _statuses(rest, access)
    shown = found[page.offset : page.offset + page.limit]
    return listed([_told(one) for one in shown], len(found), page)


@router.get("/stripe/accounts/{account}", response_model=AccountOut)
def read_account(
    account: Id, access: Annotated[Access, needs("catalog.read")], rest: RestDep
) -> Response:
    """How the way to one account is."""
    return answer(_told(_status(rest, access, account)))


@router.post("/stripe/accounts/{account}/ask", response_model=LiveOut)
def ask_stripe(
    account: Id, access: Annotated[Access, needs("organization.write")], rest: RestDep
) -> Response:
    """The same with what Stripe says of the account and its meters, in a few reads."""
    row = _row(rest, access, account)
    with told():
        keyring = Keyring.read(rest.settings.encryption_keys)
    reached = way_to(row, rest.settings, keyring)
    live = status.ask(rest.settings, reached)
    shown = _told(_status(rest, access, account, {row.id: live}))
    says = live if isinstance(live, LiveStatus) else None
    return answer(
        LiveOut(
            **shown.model_dump(),
            owner=says and says.owner.label,
            clock_skew_s=says and says.clock_skew_s,
            unanswered=live if isinstance(live, str) else None,
        )
    )


@router.post("/stripe/accounts", response_model=StoredOut, status_code=201, responses=STRIPE_ERRORS)
def store_key(
    body: OwnKey, access: Annotated[Access, needs("organization.write")], rest: RestDep
) -> Response:
    """Store the key of the organization's own account, sealed, after a look at Stripe with it."""
    with told():
        owner = own_key.store(
            rest.db, rest.settings, access.organization_id, body.api_key, actor=access.actor
        )
    rest.on_events()
    stored = _told(_status(rest, access, OWN))
    return answer(StoredOut(owner=owner and owner.label, account=stored), 201)


@router.delete("/stripe/accounts/{account}", response_model=RemovedOut)
def remove_account(
    account: Id, access: Annotated[Access, needs("organization.write")], rest: RestDep
) -> Response:
    """Forget the key, or end the connection: nothing is sent any more, and nothing is lost."""
    row = _row(rest, access, account)
    objection = None
    with told():
        if row.kind == OWN:
            with rest.db.transaction() as tx:
                removed = own_key.remove(tx, access.organization_id, actor=access.actor)
            if not removed:
                refusal(Refused("conflict", "it has no key, and nothing is sent to it"))
        else:
            platform_key(rest.settings)
            objection = connect.disconnect(rest.db, rest.settings, row.id, actor=access.actor)
    return answer(RemovedOut(account=row.account, objection=objection))


@router.post("/stripe/accounts/{account}/meters", response_model=StepsOut, responses=STRIPE_ERRORS)
def make_meters(
    account: Id,
    body: MetersToMake,
    access: Annotated[Access, needs("organization.write")],
    rest: RestDep,
) -> Response:
    """Create or reactivate the meters of these event names, where policies need them."""
    row = _row(rest, access, account)
    with rest.db.reading() as tx:
        names = sync_meters.wanted(tx, access.organization_id)
    with told(), reaching(rest.db, rest.settings, access.organization_id, row.id) as reached:
        account_id, gateway = reached
        steps = sync_meters.plan(names, gateway.list_meters())
        asked = [step for step in steps if step.wanted.event_name in body.event_names]
        made = sync_meters.apply(rest.db, account_id, gateway, asked, actor=access.actor)
        if made:
            Meters(rest.db, account_id, gateway).refresh()
            steps = sync_meters.plan(names, gateway.list_meters())
    done = {meter.event_name for meter in made}
    return answer(StepsOut(meters=[_step(step, done) for step in steps]))


@router.post("/stripe/connect", response_model=ConnectOut)
def connect_account(
    access: Annotated[Access, needs("organization.write")], rest: RestDep
) -> Response:
    """Begin to connect an account: the address at Stripe to go to.

    For a person in a browser, which gets a cookie: only there the connection can be ended.
    """
    with told():
        with rest.db.transaction() as tx:
            begun = connect.start(tx, rest.settings, access.organization_id, actor=access.actor)
        response = answer(ConnectOut(url=connect.authorize_url(rest.settings, begun.state)))
    bind(response, begun, rest.settings)
    return response


def _row(rest: Rest, access: Access, name: str) -> StripeAccountRow:
    """An account of this organization, by its name."""
    with rest.db.reading() as tx:
        for row in accounts(tx, access.organization_id):
            if row.kind in OF_STRIPE and row.account == name:
                tx.session.expunge(row)
                return row
    return refusal(Refused("not_found", f"there is no Stripe account {name}"))


def _statuses(
    rest: Rest, access: Access, live: Mapping[str, LiveStatus | str] | None = None
) -> list[AccountStatus]:
    with told(), rest.db.reading() as tx:
        return status.statuses(tx, rest.settings, access.organization_id, live)


def _status(
    rest: Rest, access: Access, name: str, live: Mapping[str, LiveStatus | str] | None = None
) -> AccountStatus:
    for one in _statuses(rest, access, live):
        if one.account == name:
            return one
    return refusal(Refused("not_found", f"there is no Stripe account {name}"))


def _told(one: AccountStatus) -> AccountOut:
    return AccountOut.model_validate(one, from_attributes=True)


def _step(step: sync_meters.Step, done: set[str]) -> StepOut:
    return StepOut(
        event_name=step.wanted.event_name,
        state=step.state,
        meter=step.meter and step.meter.meter_id,
        policies=list(step.wanted.policies),
        reason=step.reason,
        done=step.wanted.event_name in done,
    )
