"""The meters of an account, as last listed: how they add up decides what may be folded."""

from collections.abc import Iterable, Mapping
from typing import Final

from sqlmodel import col, select

from usageflow.db.session import Database, Tx
from usageflow.db.statements import insert
from usageflow.db.tables import StripeMeterRow
from usageflow.errors import DeliveryError
from usageflow.stripe import accounts
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_events import Meter

ANOTHER_ACCOUNT: Final = (
    "this key is of another Stripe account than the one this organization's usage went to, and "
    "customers there are others; use a database of its own for it"
)


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
        """List the meters and store them; how many there are.

        Stripe never deletes a meter. If none of those we know is there, the key is of another
        account: customers there are others, so the account is paused. Raises DeliveryError for
        that, or if Stripe cannot be asked.
        """
        self.wanted = False
        meters = {meter.event_name: meter for meter in self._gateway.list_meters()}
        with self._db.transaction() as tx:
            strange = is_strange(tx, self._account_id, meters.values())
            if strange:
                accounts.pause(tx, self._account_id, ANOTHER_ACCOUNT)
        if strange:
            raise DeliveryError(ANOTHER_ACCOUNT, refused=True)
        with self._db.transaction() as tx:
            _store(tx, self._account_id, meters.values())
        self._meters, self.known = meters, True
        return len(meters)


def is_strange(tx: Tx, account_id: str, listed: Iterable[Meter]) -> bool:
    """Whether these are another account's meters: we know some, and none of them is there."""
    known = set(
        tx.session.exec(
            select(StripeMeterRow.meter_id).where(col(StripeMeterRow.account_id) == account_id)
        )
    )
    return bool(known) and not known & {meter.meter_id for meter in listed}


def _store(tx: Tx, account_id: str, meters: Iterable[Meter]) -> None:
    """Two servers may do it at once; rows in one order keep them from waiting in a circle."""
    rows = [
        {
            "account_id": account_id,
            "event_name": meter.event_name,
            "meter_id": meter.meter_id,
            "formula": meter.formula,
            "status": meter.status,
            "event_time_window": meter.time_window,
            "refreshed_at": tx.now,
        }
        for meter in sorted(meters, key=lambda one: one.event_name)
    ]
    if not rows:
        return
    statement = insert(tx, StripeMeterRow)
    news = {name: statement.excluded[name] for name in rows[0]}
    key = ["account_id", "event_name"]
    tx.session.execute(statement.on_conflict_do_update(index_elements=key, set_=news), rows)
