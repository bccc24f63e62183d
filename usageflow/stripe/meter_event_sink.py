"""Stripe's v1 meter events as a sink: one call for each unit, refused or taken at once."""

from collections.abc import Sequence
from typing import Final

from usageflow.forwarding.sink import Parcel, Properties
from usageflow.ledger.splitting import UNIT_DIGITS_MAX
from usageflow.ledger.verdicts import Held, Verdict
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_events import meter_event
from usageflow.stripe.meters import Meters

IDENTIFIER_WINDOW_S: Final = 86_400.0
"""How long Stripe refuses an identifier it knows: "at least 24 hours" (its API reference)."""
LATE_S_MAX: Final = 35 * 86_400.0 - 3_600
"""Stripe takes usage of the past 35 days; an hour less, for a call and its clock."""
AHEAD_S_MAX: Final = 240.0
"""Stripe takes usage of up to 5 minutes ahead; a minute less, for clocks."""


class StripeMeterEvents:
    """`POST /v1/billing/meter_events` of one account. `calls_per_s`: what the account permits."""

    def __init__(self, gateway: StripeGateway, meters: Meters, *, calls_per_s: float) -> None:
        self._gateway = gateway
        self._meters = meters
        self.properties = Properties(
            window_s=IDENTIFIER_WINDOW_S,
            digits_max=UNIT_DIGITS_MAX,
            late_s_max=LATE_S_MAX,
            ahead_s_max=AHEAD_S_MAX,
            batch_max=1,
            calls_per_s=calls_per_s,
            folding="meters",
            readable=True,
        )

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Send one unit; see `Sink.send`."""
        return [self._sent(parcel) for parcel in parcels]

    def close(self) -> None:
        """Nothing: the gateway is its owner's to close."""

    def _sent(self, parcel: Parcel) -> Verdict:
        event = meter_event(
            self._meters.get(parcel.event_name),
            customer=parcel.customer,
            quantity=parcel.quantity,
            identifier=parcel.identifier,
            occurred_at=parcel.occurred_at,
        )
        return event if isinstance(event, Held) else self._gateway.send_meter_event(event)
