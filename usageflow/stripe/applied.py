"""What Stripe has, per customer, event name and hour, for people who compare it with the ledger."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from sqlalchemy import func, select

from usageflow.config import Settings
from usageflow.db.exact import add
from usageflow.db.session import Tx
from usageflow.db.tables import CustomerRow, LaneRow, StripeMeterRow, UnitRow, table
from usageflow.errors import DeliveryError
from usageflow.periods import HOUR
from usageflow.stripe.access import AccountAccess
from usageflow.stripe.accounts import Refused
from usageflow.stripe.client import StripeGateway

Applied: TypeAlias = Mapping[tuple[str, str, datetime], Decimal]
"""By customer, event name and UTC hour: the value Stripe shows; hours without are left out."""


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


class Shown:
    """What Stripe shows of all accounts together, as far as it was asked and answered."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, datetime], Decimal] = {}
        self._asked: dict[tuple[str, str], list[tuple[Sent, bool]]] = defaultdict(list)

    def add(self, pairs: Iterable[Sent], found: Applied | None) -> None:
        """What an account showed of its pairs; None if it showed nothing."""
        for pair in pairs:
            self._asked[pair.customer, pair.event_name].append((pair, found is not None))
        for key, value in (found or {}).items():
            self.values[key] = add(self.values.get(key, Decimal(0)), value)

    def get(self, customer: str, event_name: str, hour: datetime) -> Decimal | None:
        """What Stripe has of it; None where it was not asked, or one account did not answer."""
        asked = [
            answered
            for pair, answered in self._asked.get((customer, event_name), ())
            if pair.first <= hour <= pair.last
        ]
        known = bool(asked) and all(asked)
        return self.values.get((customer, event_name, hour), Decimal(0)) if known else None


def ask(
    settings: Settings, reached: AccountAccess | Refused, pairs: Iterable[Sent]
) -> Applied | str:
    """What an account shows of its pairs, or why it shows nothing."""
    if isinstance(reached, Refused):
        return reached.reason
    try:
        with closing(reached.gateway(settings)) as gateway:
            return applied(gateway, pairs)
    except DeliveryError as error:
        return str(error)


def applied(gateway: StripeGateway, pairs: Iterable[Sent]) -> Applied:
    """What Stripe shows of these pairs; one read for each (and each hundred hours).

    Raises DeliveryError if Stripe cannot be asked.
    """
    found: dict[tuple[str, str, datetime], Decimal] = {}
    for pair in pairs:
        for hour, value in gateway.event_summaries(
            pair.meter_id, pair.stripe_customer_id, pair.first, pair.last + HOUR, "hour"
        ):
            key = (pair.customer, pair.event_name, hour)
            found[key] = add(found.get(key, Decimal(0)), value)
    return found
