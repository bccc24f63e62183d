"""The guard against being paid twice: what Stripe prices is not invoiced here as well.

The usage of a metric goes to Stripe when a live policy forwards it, and is priced there for
customers whose plan collects by `stripe_meters`; a plan that collects locally may not charge for
it. Usage that is forwarded all the same, by an edge that is behind with its policies, is not known
here: it holds its invoice back, in `closing`.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from sqlmodel import col, select

from usageflow.catalog import plans, policies
from usageflow.catalog.charges import Collect, Terms
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import PlanRow, SubscriptionRow
from usageflow.db.session import Tx
from usageflow.policies.models import Policy

_BY: Final[dict[Collect, str]] = {
    "local": "our own invoices",
    "stripe_meters": "Stripe's meters",
}


class _Stored(msgspec.Struct):
    """What matters here of a stored policy, which leaves out what is its default."""

    name: str
    metric: str
    event_name: str | None = None
    mode: str = "live"


def problem(
    tx: Tx, organization_id: str, customer_id: str, terms: Terms, *, besides: str | None = None
) -> Refused | None:
    """Why this customer cannot subscribe to these terms: something would be charged twice.

    `besides` is the subscription that they are for, if it exists already.
    """
    metrics = charged(terms)
    if terms.collect == "local":
        for policy in _live(tx, organization_id):
            if policy.event_name is not None and policy.metric in metrics:
                return _refused(
                    f"the policy {policy.name} forwards {policy.metric} to Stripe as "
                    f"{policy.event_name}, and this plan would charge it on {_BY['local']} too; "
                    "remove the policy's event_name, or let the plan collect by stripe_meters"
                )
    others = _subscribed(tx, organization_id, customer_id=customer_id, besides=besides)
    for plan, its_terms in others:
        both = sorted(metrics & charged(its_terms))
        if both:
            return _refused(
                f"the customer subscribes to {plan}, which charges {both[0]} by "
                f"{_BY[its_terms.collect]}, and this plan would charge it by "
                f"{_BY[terms.collect]} too; cancel that subscription, or leave {both[0]} out of "
                "one of the plans"
            )
    return None


def policy_problem(tx: Tx, organization_id: str, published: Iterable[Policy]) -> Refused | None:
    """Why these policies cannot be the ones in use: something would be charged twice.

    Whoever publishes policies asks this before, in the same transaction.
    """
    forwarding = {
        policy.metric: policy
        for policy in published
        if policy.mode == "live" and policy.event_name is not None
    }
    for plan, terms in _subscribed(tx, organization_id) if forwarding else ():
        both = sorted(charged(terms) & forwarding.keys())
        if both and terms.collect == "local":
            policy = forwarding[both[0]]
            return Refused(
                "conflict",
                f"the policy {policy.name} would forward {both[0]} to Stripe as "
                f"{policy.event_name}, and the plan {plan} charges it on {_BY['local']}; leave "
                "out the event_name, or move its subscribers to a plan that collects by "
                "stripe_meters",
                "event_name",
            )
    return None


def charged(terms: Terms) -> frozenset[str]:
    """The metrics that these terms charge."""
    return frozenset(
        charge.metric for charge in terms.charges if charge.active and charge.metric is not None
    )


def _refused(message: str) -> Refused:
    return Refused("conflict", message, "plan_id")


def _live(tx: Tx, organization_id: str) -> Iterator[_Stored]:
    """The policies whose usage is billed, in the order of their names."""
    for document, _ in policies.current(tx, organization_id).items:
        policy = msgspec.json.decode(document, type=_Stored)
        if policy.mode == "live":
            yield policy


def _subscribed(
    tx: Tx, organization_id: str, *, customer_id: str | None = None, besides: str | None = None
) -> list[tuple[str, Terms]]:
    """The plans, by name, and the terms that are subscribed to, or will be from a next period on.

    By everybody, or by one customer without one of its subscriptions.
    """
    row = SubscriptionRow
    statement = select(
        row.plan_id, row.plan_version, row.next_plan_id, row.next_plan_version
    ).where(col(row.organization_id) == organization_id, col(row.state) != "CANCELLED")
    if customer_id is not None:
        statement = statement.where(col(row.customer_id) == customer_id)
    if besides is not None:
        statement = statement.where(col(row.id) != besides)
    versions = set()
    for plan_id, version, next_plan_id, next_version in tx.session.exec(statement.distinct()):
        versions.add((plan_id, version))
        if next_plan_id is not None and next_version is not None:
            versions.add((next_plan_id, next_version))
    names = dict(
        tx.session.exec(
            select(PlanRow.id, PlanRow.name).where(
                col(PlanRow.organization_id) == organization_id,
                col(PlanRow.id).in_([plan_id for plan_id, _ in versions]),
            )
        ).all()
    )
    terms = plans.terms_of_many(tx, versions)
    return [(names[version[0]], terms[version]) for version in sorted(versions)]
