"""What Stripe has, per customer, event name and hour, for people who compare it with the ledger."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import func, select

from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, LaneRow, StripeMeterRow, UnitRow, table
from usageflow.periods import HOUR
from usageflow.stripe.client import StripeGateway


class Sent(NamedTuple):
    """A customer and meter that units were sent for, from the first to the last hour of usage."""

    customer: str
    event_name: str
    meter_id: str
    stripe_customer_id: str
    first: datetime
    last: datetime


def sent(tx: Tx, account_id: str) -> list[Sent]:
    """Everything of the account that Stripe could have. `customer` is the external id."""
    units, lanes = table(UnitRow).c, table(LaneRow).c
    payers, meters = table(CustomerRow).c, table(StripeMeterRow).c
    key = (payers.external_id, lanes.event_name, meters.meter_id, units.stripe_customer_id)
    rows = tx.session.execute(
        select(*key, func.min(units.hour), func.max(units.hour))
        .join_from(units.id.table, lanes.id.table, lanes.id == units.lane_id)
        .join(payers.id.table, payers.id == lanes.customer_id)
        .join(
            meters.event_name.table,
            (meters.account_id == lanes.account_id) & (meters.event_name == lanes.event_name),
        )
        .where(lanes.account_id == account_id, units.stripe_customer_id.is_not(None))
        .group_by(*key)
    )
    return [Sent(*row) for row in rows]


def applied(
    gateway: StripeGateway, pairs: Iterable[Sent]
) -> Mapping[tuple[str, str, datetime], Decimal]:
    """By customer, event name and UTC hour: the value Stripe shows; hours without are left out.

    Reads once per pair (and hundred hours). Raises DeliveryError if Stripe cannot be asked.
    """
    found: dict[tuple[str, str, datetime], Decimal] = {}
    for pair in pairs:
        for hour, value in gateway.event_summaries(
            pair.meter_id, pair.stripe_customer_id, pair.first, pair.last + HOUR, "hour"
        ):
            key = (pair.customer, pair.event_name, hour)
            found[key] = found.get(key, Decimal(0)) + value
    return found
