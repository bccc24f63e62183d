"""The stored meters of an account."""

from typing import TYPE_CHECKING

from sqlmodel import select

from usageflow.db.tables import StripeMeterRow
from usageflow.stripe import meters

if TYPE_CHECKING:
    import stripe as stripe_sdk

    from tests.stripe.conftest import Way


def test_a_refresh_follows_stripe(way: "Way", sdk: "stripe_sdk.StripeClient") -> None:
    """New meters are added, changed ones updated; the payload keys come back with them."""
    way.emulator.seed([], ["tokens", {"event_name": "calls", "formula": "count"}])
    found = meters.refresh(way.database, way.account_id, way.gateway)
    assert {name: meter.formula for name, meter in found.items()} == {
        "tokens": "sum",
        "calls": "count",
    }
    sdk.v1.billing.meters.deactivate(found["tokens"].meter_id)
    way.emulator.seed([], [{"event_name": "seats", "event_time_window": "hour"}])
    meters.refresh(way.database, way.account_id, way.gateway)
    with way.database.reading() as tx:
        rows = tx.session.exec(select(StripeMeterRow)).all()
        shown = {row.event_name: (row.formula, row.status, row.event_time_window) for row in rows}
    assert shown == {
        "tokens": ("sum", "inactive", None),
        "calls": ("count", "active", None),
        "seats": ("sum", "active", "hour"),
    }
