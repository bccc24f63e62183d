"""Whose Stripe customer an identity is: exactly one, by the exact value of a metadata field.

Stripe is asked as seldom as can be: all customers are listed once for each field, an identity that
is still unclear is searched, and what changes afterwards is told by events (`events`). None or
several is an answer that parks the usage; it is never dropped and never given to "the first".
What is known is in the `directory`, what it means is decided in `identities`.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from usageflow.db.session import Database, Tx
from usageflow.errors import DeliveryError
from usageflow.forwarding.pacing import Pacer
from usageflow.ledger import units
from usageflow.ledger.units import Claim
from usageflow.ledger.verdicts import AccountPaused, Busy, Verdict
from usageflow.stripe import directory, identity_lanes
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.identities import Meant, deleted, unclear, whose

SEARCHES_PER_S: Final = 10.0
"""Searches that begin in a second; Stripe takes 20, and people search too."""
CANDIDATES_MAX: Final = 10
"""Customers that are read for one identity: two are as unclear as a thousand."""
LISTED_AT_ONCE: Final = 500
"""Customers put into the directory in one transaction, while others wait."""
LIST_AGAIN: Final = timedelta(hours=1)
"""Shortest pause between two lists for want of a search: a list is a read per 100 customers."""
READ_AGE: Final = timedelta(seconds=2)
"""How old a reading is taken to be. Events are dated by the second, and so is Stripe's clock as we
know it: a change that a reading has not seen must never count as the older one."""
_TRY_LATER: Final = frozenset({401, 403, 409, 429})
_REFUSED_MIN, _REFUSED_MAX = 400, 499


class StripeAddresses:
    """The Stripe customers of one account's usage. Safe to use from several threads."""

    def __init__(
        self,
        db: Database,
        account_id: str,
        gateway: StripeGateway,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._db = db
        self._account_id = account_id
        self._gateway = gateway
        self._clock = clock
        self._sleep = sleep
        self._pacer = Pacer(SEARCHES_PER_S)
        self._lock = threading.Lock()
        self._unlisted: set[str] = set()

    def prepare(self) -> bool:
        """List all customers, once for each field that usage is known by; whether one was new.

        Raises DeliveryError.
        """
        with self._db.reading() as tx:
            fields = identity_lanes.fields(tx, self._account_id)
            new = fields - directory.listed(tx, self._account_id) - self._unlisted
        if new:
            try:
                list_all(self._db, self._account_id, self._gateway, new)
            except DeliveryError as error:
                if not error.refused:
                    raise
                self._unlisted |= new  # a key that may not list may still search
        return bool(new)

    def bind(self, tx: Tx, claims: Sequence[Claim]) -> list[Claim]:
        """The claims, in order; those of whom it is clear whose they are, bound to that customer.

        A claim that is bound already keeps its customer for ever.
        """
        unbound = [claim for claim in claims if claim.stripe_customer_id is None]
        identities = {(one.identity_field, one.identity_value) for one in unbound}
        meant = directory.known(tx, self._account_id, identities)
        bound: dict[int, str] = {}
        for one in unbound:
            match whose(meant.get((one.identity_field, one.identity_value), ()), one.occurred_at):
                case [customer_id]:
                    bound[one.unit_id] = customer_id
        return units.bind_customers(tx, claims, bound)

    def look_up(self, claim: Claim) -> str | Verdict:
        """Ask Stripe whose the claim is; the verdict if that is not clear, or cannot be asked.

        Nothing is bound: that is `bind`'s, once the unit is claimed again.
        """
        field, value = claim.identity_field, claim.identity_value
        meant, now = self._known(claim)
        found = whose(meant, claim.occurred_at)
        if len(found) != 1 and value:
            try:
                self._ask(field, value, found, now)
            except DeliveryError as error:
                return AccountPaused(str(error)) if error.refused else Busy()
            meant, _ = self._known(claim)
            found = whose(meant, claim.occurred_at)
        if len(found) == 1:
            return found[0]
        return unclear(field, value, found, deleted(meant, claim.occurred_at))

    def _known(self, claim: Claim) -> tuple[Sequence[Meant], datetime]:
        """Whom the claim's identity meant, as far as we know now."""
        identity = claim.identity_field, claim.identity_value
        with self._db.reading() as tx:
            return directory.known(tx, self._account_id, [identity]).get(identity, ()), tx.now

    def _ask(self, field: str, value: str, before: Collection[str], now: datetime) -> None:
        """Search, and read each candidate as it is now: a search is behind, and ignores case."""
        self._wait_for_turn()
        try:
            hits = self._gateway.search_customers(field, value)
        except DeliveryError as error:
            if not _unsearchable(error):
                raise
            self._list_again(field)
            return
        hits.sort(key=lambda hit: hit.metadata.get(field) != value)
        candidates = dict.fromkeys([*before, *(hit.customer_id for hit in hits)])
        found = {one: self._metadata(one) for one in islice(candidates, CANDIDATES_MAX)}
        self._enter(found, {field}, now)

    def _metadata(self, customer_id: str) -> Mapping[str, str] | None:
        customer = self._gateway.customer(customer_id)
        return None if customer is None else customer.metadata

    def _wait_for_turn(self) -> None:
        while True:
            with self._lock:
                if self._pacer.grant(self._clock(), 1):
                    return
            self._sleep(1 / SEARCHES_PER_S)

    def _list_again(self, field: str) -> None:
        """Where Stripe cannot search (in India), its list is as good, but costs much more."""
        with self._lock:
            with self._db.reading() as tx:
                listed_at = directory.listed_at(tx, self._account_id, field)
                recently = listed_at is not None and tx.now - listed_at < LIST_AGAIN
            if not recently:
                list_all(self._db, self._account_id, self._gateway, {field})

    def _enter(
        self,
        found: Mapping[str, Mapping[str, str] | None],
        fields: Collection[str],
        began: datetime,
    ) -> None:
        """Put into the directory what was read of some customers; the reading began then."""
        at = reading_time(began, self._gateway)
        with self._db.transaction() as tx:
            directory.seen(tx, self._account_id, found, fields, at)


def list_all(
    db: Database, account_id: str, gateway: StripeGateway, fields: Collection[str]
) -> None:
    """Put all customers with any of these fields into the directory, and who is gone.

    Raises DeliveryError.
    """
    with db.reading() as tx:
        now, missing = tx.now, directory.having(tx, account_id, fields)
    listed = iter(gateway.list_customers())
    while some := {one.customer_id: one.metadata for one in islice(listed, LISTED_AT_ONCE)}:
        with db.transaction() as tx:
            directory.seen(tx, account_id, some, fields, reading_time(now, gateway))
        missing -= some.keys()
    with db.transaction() as tx:
        gone = dict.fromkeys(sorted(missing))
        directory.seen(tx, account_id, gone, fields, reading_time(now, gateway))
        directory.mark_listed(tx, account_id, fields)


def reading_time(began: datetime, gateway: StripeGateway) -> datetime:
    """When what was read from Stripe, beginning then, was so by Stripe's clock: see READ_AGE."""
    return began + timedelta(seconds=gateway.clock_skew_s) - READ_AGE


def _unsearchable(error: DeliveryError) -> bool:
    """Whether Stripe refused the search as such: trying it again would not help."""
    status = getattr(error.__cause__, "http_status", None) or 0
    return _REFUSED_MIN <= status <= _REFUSED_MAX and status not in _TRY_LATER
