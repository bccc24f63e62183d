"""The meters that the policies name, compared with those of the account, and made where they lack.

Meters cannot be changed or deleted, and an event name is taken for ever. So nothing is done that
was not listed first, and what is of the wrong kind is left to a person.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, TypeAlias

import msgspec

from usageflow.catalog import audit
from usageflow.catalog.policies import current
from usageflow.db.session import Database, Tx
from usageflow.db.tables import StripeAccountRow
from usageflow.policies import Policy, parse_document
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_events import Meter

State: TypeAlias = Literal["ok", "missing", "inactive", "unusable"]
Action: TypeAlias = Literal["create", "reactivate"]
ACTIONS: Final[dict[State, Action]] = {"missing": "create", "inactive": "reactivate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An event name of live policies. `counts`: each of their events counts as exactly 1."""

    event_name: str
    policies: tuple[str, ...]
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A wanted event name, the meter that has it if any, and what is to be done about it.

    `reason` says why it is not ok. Of what is `unusable` only a person can choose what to do.
    """

    wanted: Wanted
    state: State
    meter: Meter | None = None
    reason: str = ""

    @property
    def action(self) -> Action | None:
        """What `apply` does."""
        return ACTIONS.get(self.state)


def wanted(tx: Tx, organization_id: str) -> list[Wanted]:
    """What the organization's policies send to Stripe, by event name."""
    items = [
        {"version": version, "policy": msgspec.Raw(document.encode())}
        for document, version in current(tx, organization_id).items
    ]
    document = parse_document(msgspec.json.encode({"policies": items}))
    return event_names(policy for policy, _ in document.policies)


def event_names(policies: Iterable[Policy]) -> list[Wanted]:
    """The event names of those policies whose usage is sent. Pure."""
    found: dict[str, list[Policy]] = defaultdict(list)
    for policy in policies:
        if policy.event_name is not None and policy.mode == "live":
            found[policy.event_name].append(policy)
    return [
        Wanted(
            event_name=name,
            policies=tuple(policy.name for policy in ours),
            counts=all(policy.quantity == Decimal(1) for policy in ours),
        )
        for name, ours in sorted(found.items())
    ]


def plan(wanted: Iterable[Wanted], meters: Iterable[Meter]) -> list[Step]:
    """What is to be done so that each wanted event name has a meter that counts it. Pure."""
    named: dict[str, list[Meter]] = defaultdict(list)
    for meter in meters:
        named[meter.event_name].append(meter)
    return [_step(one, named.get(one.event_name, ())) for one in wanted]


def apply(
    db: Database,
    account_id: str,
    gateway: StripeGateway,
    steps: Iterable[Step],
    *,
    actor: audit.Actor | str,
) -> list[Meter]:
    """Do what the steps say, and nothing else; the meters that were made or reactivated.

    Raises DeliveryError at the first that Stripe refuses; those before it are done and noted, and a
    new plan shows them as ok.
    """
    done = []
    for step in steps:
        if step.action == "create":
            name = step.wanted.event_name
            meter = gateway.create_meter(name, display_name=name)
        elif step.action == "reactivate" and step.meter is not None:
            meter = gateway.reactivate_meter(step.meter.meter_id)
        else:
            continue
        with db.transaction() as tx:
            _record(tx, account_id, step.action, meter, actor)
        done.append(meter)
    return done


def _record(
    tx: Tx, account_id: str, action: Action, meter: Meter, actor: audit.Actor | str
) -> None:
    account = tx.session.get_one(StripeAccountRow, account_id)
    audit.record(
        tx,
        account.organization_id,
        actor=actor,
        action=f"stripe.meter.{action}",
        subject=meter.event_name,
        after={"account": account.account, "meter": meter.meter_id},
    )


def _step(one: Wanted, meters: Sequence[Meter]) -> Step:
    if not meters:
        return Step(wanted=one, state="missing", reason="Stripe has no meter of this event name")
    meter = meters[0]
    if len(meters) > 1:
        ids = ", ".join(each.meter_id for each in meters)
        reason = f"several meters have this event name: {ids}"
    elif meter.time_window is not None:
        reason = f"the meter keeps only the last event of each {meter.time_window}"
    elif meter.formula == "count" and not one.counts:
        reason = "the meter counts events, and quantities can be other than 1"
    elif meter.status == "inactive":
        return Step(wanted=one, state="inactive", meter=meter, reason="the meter is deactivated")
    else:
        return Step(wanted=one, state="ok", meter=meter)
    return Step(wanted=one, state="unusable", meter=meter, reason=reason)
