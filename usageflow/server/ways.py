"""The ways from the ledger to the accounts that usage is sent to: opened, kept, closed.

Each account has two workers: one that sends, and one for what takes long, so that sending never
waits for comparing. Accounts come and go while the server runs. It decides nothing about usage.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow
from usageflow.forwarding.forwarder import Addresses, Forwarder
from usageflow.forwarding.sink import Sink
from usageflow.server.cloudevents import CloudEventsAccount
from usageflow.stripe import accounts, catch_up
from usageflow.stripe.access import AccountAccess, accounts_to_serve
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.customers import StripeAddresses
from usageflow.stripe.invoices import end_settled, issue_due
from usageflow.stripe.meter_event_sink import StripeMeterEvents
from usageflow.stripe.meter_event_stream import STREAM_CALLS_PER_S, StripeStream
from usageflow.stripe.meters import Meters
from usageflow.stripe.reconciliation import reconcile
from usageflow.worker import Duty, Worker

STOP_S: Final = 5.0
"""Longest wait of a stop for a worker's round, and then again for calls in flight."""
METERS_SOON_S: Final = 30.0
"""How often it is seen whether meters should be listed; see `Meters.wanted`."""
METERS_PAUSE_S: Final = 300.0
"""Shortest pause between two lists because of a meter that is not among them: each is a read."""
INVOICES_S: Final = 30.0
"""How often invoices are looked for that are to be paid at Stripe, or were settled here."""
LEASE_CALLS: Final = 4
"""Calls that one lease must outlive: search, two customers, the event."""
PAUSE_S_MIN, PAUSE_S_MAX = 60.0, 3_600.0
"""First and longest pause before a paused account is tried again: one refused call each time."""

logger = logging.getLogger("usageflow.server")


class Pause(NamedTuple):
    """Until when a paused account is left alone, and how long that was."""

    until_s: float
    length_s: float


class Way:
    """The way to one account, open until `close`. The first workload is the one that sends."""

    def __init__(self, name: str, account_id: str) -> None:
        self.name = name
        self.account_id = account_id
        self._opened = ExitStack()
        self._sending: Worker | None = None

    def owns(self, close: Callable[[], None]) -> None:
        """`close` is called at the end, after all that came to be owned later."""
        self._opened.callback(close)

    def work(self, duties: Sequence[Duty]) -> None:
        """Let a worker do these duties until the end."""
        worker = self._opened.enter_context(Worker(duties, stop_s_max=STOP_S))
        self._sending = self._sending or worker

    def wake(self) -> None:
        """There may be usage to send. For any thread."""
        if self._sending is not None:
            self._sending.wake()

    def close(self) -> None:
        """End what takes long, what sends, and the calls in flight, for a bounded time each."""
        self._opened.close()


