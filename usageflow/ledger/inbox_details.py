"""What the items of the inbox are of: whose, how much, and where to look for the cause. Reads only.

Kept apart from `inbox`, which is read often: only who is shown an item needs this.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from sqlmodel import col, select

from usageflow.db.exact import add
from usageflow.db.session import Tx
from usageflow.db.tables import LaneRow, ReconciliationRow, UnitRow, UsageEventRow
from usageflow.ledger.inbox import Item

KEYS_MAX: Final = 500
"""Keys in one statement: well below the least number of variables a database takes."""


@dataclass(frozen=True, slots=True)
class Details:
    """What an item is of: an event has a metric, a policy and a request, a unit an event name.

    `value` is None if nobody knows whose it is, `quantity` if nothing could be measured. A
    difference has no identity, but the customer at Stripe.
    """

    field: str
    value: str | None
    quantity: Decimal | None
    stripe_customer: str | None = None
    metric: str | None = None
    event_name: str | None = None
    policy: str | None = None
    policy_version: str | None = None
    request: str | None = None
    """Method and template of the request; what it asked for is nobody's business."""
    status: int | None = None
    occurred_at: datetime | None = None

    @property
    def where(self) -> str:
        """What a person looks for to mend the cause."""
        if self.policy is None:
            return self.stripe_customer or ""
        return f"{self.policy}: {self.request} {self.status or ''}"


AllDetails: TypeAlias = Mapping[tuple[str, str | None], Details]
"""Details by kind and key of their item; a refused line has none."""


def details(tx: Tx, organization_id: str, shown: Sequence[Item]) -> AllDetails:
    """What each of these items is of."""
    return {
        **_of_events(tx, organization_id, _keys("event", shown)),
        **_of_units(tx, organization_id, _keys("unit", shown)),
        **_of_differences(tx, organization_id, _keys("difference", shown)),
    }


def document(item: Item, of: Details | None) -> dict[str, Any]:
    """An item as JSON has it: every key is there, what is not known is None."""
    return {
        "kind": item.kind,
        "state": item.state,
        "since": item.since,
        "id": item.key,
        "metric": of and of.metric,
        "event_name": of and of.event_name,
        "identity": {"field": of.field, "value": of.value} if of and of.value else None,
        "stripe_customer": of and of.stripe_customer,
        "quantity": of and of.quantity,
        "policy": of and of.policy,
        "policy_version": of and of.policy_version,
        "request": of and of.request,
        "status": of and of.status,
        "occurred_at": of and of.occurred_at,
        "reason": item.reason,
        "line": None if of else item.subject,
    }


def _keys(kind: str, shown: Sequence[Item]) -> Iterator[list[str]]:
    """The keys of one kind, as many at a time as one statement may have."""
    keys = [item.key for item in shown if item.kind == kind and item.key is not None]
    return (keys[start : start + KEYS_MAX] for start in range(0, len(keys), KEYS_MAX))


def _of_events(
    tx: Tx, organization_id: str, keys: Iterable[list[str]]
) -> dict[tuple[str, str | None], Details]:
    ours = select(UsageEventRow).where(col(UsageEventRow.organization_id) == organization_id)
    return {
        ("event", row.id): Details(
            row.identity_field,
            row.identity_value,
            row.quantity,
            metric=row.metric,
            event_name=row.event_name,
            policy=row.policy,
            policy_version=row.policy_version,
            request=f"{row.request_method} {row.request_route}",
            status=row.request_status,
            occurred_at=row.occurred_at,
        )
        for some in keys
        for row in tx.session.exec(ours.where(col(UsageEventRow.id).in_(some)))
    }


def _of_units(
    tx: Tx, organization_id: str, keys: Iterable[list[str]]
) -> dict[tuple[str, str | None], Details]:
    both = (
        select(UnitRow, LaneRow)
        .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        .where(col(UnitRow.organization_id) == organization_id)
    )
    return {
        ("unit", unit.identifier): Details(
            lane.identity_field,
            lane.identity_value,
            unit.quantity,
            stripe_customer=unit.stripe_customer_id,
            event_name=lane.event_name,
            occurred_at=unit.occurred_at,
        )
        for some in keys
        for unit, lane in tx.session.exec(both.where(col(UnitRow.identifier).in_(some)))
    }


def _of_differences(
    tx: Tx, organization_id: str, keys: Iterable[list[str]]
) -> dict[tuple[str, str | None], Details]:
    """The quantity is what Stripe lacks; what it has too much of is negative."""
    ours = select(ReconciliationRow).where(
        col(ReconciliationRow.organization_id) == organization_id
    )
    return {
        ("difference", str(row.id)): Details(
            "",
            None,
            add(row.expected, row.observed.copy_negate()),
            stripe_customer=row.stripe_customer_id,
            event_name=row.event_name,
            occurred_at=row.hour,
        )
        for some in keys
        for row in tx.session.exec(ours.where(col(ReconciliationRow.id).in_(map(int, some))))
    }
