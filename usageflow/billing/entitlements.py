"""What a customer may use by its subscriptions, and how much of that is used. Reads only.

Nothing is kept from anybody here: a program asks before it serves, and acts on the answer.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from sqlmodel import and_, col, select

from usageflow.billing import subscriptions
from usageflow.billing.subscription_states import GRANTING
from usageflow.catalog import features, plans
from usageflow.catalog.charges import Entitlement, Terms
from usageflow.catalog.refusals import Refused
from usageflow.db.billing_tables import FeatureRow, SubscriptionRow
from usageflow.db.session import Tx
from usageflow.db.tables import MetricRow
from usageflow.ledger import aggregation
from usageflow.ledger.aggregation import Ask
from usageflow.money import EXACT, plain
from usageflow.periods import Period, Schedule

_ONE: Final = Decimal(1)
_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Granted:
    """A feature that a subscription grants. `used`, since the last reset, is of a meter alone."""

    feature: FeatureRow
    subscription: SubscriptionRow
    entitlement: Entitlement
    used: Decimal | None = None
    resets_at: datetime | None = None

    @property
    def remaining(self) -> Decimal | None:
        """What is left of the limit, never below 0; None if there is no limit."""
        limit = self.entitlement.usage_limit
        if limit is None or self.used is None:
            return None
        return max(_ZERO, EXACT.subtract(limit, self.used))


class Decision(NamedTuple):
    """Whether something may be used, why, and by which grant. `over`: beyond a soft limit."""

    allowed: bool
    reason: str
    granted: Granted | None = None
    over: bool = False


class _Grant(NamedTuple):
    """One entitlement of one subscription, before usage is known."""

    subscription: SubscriptionRow
    terms: Terms
    entitlement: Entitlement

    def counted(self, now: datetime) -> Period:
        """From the last reset to the next: the entitlement's own, or the plan's.

        They are counted from the anchor of the subscription, a trial's from its start.
        """
        interval = self.entitlement.reset_period or self.terms.interval
        anchor, zone = self.subscription.anchor_at, self.subscription.time_zone
        schedule = Schedule(anchor, interval, zone, self.terms.alignment)
        return schedule.period(schedule.index_of(now))


def of_customer(tx: Tx, organization_id: str, customer_id: str) -> list[Granted]:
    """Everything that the customer's current subscriptions grant, by feature."""
    grants = _grants(tx, organization_id, customer_id)
    known = _features(tx, organization_id, [grant.entitlement.feature_id for grant in grants])
    asked = []
    for grant in grants:
        feature, metric = known[grant.entitlement.feature_id]
        ask = None
        if metric is not None:
            ask = Ask(customer_id, metric.key, metric.aggregation, *grant.counted(tx.now))
        asked.append((grant, feature, ask))
    asks = [ask for _, _, ask in asked if ask is not None]
    used = aggregation.quantities(tx, organization_id, asks)
    granted = [
        Granted(
            feature,
            grant.subscription,
            grant.entitlement,
            used=None if ask is None else used[ask].quantity,
            resets_at=None if ask is None else ask.end,
        )
        for grant, feature, ask in asked
    ]
    return sorted(granted, key=lambda one: one.feature.lookup_key)


def check(
    tx: Tx, organization_id: str, customer_id: str, feature: str, quantity: Decimal = _ONE
) -> Decision | Refused:
    """Whether the customer may use `quantity` more of a feature, by its lookup key or id.

    Limits of several subscriptions do not add up: one that allows it is enough.
    """
    found = features.find(tx, organization_id, feature)
    if found is None:
        return features.unknown(feature)
    decisions = [
        decide(granted, quantity)
        for granted in of_customer(tx, organization_id, customer_id)
        if granted.feature.id == found.id
    ]
    states = ", ".join(GRANTING)
    none = Decision(False, f"no subscription of the customer ({states}) grants {found.lookup_key}")
    return max(decisions, key=lambda one: (one.allowed, not one.over), default=none)


def decide(granted: Granted, quantity: Decimal) -> Decision:
    """What one grant says to using `quantity` more. Pure."""
    key, limit = granted.feature.lookup_key, granted.entitlement.usage_limit
    if not granted.entitlement.enabled:
        return Decision(False, f"the plan switches {key} off", granted)
    if granted.used is None or limit is None:
        return Decision(True, f"the plan grants {key}", granted)
    told = f"{plain(granted.used)} of {plain(limit)} used"
    if EXACT.add(granted.used, quantity) <= limit:
        return Decision(True, told, granted)
    beyond = f"{told}, and {plain(quantity)} more is beyond the limit"
    if granted.entitlement.soft:
        return Decision(True, f"{beyond}, which is soft", granted, over=True)
    return Decision(False, beyond, granted)


def _grants(tx: Tx, organization_id: str, customer_id: str) -> list[_Grant]:
    current = [
        subscription
        for subscription in subscriptions.of_customer(tx, organization_id, customer_id)
        if subscription.state in GRANTING and subscription.period_start <= tx.now
    ]
    versions = [(subscription.plan_id, subscription.plan_version) for subscription in current]
    terms = plans.terms_of_many(tx, versions)
    return [
        _Grant(subscription, terms[version], entitlement)
        for subscription, version in zip(current, versions, strict=True)
        for entitlement in terms[version].entitlements
    ]


def _features(
    tx: Tx, organization_id: str, ids: Collection[str]
) -> dict[str, tuple[FeatureRow, MetricRow | None]]:
    """Features by id, with the metric that a meter counts."""
    rows = tx.session.exec(
        select(FeatureRow, MetricRow)
        .outerjoin(
            MetricRow,
            and_(
                col(MetricRow.organization_id) == FeatureRow.organization_id,
                col(MetricRow.key) == FeatureRow.metric,
            ),
        )
        .where(col(FeatureRow.organization_id) == organization_id, col(FeatureRow.id).in_(ids))
    )
    return {feature.id: (feature, metric) for feature, metric in rows}