class Ways:
    """The ways to all accounts that can be reached. `follow` is one thread's, `wake` anybody's."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        *,
        cloudevents: CloudEventsAccount | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._db = db
        self._settings = settings
        self._cloudevents = cloudevents
        self._ways: Mapping[str, Way] = {}
        self._meters: dict[str, Meters] = {}
        self._pauses: dict[str, Pause] = {}

    def follow(self) -> int:
        """Open ways to accounts that came up, close those of accounts that went; how many.

        What an account is reached by may change too: a new key is a new way.
        """
        wanted: dict[str, Callable[[], Way]] = {}
        if self._cloudevents is not None:
            wanted["cloudevents"] = self._to_cloudevents
        for access in accounts_to_serve(self._db, self._settings):
            wanted[_name(access)] = partial(self._to_stripe, access)
        gone = [name for name in self._ways if name not in wanted]
        kept = {name: way for name, way in self._ways.items() if name in wanted}
        for name in gone:
            self._end(self._ways[name])
        new = {name: make() for name, make in wanted.items() if name not in kept}
        self._ways = {**kept, **new}
        return len(gone) + len(new)

    def try_again(self) -> int:
        """Let accounts go on that are paused, after ever longer pauses; how many.

        A key may be refused for a while, and a receiver be away, without anybody starting anew.
        """
        with self._db.reading() as tx:
            paused = [row.id for row in accounts.accounts(tx) if row.state == "paused"]
        now_s = self._clock()
        for account_id in self._pauses.keys() - set(paused):
            if now_s >= self._pauses[account_id].until_s + PAUSE_S_MAX:
                del self._pauses[account_id]
        for account_id in paused:
            pause = self._pauses.setdefault(account_id, Pause(now_s + PAUSE_S_MIN, PAUSE_S_MIN))
            if now_s >= pause.until_s:
                length_s = min(2 * pause.length_s, PAUSE_S_MAX)
                self._pauses[account_id] = Pause(now_s + length_s, length_s)
                with self._db.transaction() as tx:
                    accounts.resume(tx, account_id)
        return 0

    def wake(self) -> None:
        """There may be usage to send."""
        for way in self._ways.values():
            way.wake()

    def want_meters(self, account_id: str) -> None:
        """The meters of an account have changed: list them soon. For any thread."""
        if account_id in self._meters:
            self._meters[account_id].want()

    def close(self) -> None:
        """Close every way."""
        for way in self._ways.values():
            way.close()
        self._ways = {}

    def _end(self, way: Way) -> None:
        way.close()
        with self._db.reading() as tx:
            account = tx.session.get_one(StripeAccountRow, way.account_id)
            state, reason = account.state, account.reason
        if state == "active":
            logger.info("%s is reached in another way now", way.name)
        else:
            logger.error(
                "%s is %s (%s); its usage waits until its key is good again, or until it is "
                "connected again",
                *(way.name, state, reason),
            )

    def _to_stripe(self, access: AccountAccess) -> Way:
        db, settings = self._db, self._settings
        way = Way(f"Stripe account {access.stripe_account or 'own'}", access.account_id)
        gateway = access.gateway(settings)
        way.owns(gateway.close)
        meters = self._meters[access.account_id] = Meters(db, access.account_id, gateway)
        forwarder = self._forwarder(
            access.account_id,
            stripe_sink(settings, access, gateway, meters),
            StripeAddresses(db, access.account_id, gateway),
            skew_s=lambda: gateway.clock_skew_s,
            ready=lambda: meters.known,
        )
        way.owns(forwarder.close)
        way.work(
            [
                Duty(f"meters of {way.name}", _listing(meters, settings), METERS_SOON_S),
                Duty(f"forwarding to {way.name}", forwarder.forward_once),
            ]
        )
        way.work(
            [
                *comparing(db, settings, access.account_id, gateway, meters),
                Duty(f"invoices of {way.name}", _invoicing(db, access, gateway), INVOICES_S),
            ]
        )
        mode = "live" if access.livemode else "test"
        logger.info("%s: forwarding in %s mode", way.name, mode)
        return way

    def _to_cloudevents(self) -> Way:
        assert self._cloudevents is not None  # noqa: S101 - it is only wanted if there is one
        way = Way("CloudEvents", self._cloudevents.account_id)
        sink = self._cloudevents.sink(self._settings)
        way.owns(sink.close)
        forwarder = self._forwarder(self._cloudevents.account_id, sink, self._cloudevents.addresses)
        way.owns(forwarder.close)
        way.work([Duty("forwarding CloudEvents", forwarder.forward_once)])
        logger.info("CloudEvents: forwarding to %s", self._cloudevents.target)
        return way

    def _forwarder(
        self,
        account_id: str,
        sink: Sink,
        addresses: Addresses,
        *,
        skew_s: Callable[[], float] = lambda: 0.0,
        ready: Callable[[], bool] = lambda: True,
    ) -> Forwarder:
        settings = self._settings
        return Forwarder(
            self._db,
            account_id,
            sink,
            addresses,
            concurrency=settings.stripe_concurrency,
            resend_s_max=settings.stripe_resend_s_max,
            lease_s=LEASE_CALLS * settings.stripe_timeout_s,
            stop_s_max=STOP_S,
            calls_per_s=settings.stripe_calls_per_s,
            skew_s=skew_s,
            ready=ready,
        )


def stripe_sink(
    settings: Settings, access: AccountAccess, gateway: StripeGateway, meters: Meters
) -> Sink:
    """The sink of a Stripe account, as the settings have it."""
    if settings.stripe_api == "v2-stream":
        calls_per_s = min(STREAM_CALLS_PER_S, access.calls_per_s)
        return StripeStream(gateway, meters, calls_per_s=calls_per_s)
    return StripeMeterEvents(gateway, meters, calls_per_s=access.calls_per_s)


def comparing(
    db: Database, settings: Settings, account_id: str, gateway: StripeGateway, meters: Meters
) -> list[Duty]:
    """What takes long: asking Stripe for what its webhooks may have lost, and comparing sums."""

    def ask() -> int:
        catch_up.poll(db, account_id, gateway, lambda _: meters.want())
        return 0  # it is not due again at once

    def compare() -> int:
        report = reconcile(db, account_id, gateway, reads_per_day=settings.stripe_reads_per_day)
        if report.differed:
            logger.warning(
                "%d of %d sums differ from Stripe's: see `usageflow reconcile`",
                *(report.differed, report.compared),
            )
        return 0

    return [
        Duty("events of Stripe", ask, settings.stripe_poll_s),
        Duty("comparison with Stripe", compare, settings.stripe_reconcile_s),
    ]


def _listing(meters: Meters, settings: Settings) -> Callable[[], int]:
    """List the meters when they are due, or soon after one came up that is not among them."""
    listed_s = -settings.stripe_refresh_s

    def list_meters() -> int:
        nonlocal listed_s
        age_s = time.monotonic() - listed_s
        soon = meters.wanted and age_s >= METERS_PAUSE_S
        if not meters.known or soon or age_s >= settings.stripe_refresh_s:
            meters.refresh()
            listed_s = time.monotonic()
        return 0  # nothing was moved, so the worker may pause

    return list_meters


def _invoicing(db: Database, access: AccountAccess, gateway: StripeGateway) -> Callable[[], int]:
    """Issue at Stripe what is to be paid there, and end there what is settled here."""

    def invoice() -> int:
        account_id = access.account_id
        return issue_due(db, gateway, account_id) + end_settled(db, gateway, account_id)

    return invoice


def _name(access: AccountAccess) -> str:
    """Tells one way of reaching an account from another, without the key itself."""
    return f"{access.account_id} {hash(access.api_key)}"
