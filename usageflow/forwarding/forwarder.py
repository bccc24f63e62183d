"""The forwarder: takes units from the ledger, sends them to a sink, and settles what came of it.

Each unit goes through three steps, each safe to be the last before a crash: claimed (committed:
who sends, since when), bound to its customer (committed: the payload is complete), sent and
settled. Rounds are short: verdicts of the last calls and the next claims are one transaction. What
an answer means is the sink's to say, what follows from it the ledger's.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, Self

from usageflow.catalog import audit
from usageflow.db.session import Database, Tx
from usageflow.errors import DeliveryError
from usageflow.forwarding.pacing import Pacer
from usageflow.forwarding.senders import Senders
from usageflow.forwarding.sink import Parcel, Sink
from usageflow.ledger import units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Addressed,
    Busy,
    Held,
    Parked,
    Quarantined,
    Queued,
    Verdict,
)

ANSWER_WAIT_S: Final = 0.05
"""How long one round waits for the first of its answers before it looks for new units again."""
LOOK_UPS_MAX: Final = 4
"""Customers looked up at a time: Stripe takes 20 searches a second, and sending must go on."""

LEARN_AGAIN_S: Final = 10.0
"""Pause after customers could not be listed; each try is read from the beginning."""

Results = list[tuple[Claim, Verdict]]

logger = logging.getLogger("usageflow.forwarding")


class Addresses(Protocol):
    """Whose a unit is, as the sink knows customers."""

    def prepare(self) -> bool:
        """Learn, for a unit came up whose customer is not known; whether there was anything new.

        One call at a time, from any thread. May raise DeliveryError.
        """
        ...

    def bind(self, tx: Tx, claims: Sequence[Claim]) -> list[Claim]:
        """The claims, in order, those whose customer is known bound to it."""
        ...

    def look_up(self, claim: Claim) -> str | Verdict:
        """Ask outside whose it is, from any thread; the verdict if that is not clear."""
        ...


class Forwarder:
    """Sends the units of one account. Call `forward_once` from one thread; `close` it at the end.

    At most `concurrency` calls are in flight, and `calls_per_s` begin each second, fewer while the
    sink refuses some. A unit whose fate is unknown is sent again with the same identifier for
    `resend_s_max` after its first attempt; afterwards reconciliation decides (a sink that never
    forgets is asked for ever). `lease_s` must
    outlive a look-up and a call; `stop_s_max` bounds the wait of `close`. `skew_s` tells the sink's
    clock minus ours, `ready` whether the sink knows enough to begin.
    """

    def __init__(
        self,
        db: Database,
        account_id: str,
        sink: Sink,
        addresses: Addresses,
        *,
        concurrency: int,
        resend_s_max: float,
        lease_s: float,
        stop_s_max: float,
        calls_per_s: float | None = None,
        skew_s: Callable[[], float] = lambda: 0.0,
        ready: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._account_id = account_id
        self._sink = sink
        self._addresses = addresses
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4()}"
        self._resend_s_max = None if sink.properties.window_s is None else resend_s_max
        self._lease_s = lease_s
        self._stop_s_max = stop_s_max
        self._skew_s = skew_s
        self._ready = ready
        self._clock = clock
        self._pacer = Pacer(calls_per_s or sink.properties.calls_per_s)
        self._senders: Senders[Results] = Senders(concurrency, "usageflow-sender")
        self._finders: Senders[Results] = Senders(LOOK_UPS_MAX, "usageflow-customer")
        self._unsettled: Results = []
        self._learning = threading.Lock()
        self._learn_at = 0.0
        self._told_parked: set[int] = set()
        self._closed = False

    @property
    def _busy(self) -> int:
        return self._senders.busy + self._finders.busy

    @property
    def rate(self) -> float:
        """Calls per second that may begin at present."""
        return self._pacer.rate

    def forward_once(self) -> int:
        """Settle what was answered, and begin what may begin now; how much there was to do.

        0: nothing is due, or the sink is not ready. Raises DatabaseError; what has been answered is
        kept then.
        """
        if not self._ready():
            return 0
        self._gather(ANSWER_WAIT_S)
        wanted = self._pacer.grant(self._clock(), self._senders.free)
        settled = len(self._unsettled)
        claims = self._exchange(wanted * self._sink.properties.batch_max)
        begun = self._send([claim for claim in claims if claim.stripe_customer_id is not None])
        self._pacer.give_back(wanted - begun)
        self._find([claim for claim in claims if claim.stripe_customer_id is None])
        return settled + self._busy + len(self._unsettled)

    def close(self) -> None:
        """Wait for the calls in flight, and settle their verdicts, but only up to the bound.

        Nothing is begun or settled afterwards. A unit without a verdict is found again, by its
        lease or by `units.recover`, and sent again with the same identifier.
        """
        if self._closed:
            return
        deadline = self._clock() + self._stop_s_max
        while self._busy and (left := deadline - self._clock()) > 0:
            self._gather(left)
        self._closed = True
        self._exchange(0)
        if self._busy:
            logger.warning("%d calls unanswered; their units are sent again", self._busy)
        self._senders.close()
        self._finders.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gather(self, wait_s: float) -> None:
        """Collect verdicts, and let the pace follow them."""
        answered = [one for results in self._senders.gather(wait_s) for one in results]
        found = self._finders.gather(0.0 if answered else wait_s)
        now = self._clock()
        for _, verdict in answered:
            if isinstance(verdict, Accepted | Quarantined | Busy):
                refused = isinstance(verdict, Busy) and verdict.account
                self._pacer.answered(now, refused=refused)
        self._unsettled += answered
        self._unsettled += [one for results in found for one in results]

    def _exchange(self, limit: int) -> list[Claim]:
        """One transaction: settle what is unsettled, claim at most `limit` units.

        If it fails, the verdicts are kept for the next round; nothing has been sent on its ground.
        """
        if not self._unsettled and not limit:
            return []
        with self._db.transaction() as tx:
            settled = self._settle(tx)
            claims = self._claim(tx, limit) if limit and not self._closed else []
        verdicts, self._unsettled = self._unsettled, []
        for claim, verdict in verdicts:
            if claim.unit_id in settled:
                self._tell(claim, verdict)
        return claims

    def _settle(self, tx: Tx) -> set[int]:
        """Settle what is unsettled; that an account takes nothing any more is noted once."""
        if not self._unsettled:
            return set()
        final = not self._sink.properties.readable
        settled = units.settle_all(tx, self._unsettled, final=final)
        for claim, verdict in self._unsettled:
            if isinstance(verdict, AccountPaused) and claim.unit_id in settled:
                audit.record(
                    tx,
                    claim.organization_id,
                    actor=audit.SYSTEM,
                    action="stripe.deauthorize" if verdict.deauthorized else "stripe.pause",
                    subject=self._account_id,
                    after={"reason": verdict.message},
                )
                break
        return settled

    def _claim(self, tx: Tx, limit: int) -> list[Claim]:
        properties = self._sink.properties
        limits = Limits(
            resend_s_max=self._resend_s_max,
            late_s_max=properties.late_s_max,
            ahead_s_max=properties.ahead_s_max,
            skew_s=self._skew_s(),
        )
        claims = units.claim(
            tx,
            self._account_id,
            owner=self._owner,
            limit=limit,
            lease_s=self._lease_s,
            limits=limits,
        )
        return self._addresses.bind(tx, claims) if claims else []

    def _send(self, claims: Sequence[Claim]) -> int:
        """Begin the calls that carry these claims; how many calls."""
        size = self._sink.properties.batch_max
        batches = [claims[start : start + size] for start in range(0, len(claims), size)]
        for batch in batches:
            self._senders.begin(f"unit {batch[0].identifier}", partial(self._deliver, batch))
        return len(batches)

    def _find(self, claims: Sequence[Claim]) -> None:
        """Find out whose these are, in threads of their own, so that nobody waits for it."""
        free = self._finders.free if self._clock() >= self._learn_at else 0
        for claim in claims[:free]:
            self._finders.begin(f"unit {claim.identifier}", partial(self._looked_up, claim))
        self._unsettled += [(claim, Queued()) for claim in claims[free:]]

    def _deliver(self, claims: Sequence[Claim]) -> Results:
        verdicts = self._sink.send([_parcel(claim) for claim in claims])
        return list(zip(claims, verdicts, strict=True))

    def _looked_up(self, claim: Claim) -> Results:
        """Once its customer is clear, a unit is bound and sent in the next round."""
        try:
            with self._learning:
                learned = self._addresses.prepare()
        except DeliveryError as error:
            self._learn_at = self._clock() + LEARN_AGAIN_S
            logger.error("customers cannot be listed: %s", error)  # noqa: TRY400 - it says enough
            return [(claim, Queued())]
        found = "" if learned else self._addresses.look_up(claim)
        return [(claim, Addressed() if isinstance(found, str) else found)]

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
            case AccountPaused(message):
                logger.error("account %s takes nothing: %r", claim.account_id, message)
        if isinstance(verdict, Accepted | Quarantined | Held):  # it is not tried again
            self._told_parked.discard(claim.unit_id)


def _parcel(claim: Claim) -> Parcel:
    return Parcel(
        identifier=claim.identifier,
        event_name=claim.event_name,
        customer=claim.stripe_customer_id or "",
        identity_field=claim.identity_field,
        identity_value=claim.identity_value,
        quantity=claim.quantity,
        occurred_at=claim.occurred_at,
    )


def _warn(claim: Claim, state: str, reason: str) -> None:
    """Texts from outside are quoted, so that they cannot forge a line of the log."""
    logger.warning(
        "unit %s is %s: customer %s %r, event name %r, reason %r",
        *(claim.identifier, state, claim.identity_field, claim.identity_value),
        *(claim.event_name, reason),
    )
