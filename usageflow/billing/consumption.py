"""What a subscription has used in its running period, charge by charge, and what that costs.

An invoice of it, with base price, minimum and what was billed before, is `preview`'s.
"""

from decimal import Decimal
from typing import NamedTuple

from usageflow.billing import closing
from usageflow.billing.prices import Prices
from usageflow.billing.pricing import price
from usageflow.catalog.charges import Charge, Terms
from usageflow.db.billing_tables import SubscriptionRow
from usageflow.db.session import Tx
from usageflow.money import from_minor, to_minor


class Consumed(NamedTuple):
    """The usage of one charge, and its price, rounded as a line of an invoice is."""

    charge: Charge
    unit: str
    quantity: Decimal
    amount: Decimal


def of_period(tx: Tx, subscription: SubscriptionRow, terms: Terms) -> list[Consumed]:
    """What the usage charges come to in the period so far; in a trial, what they would."""
    prices = Prices(tx, subscription.organization_id)
    end = subscription.period_end
    segment = closing.wanted(subscription, terms, end=end, kind="period").segment
    used = prices.usage(segment)
    return [
        Consumed(
            charge=charge,
            unit=prices.unit(charge.metric),
            quantity=used[charge.id],
            amount=from_minor(
                to_minor(price(charge, used[charge.id]).amount, terms.currency), terms.currency
            ),
        )
        for charge in terms.charges
        if charge.id in used
    ]
