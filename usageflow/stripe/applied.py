"""What Stripe has, by its customer, event name and hour, for who compares it with the ledger."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from sqlalchemy import func, select

from usageflow.config import Settings
from usageflow.db.columns import table
from usageflow.db.exact import add
from usageflow.db.session import Tx
from usageflow.db.tables import LaneRow, StripeMeterRow, UnitRow
from usageflow.errors import DeliveryError
from usageflow.ledger.usage import Slot
from usageflow.periods import HOUR
from usageflow.stripe.access import AccountAccess
from usageflow.stripe.accounts import Refused
from usageflow.stripe.client import StripeGateway

Applied: TypeAlias = Mapping[Slot, Decimal]
"""The value Stripe shows of a slot; those without are left out."""


class Sent(NamedTuple):
    """A customer and meter that units were sent for, from the first to the last hour of usage."""

    stripe_customer: str
    event_name: str
    meter_id: str
    first: datetime
    last: datetime


def sent(tx: Tx, account_id: str) -> list[Sent]:
    """Everything of the account that Stripe could have."""
    units, lanes, meters = table(UnitRow).c, table(LaneRow).c, table(StripeMeterRow).c
    key = (units.stripe_customer_id, lanes.event_name, meters.meter_id)
    rows = tx.session.execute(
        select(*key, func.min(units.hour), func.max(units.hour))
        .join_from(units.id.table, lanes.id.table, lanes.id == units.lane_id)
        .join(
            meters.event_name.table,
            (meters.account_id == lanes.account_id) & (meters.event_name == lanes.event_name),
        )
        .where(lanes.account_id == account_id, units.stripe_customer_id.is_not(None))
        .group_by(*key)
    )
    return [Sent(*row) for row in rows]


class Shown:
    """What Stripe shows, of all accounts, as far as it was asked and answered."""

    def __init__(self) -> None:
        self.values: dict[Slot, Decimal] = {}
        self._answered: dict[tuple[str, str], list[Sent]] = defaultdict(list)

    def add(self, pairs: Iterable[Sent], found: Applied) -> None:
        """What an account showed of its pairs. No two accounts have the same customer."""
        for pair in pairs:
            self._answered[pair.stripe_customer, pair.event_name].append(pair)
        self.values.update(found)

    def get(self, slot: Slot) -> Decimal | None:
        """What Stripe has in a slot; None where it was not asked, or did not answer."""
        pairs = self._answered.get((slot.stripe_customer, slot.event_name), ())
        known = any(pair.first <= slot.hour <= pair.last for pair in pairs)
        return self.values.get(slot, Decimal(0)) if known else None


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
    found: dict[Slot, Decimal] = {}
    for pair in pairs:
        for hour, value in gateway.event_summaries(
            pair.meter_id, pair.stripe_customer, pair.first, pair.last + HOUR, "hour"
        ):
            slot = Slot(pair.stripe_customer, pair.event_name, hour)
            found[slot] = add(found.get(slot, Decimal(0)), value)
    return found
