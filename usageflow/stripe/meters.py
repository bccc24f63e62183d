"""The meters of an account, as last listed: how they add up decides what may be folded."""

from collections.abc import Mapping

from usageflow.db.session import Database
from usageflow.db.tables import StripeMeterRow
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_events import Meter


def refresh(db: Database, account_id: str, gateway: StripeGateway) -> Mapping[str, Meter]:
    """List the meters, store them, and give them by event name. Stripe never deletes a meter.

    Raises DeliveryError if Stripe cannot be asked.
    """
    meters = {meter.event_name: meter for meter in gateway.list_meters()}
    with db.transaction() as tx:
        for meter in meters.values():
            tx.session.merge(
                StripeMeterRow(
                    account_id=account_id,
                    event_name=meter.event_name,
                    meter_id=meter.meter_id,
                    formula=meter.formula,
                    status=meter.status,
                    event_time_window=meter.time_window,
                    refreshed_at=tx.now,
                )
            )
    return meters
