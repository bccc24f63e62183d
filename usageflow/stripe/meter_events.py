"""What Stripe is told about a unit, and why some units cannot be told. Pure.

The same unit gives the same event, for ever: its identifier must never come with another payload.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from usageflow.ledger.splitting import UNIT_DIGITS_MAX, digits
from usageflow.ledger.verdicts import Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What a Stripe meter expects. `time_window`: it keeps only the last event of an hour or day.

    The defaults are those of a meter that was never seen.
    """

    event_name: str
    meter_id: str = ""
    formula: str = "sum"
    status: str = "active"
    time_window: str | None = None
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """The parameters of one `POST /v1/billing/meter_events`; `timestamp` is Unix time."""

    event_name: str
    identifier: str
    timestamp: int
    payload: dict[str, str]


def meter_event(
    meter: Meter, *, customer: str, quantity: Decimal, identifier: str, occurred_at: datetime
) -> MeterEvent | Held:
    """The meter event of a unit, or why a human must look at it first."""
    if meter.time_window is not None:
        return Held(
            f"the Stripe meter of {meter.event_name} keeps only the last event of each "
            f"{meter.time_window}; use a meter without event_time_window"
        )
    value, length = plain(quantity), digits(quantity)
    if length > UNIT_DIGITS_MAX:
        return Held(f"quantity {value} has {length} digits; Stripe takes at most {UNIT_DIGITS_MAX}")
    return MeterEvent(
        event_name=meter.event_name,
        identifier=identifier,
        timestamp=int(occurred_at.timestamp()),
        payload={meter.customer_key: customer, meter.value_key: value},
    )


def plain(quantity: Decimal) -> str:
    """The quantity in plain notation, exact, without zeros that say nothing."""
    text = format(quantity, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
