"""What the emulator remembers: accounts, and in each its customers, meters and meter events.

Pure state: no HTTP, no clock of its own (handlers get `now`), nothing on disk. An account is one
store per account id and livemode; which one a request speaks to is decided in `accounts`.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal
from functools import reduce
from itertools import count
from typing import Any, Final

from usageflow.stripe.emulator.instants import rfc3339
from usageflow.stripe.emulator.journal import Entry, Kind, MeterEvent
from usageflow.stripe.emulator.limits import Budget
from usageflow.stripe.emulator.rejections import Rejection, Rejections

API_VERSION: Final = "2026-10-28.endive"
"""The version of Stripe's API whose objects these are."""
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
_EXACT: Final = Context(prec=100)
"""Fifteen digits each, wherever the point is: no sum of events that fit here is ever rounded."""


@dataclass(slots=True)
class Customer:
    """A customer. `indexed` is the metadata search still sees until its index has caught up."""

    object_id: str
    created: int
    fields: dict[str, Any]
    metadata: dict[str, str]
    indexed: dict[str, str] | None
    changed_at: datetime
    deleted: bool = False

    def searchable(self, now: datetime, lag: timedelta) -> dict[str, str] | None:
        """The metadata in the search index at `now`; None if the customer is not in it yet."""
        return self.metadata if now - self.changed_at >= lag else self.indexed


@dataclass(slots=True)
class Meter:
    """A meter. Immutable at Stripe but for its name and status."""

    object_id: str
    event_name: str
    display_name: str
    formula: str
    customer_key: str
    value_key: str
    time_window: str | None
    created: int
    updated: int
    deactivated_at: int | None = None

    @property
    def active(self) -> bool:
        """Whether meter events are accepted."""
        return self.deactivated_at is None


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer kept under an idempotency key; `reply` is None while the first call still runs."""

    fingerprint: str
    since: datetime
    reply: Any = None


@dataclass(slots=True)
class Account:
    """One isolated store: an account in one mode.

    `received` is the last event of each identifier, `attempts` how often a call named it.
    `platforms` are the accounts whose keys may act for it. `objects` holds, by kind and id, what
    has no field of its own here. Every event of its log is handed to `deliver` when it happens.
    """

    object_id: str
    livemode: bool
    search_lag: timedelta
    journal: list[Entry]
    deliver: Callable[["Account", dict[str, Any]], None] = lambda _account, _event: None
    summary_lag: timedelta = timedelta(0)
    platforms: set[str] = field(default_factory=set)
    objects: defaultdict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    events_log: list[dict[str, Any]] = field(default_factory=list)
    thin_events: list[dict[str, Any]] = field(default_factory=list)
    customers: dict[str, Customer] = field(default_factory=dict)
    meters: dict[str, Meter] = field(default_factory=dict)
    events: dict[tuple[str, str], list[MeterEvent]] = field(default_factory=dict)
    received: dict[str, MeterEvent] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    kept: dict[tuple[str, str], Kept] = field(default_factory=dict)
    in_flight: set[tuple[str, str]] = field(default_factory=set)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejected_later: Counter[str] = field(default_factory=Counter)
    rejections: Rejections = field(default_factory=Rejections)
    limited: Counter[str] = field(default_factory=Counter)
    budget: Budget = field(default_factory=Budget)
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    def new_id(self, prefix: str) -> str:
        """An id that no other account has."""
        mode = "live" if self.livemode else "test"
        ours = hashlib.sha256(self.object_id.encode()).hexdigest()[:8]
        return f"{prefix}_{mode}{ours}{next(self._ids):08d}"

    def meter_named(self, event_name: str) -> Meter | None:
        """The one meter that holds `event_name`, active or not."""
        return next((one for one in self.meters.values() if one.event_name == event_name), None)

    def record(self, kind: Kind, event: MeterEvent, now: datetime, code: str | None = None) -> None:
        """Write into the journal what became of a meter event."""
        event.state = kind
        self.journal.append(Entry(len(self.journal) + 1, kind, event, now, code))

    def apply(self, event: MeterEvent, now: datetime) -> None:
        """Count an accepted meter event; it stays counted as long as its state is `applied`."""
        self.events.setdefault((event.event_name, event.customer), []).append(event)
        self.record("applied", event, now)

    def counted(self, event_name: str, customer: str) -> list[MeterEvent]:
        """What counts for a customer on a meter, in order of arrival."""
        events = self.events.get((event_name, customer), [])
        return [event for event in events if event.state == "applied"]

    def reject(self, event: MeterEvent, code: str, message: str, now: datetime) -> None:
        """Drop an event that was accepted; Stripe tells so in a report, later."""
        meter = self.meter_named(event.event_name)
        meter_id = None if meter is None else meter.object_id
        self.record("rejected", event, now, code)
        self.rejected_later[code] += 1
        self.rejections.waiting.append(Rejection(event.identifier, meter_id, code, message, now))

    def report(self, now: datetime, delay: timedelta, samples: int) -> None:
        """Emit the reports of rejections that are due."""
        for kind, related_object, data in self.rejections.due(now, delay, samples):
            self.emit_thin(kind, related_object, data, now)

    def emit(
        self,
        kind: str,
        data_object: dict[str, Any],
        now: datetime,
        previous_attributes: dict[str, Any] | None = None,
    ) -> None:
        """Log a v1 event: a snapshot of `data_object`, of which the log keeps what it is given."""
        data = {"object": data_object}
        if previous_attributes is not None:
            data["previous_attributes"] = previous_attributes
        event = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": int(now.timestamp()),
            "data": data,
            "livemode": self.livemode,
            "pending_webhooks": 0,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
        }
        self.events_log.append(event)
        self.deliver(self, event)

    def emit_thin(
        self, kind: str, related_object: dict[str, Any], data: dict[str, Any], now: datetime
    ) -> None:
        """Log a v2 event. Its data is for who fetches it: a notification leaves it out."""
        event = {
            "id": self.new_id("evt"),
            "object": "v2.core.event",
            "type": kind,
            "created": rfc3339(now),
            "livemode": self.livemode,
            "context": None,
            "related_object": related_object,
            "data": data,
        }
        self.thin_events.append(event)
        self.deliver(self, event)

    def totals(self) -> Iterator[tuple[str, str, Decimal, int]]:
        """(customer, event name, aggregated value, events) of everything applied."""
        meters = {meter.event_name: meter for meter in self.meters.values()}
        for event_name, customer in self.events:
            events = self.counted(event_name, customer)
            if events:
                yield customer, event_name, aggregate(meters[event_name], events), len(events)


def aggregate(meter: Meter, events: list[MeterEvent]) -> Decimal:
    """What the meter makes of `events`, which are in order of arrival.

    A meter with a time window is fed pre-aggregated values: of each hour or day only the event that
    arrived last counts. `last` is the event with the latest timestamp.
    """
    if meter.time_window is not None:
        width = HOUR_S if meter.time_window == "hour" else DAY_S
        events = list({event.timestamp // width: event for event in events}.values())
    if meter.formula == "count":
        return Decimal(len(events))
    if meter.formula == "last":
        return max(reversed(events), key=lambda event: event.timestamp).quantity
    return reduce(_EXACT.add, (event.quantity for event in events), Decimal(0))
