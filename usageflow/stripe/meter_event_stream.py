"""Stripe's v2 meter event stream as a sink: a hundred units in a call, refusals told later.

For more than v1's 1,000 units a second. A 200 means that Stripe will look at the events: what it
then drops comes as an error report, and a repeat is dropped without a word.
"""

from collections.abc import Sequence
from typing import Final

from usageflow.forwarding.batches import each_verdict
from usageflow.forwarding.sink import Parcel, Properties
from usageflow.ledger.splitting import UNIT_DIGITS_MAX
from usageflow.ledger.verdicts import Held, Verdict
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_event_sink import AHEAD_S_MAX, IDENTIFIER_WINDOW_S, LATE_S_MAX
from usageflow.stripe.meter_events import MeterEvent, meter_event
from usageflow.stripe.meters import Meters

STREAM_EVENTS_MAX: Final = 100
"""Events in one call, Stripe's limit."""
STREAM_CALLS_PER_S: Final = 100.0
"""Calls that bring the 10,000 events a second which Stripe takes of an own live account."""


class StripeStream:
    """`POST /v2/billing/meter_event_stream` of one account. `calls_per_s`: what it permits."""

    def __init__(
        self, gateway: StripeGateway, meters: Meters, *, calls_per_s: float = STREAM_CALLS_PER_S
    ) -> None:
        self._gateway = gateway
        self._meters = meters
        self.properties = Properties(
            window_s=IDENTIFIER_WINDOW_S,
            digits_max=UNIT_DIGITS_MAX,
            late_s_max=LATE_S_MAX,
            ahead_s_max=AHEAD_S_MAX,
            batch_max=STREAM_EVENTS_MAX,
            calls_per_s=calls_per_s,
            folding="meters",
            readable=True,
        )

    def send(self, parcels: Sequence[Parcel]) -> Sequence[Verdict]:
        """Send units in one call, without those that cannot be told; see `Sink.send`."""
        told = [self._event(parcel) for parcel in parcels]
        events = [event for event in told if isinstance(event, MeterEvent)]
        verdicts = iter(each_verdict(events, self._gateway.send_stream))
        return [event if isinstance(event, Held) else next(verdicts) for event in told]

    def close(self) -> None:
        """Nothing: the gateway is its owner's to close."""

    def _event(self, parcel: Parcel) -> MeterEvent | Held:
        return meter_event(
            self._meters.get(parcel.event_name),
            customer=parcel.customer,
            quantity=parcel.quantity,
            identifier=parcel.identifier,
            occurred_at=parcel.occurred_at,
        )
