"""The meters of an account, as last listed: how they add up decides what may be folded."""

from collections.abc import Mapping

from usageflow.db.session import Database
from usageflow.db.tables import StripeMeterRow
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_events import Meter


class Meters:
    """What is known of an account's meters. Safe to use from several threads.

    `known`: they have been listed. `wanted`: they should be listed soon, for one came up that is
    new, or Stripe told that one has changed.
    """

    def __init__(self, db: Database, account_id: str, gateway: StripeGateway) -> None:
        self._db = db
        self._account_id = account_id
        self._gateway = gateway
        self._meters: Mapping[str, Meter] = {}
        self.known = False
        self.wanted = True

    def get(self, event_name: str) -> Meter:
        """The meter of an event name; one that was never listed is taken for a plain `sum`."""
        meter = self._meters.get(event_name)
        if meter is None:
            self.wanted = True
            return Meter(event_name=event_name)
        return meter

    def want(self) -> None:
        """Let them be listed soon."""
        self.wanted = True

    def refresh(self) -> int:
        """List the meters and store them; how many there are. Stripe never deletes a meter.

        Raises DeliveryError if Stripe cannot be asked.
        """
        self.wanted = False
        meters = {meter.event_name: meter for meter in self._gateway.list_meters()}
        with self._db.transaction() as tx:
            for meter in meters.values():
                tx.session.merge(
                    StripeMeterRow(
                        account_id=self._account_id,
                        event_name=meter.event_name,
                        meter_id=meter.meter_id,
                        formula=meter.formula,
                        status=meter.status,
                        event_time_window=meter.time_window,
                        refreshed_at=tx.now,
                    )
                )
        self._meters, self.known = meters, True
        return len(meters)
