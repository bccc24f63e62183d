"""The forwarder: takes units from the ledger, sends them to Stripe, and settles what came of it.

Each unit goes through three steps, each safe to be the last before a crash: claimed (committed:
who sends, since when), bound to its Stripe customer (committed: the payload is complete), sent and
settled. What the answer means is decided in `answers`, what follows from it in the ledger.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Final, Self

from usageflow.db.session import Database, Tx
from usageflow.errors import DeliveryError, UsageFlowError
from usageflow.ledger import units
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Busy,
    Held,
    Parked,
    Quarantined,
    Verdict,
)
from usageflow.stripe import customers, meters
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.meter_events import Meter, meter_event
from usageflow.stripe.pacing import TokenBucket

ANSWER_WAIT_S: Final = 0.05
"""How long one round waits for the first of its answers before it looks for new units again."""
CALLS_PER_UNIT: Final = 4
"""Calls one unit may take, so that its lease outlives them: search, two customers, the event."""

logger = logging.getLogger("usageflow.stripe")


class Forwarder:
    """Sends the units of one account. Call `forward_once` from one thread; `close` it at the end.

    At most `concurrency` calls are in flight, and `calls_per_s` meter events begin each second. A
    unit whose fate is unknown is sent again with the same identifier for `resend_s_max` after its
    first attempt, and is held for a human afterwards. `stop_s_max` bounds the wait of `close`.
    """

    def __init__(
        self,
        db: Database,
        account_id: str,
        gateway: StripeGateway,
        *,
        timeout_s: float,
        calls_per_s: float,
        concurrency: int,
        resend_s_max: float,
        stop_s_max: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._db = db
        self._account_id = account_id
        self._gateway = gateway
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4()}"
        self._lease_s = CALLS_PER_UNIT * timeout_s + concurrency / calls_per_s
        self._concurrency = concurrency
        self._resend_s_max = resend_s_max
        self._bucket = TokenBucket(calls_per_s, concurrency)
        self._clock = clock
        self._sleep = sleep
        self._stop_s_max = stop_s_max
        self._closed = False
        self._in_flight: set[Future[None]] = set()
        self._meters: Mapping[str, Meter] | None = None
        self._swept: set[str] = set()
        self._told_parked: set[int] = set()

    def refresh(self) -> int:
        """List the meters again; how many there are. Raises DeliveryError."""
        self._meters = found = meters.refresh(self._db, self._account_id, self._gateway)
        return len(found)

    def forward_once(self) -> int:
        """Begin what may begin now; how many units are being sent or have just been settled.

        0: nothing is due, or the meters have not been listed yet, so that it is not known what
        they expect. What a sender cannot turn into a verdict, such as DatabaseError, is logged;
        its unit is found again when the lease ends.
        """
        if self._meters is None:
            return 0
        self._sweep()
        for claim in self._claim():
            self._sleep(self._bucket.take(self._clock()))
            meter = self._meters.get(claim.event_name, Meter(event_name=claim.event_name))
            self._in_flight.add(self._begin(claim, meter))
        busy = len(self._in_flight)
        self._in_flight = wait(self._in_flight, ANSWER_WAIT_S, FIRST_COMPLETED).not_done
        return busy

    def close(self) -> None:
        """Wait for the calls in flight, and settle their verdicts, but only up to the bound.

        Nothing is begun or settled afterwards. A unit without a verdict is found again, by its
        lease or by `units.recover`, and sent again with the same identifier.
        """
        late = wait(self._in_flight, self._stop_s_max).not_done
        self._closed = True
        if late:
            logger.warning("%d calls to Stripe unanswered; their units are sent again", len(late))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sweep(self) -> None:
        """List the customers once for each field that is new to us, before anything is claimed."""
        with self._db.reading() as tx:
            new = customers.waiting_fields(tx, self._account_id) - self._swept
            unknown = {one for one in new if not customers.is_known(tx, self._account_id, one)}
        if unknown:
            try:
                customers.sweep(self._db, self._account_id, self._gateway, unknown)
            except DeliveryError as error:
                if not error.refused:  # a key that may not list may still search
                    raise
        self._swept |= new

    def _claim(self) -> list[Claim]:
        """Claim a unit for each free sender, bound to its customer where that is known."""
        free = self._concurrency - len(self._in_flight)
        if free <= 0 or self._closed:
            return []
        with self._db.transaction() as tx:
            claims = units.claim(
                tx,
                self._account_id,
                owner=self._owner,
                limit=free,
                lease_s=self._lease_s,
                resend_s_max=self._resend_s_max,
            )
            return [self._bound(tx, claim) for claim in claims]

    def _bound(self, tx: Tx, claim: Claim) -> Claim:
        if claim.stripe_customer_id is None:
            field, value = claim.identity_field, claim.identity_value
            match customers.known(tx, self._account_id, field, value):
                case [customer_id]:
                    return units.bind_customer(tx, claim, customer_id)
        return claim

    def _begin(self, claim: Claim, meter: Meter) -> Future[None]:
        """Deliver in a thread of its own; done when it has ended, however it did."""
        ended: Future[None] = Future()

        def run() -> None:
            try:
                self._deliver(claim, meter)
            except Exception as error:
                # What we can explain needs no traceback; a fault of ours does.
                trace = None if isinstance(error, UsageFlowError) else error
                logger.error("unit %s: %s", claim.identifier, error, exc_info=trace)  # noqa: TRY400 - see above
            finally:
                ended.set_result(None)

        # A daemon, which no ThreadPoolExecutor has: a call that hangs must not hold up the exit.
        threading.Thread(target=run, name="usageflow-stripe", daemon=True).start()
        return ended

    def _deliver(self, claim: Claim, meter: Meter) -> None:
        """Bring one claimed unit to a verdict, and settle it."""
        verdict = self._attempt(claim, meter)
        if self._closed:  # the database may be closed too, and the unit be another sender's
            return
        with self._db.transaction() as tx:
            settled = units.settle(tx, claim, verdict)
        if settled:
            self._tell(claim, verdict)

    def _tell(self, claim: Claim, verdict: Verdict) -> None:
        """Warn when a unit comes to need a human; of a parked one only the first time we see it."""
        match verdict:
            case Parked(reason):
                # One that may have been sent before is not parked: its fate stays unknown.
                if claim.undecided or claim.unit_id in self._told_parked:
                    return
                self._told_parked.add(claim.unit_id)
                _warn(claim, "parked", reason)
            case Quarantined(code, message):
                _warn(claim, "quarantined", f"{code}: {message}")
            case Held(reason):
                _warn(claim, "held", reason)
        if isinstance(verdict, Accepted | Quarantined | Held):  # it is not tried again
            self._told_parked.discard(claim.unit_id)

    def _attempt(self, claim: Claim, meter: Meter) -> Verdict:
        customer = claim.stripe_customer_id or self._looked_up(claim)
        if not isinstance(customer, str):
            return customer
        event = meter_event(
            meter,
            customer=customer,
            quantity=claim.quantity,
            identifier=claim.identifier,
            occurred_at=claim.occurred_at,
        )
        return event if isinstance(event, Held) else self._gateway.send_meter_event(event)

    def _looked_up(self, claim: Claim) -> str | Verdict:
        """The one customer of the claim, bound to it; else the verdict: no byte of it was sent."""
        field, value = claim.identity_field, claim.identity_value
        with self._db.reading() as tx:
            before = customers.known(tx, self._account_id, field, value)
        try:
            now = customers.look_up(self._gateway, field, value, before)
        except DeliveryError as error:
            return AccountPaused(str(error)) if error.refused else Busy()
        if self._closed:
            return Busy()
        with self._db.transaction() as tx:
            customers.replace(tx, self._account_id, field, value, now)
            if len(now) == 1:
                units.bind_customer(tx, claim, now[0])
                return now[0]
        return customers.unclear(field, value, now)


def _warn(claim: Claim, state: str, reason: str) -> None:
    """Texts from outside are quoted, so that they cannot forge a line of the log."""
    logger.warning(
        "unit %s is %s: customer %s %r, event name %r, reason %r",
        *(claim.identifier, state, claim.identity_field, claim.identity_value),
        *(claim.event_name, reason),
    )
