"""What follows from Stripe's events: the same, however they come."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import stripe as stripe_sdk
from sqlmodel import select

from usageflow.db.tables import (
    ErrorReportRow,
    LaneBoundaryRow,
    LaneRow,
    StripeAccountRow,
    StripeCustomerRow,
    StripeEventRow,
)
from usageflow.errors import DeliveryError
from usageflow.stripe import billing_periods, directory, events
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.events import SNAPSHOTS, AccountEvents
from usageflow.stripe.identities import whose
from usageflow.stripe.inbound import InboundEvent

if TYPE_CHECKING:
    from tests.stripe.conftest import Clock, Way

READ = "GET /v1/customers/{customer}"


@pytest.fixture(autouse=True)
def _one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes here and at the emulator alike, whatever the real clock says."""
    monkeypatch.setattr(StripeGateway, "clock_skew_s", 0.0)


@pytest.fixture
def emulator(emulator: RemoteEmulator, clock: "Clock") -> Iterator[RemoteEmulator]:
    """An emulator for which it is the same time: no second ends there but when time is to pass."""
    start = clock.now
    with running(create_emulator(clock=lambda: start, search_lag_s=0)) as url:
        yield RemoteEmulator(url, emulator.api_key)


class Listener:
    """Takes events for an account, and remembers whose meters changed."""

    def __init__(self, way: "Way", account_id: str) -> None:
        self._numbers = itertools.count(1)
        self.way = way
        self.account_id = account_id
        self.meters: list[str] = []
        self.events = AccountEvents(
            way.database, account_id, lambda: nullcontext(way.gateway), self.meters.append
        )

    def take(self, kind: str, about: dict[str, Any], **changes: Any) -> bool:
        """Take an event of now, or of another time."""
        made: dict[str, Any] = {
            "event_id": f"evt_{next(self._numbers)}",
            "type": kind,
            "created": self.way.clock.now.replace(microsecond=0),
            "livemode": False,
            "account": None,
            "object": about,
            "previous": None,
            "thin": kind.startswith("v1."),
        }
        return self.events.take(InboundEvent(**made | changes))

    def take_told(self) -> None:
        """Take what has happened at Stripe, in order, again and again."""
        for event in self.way.gateway.events_since(SNAPSHOTS, datetime(2026, 1, 1, tzinfo=UTC)):
            self.events.take(event)

    def whose(self, value: str, at: datetime | None = None) -> list[str]:
        """Whose an identity is at a moment, or by now: Stripe's clock may be ahead."""
        with self.way.database.reading() as tx:
            meant = directory.known(tx, self.account_id, [("account_id", value)])
            at = at or tx.now + timedelta(days=1)
            return whose(meant.get(("account_id", value), ()), at)

    def rows(self, row: type[Any]) -> list[Any]:
        """Every row of a table."""
        with self.way.database.reading() as tx:
            found = list(tx.session.exec(select(row)))
            tx.session.expunge_all()
        return found


@pytest.fixture
def listener(way: "Way") -> Listener:
    """Of the way's account, with usage known by account_id."""
    way.use(1, customer="waits")
    return Listener(way, way.account_id)


def another(way: "Way", name: str) -> Listener:
    """Of another account in the same database, whose usage is known by account_id too."""
    with way.database.transaction() as tx:
        lane = tx.session.exec(select(LaneRow)).first()
        assert lane is not None
        tx.session.add(
            StripeAccountRow(
                id=name,
                organization_id=way.organization_id,
                kind="connect",
                account=name,
                livemode=False,
                state="active",
                created_at=tx.now,
            )
        )
        tx.session.flush()
        tx.session.add(LaneRow(**lane.model_dump(exclude={"id", "account_id"}), account_id=name))
    return Listener(way, name)


class Story:
    """Two customers and what happened to their metadata, at the emulator."""

    def __init__(self, way: "Way", sdk: stripe_sdk.StripeClient) -> None:
        self.way = way
        self.sdk = sdk
        self.since = way.clock.now

    def write(self, seed: int, steps: int) -> None:
        """Let things happen by chance, some in one second."""
        chance = Random(seed)
        alive = self.way.emulator.seed([{"account_id": "a"}, {}])
        for _ in range(steps):
            self.way.pass_time(chance.choice([0, 0, 1, 60]))
            customer = chance.choice(alive)
            value = chance.choice(["a", "b", "A", ""])
            self.sdk.v1.customers.update(
                customer, {"metadata": {"account_id": value, "plan": chance.choice("xyz")}}
            )
        if chance.random() < 0.5:
            self.sdk.v1.customers.delete(alive[0])
        self.way.pass_time(5)

    def events(self) -> list[InboundEvent]:
        """All of it, in order."""
        return list(self.way.gateway.events_since(SNAPSHOTS, self.since - timedelta(hours=1)))

    def answers(self, listener: Listener, told: Sequence[InboundEvent]) -> list[list[str]]:
        """Whose each value is, just before, at and after each event."""
        moments = {
            event.created + timedelta(seconds=seconds) for event in told for seconds in (-1, 0, 0.5)
        }
        return [
            listener.whose(value, moment) for value in ("a", "b", "A") for moment in sorted(moments)
        ]


@pytest.mark.parametrize("seed", range(4))
def test_order_and_repetition_do_not_matter(
    way: "Way", listener: Listener, sdk: stripe_sdk.StripeClient, seed: int
) -> None:
    """Told late, shuffled and twice, it ends as if told in order; so it does in one second."""
    story = Story(way, sdk)
    story.write(seed, steps=8)
    told = story.events()
    for event in told:
        listener.events.take(event)
    now = {
        customer.customer_id: customer.metadata.get("account_id")
        for customer in way.gateway.list_customers()
    }
    for value in ("a", "b", "A"):
        have = sorted(name for name, its in now.items() if its == value)
        assert listener.whose(value) == have
    other = another(way, f"other-{seed}")
    shuffled = told + told[::2]
    Random(seed).shuffle(shuffled)
    for event in shuffled:
        other.events.take(event)
    assert story.answers(other, told) == story.answers(listener, told)


def test_what_an_event_tells_is_not_asked(
    way: "Way", listener: Listener, sdk: stripe_sdk.StripeClient
) -> None:
    """Reads are allotted, and a snapshot has it all; what concerns nobody leaves nothing."""
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    way.pass_time(60)
    sdk.v1.customers.update(customer, {"name": "Ada", "metadata": {"plan": "gold"}})
    way.pass_time(60)
    sdk.v1.customers.update(customer, {"metadata": {"account_id": "b"}})
    way.emulator.seed([{"plan": "gold"}])
    reads = way.gateway.reads
    listener.take_told()
    listener.take_told()
    assert way.gateway.reads - reads == 2  # the lists of events
    assert (listener.whose("a"), listener.whose("b")) == ([], [customer])
    assert len(listener.rows(StripeCustomerRow)) == 2
    assert len(listener.rows(StripeEventRow)) == 4


def test_an_update_that_does_not_say_what_changed(listener: Listener) -> None:
    """Then it may have been any field."""
    listener.take("customer.updated", {"id": "cus_1", "metadata": {"account_id": "a"}})
    assert listener.whose("a") == ["cus_1"]


def test_a_deleted_customer_is_nobody(listener: Listener) -> None:
    """Even if its creation is told afterwards."""
    listener.take("customer.deleted", {"id": "cus_1", "metadata": {"account_id": "a"}})
    listener.take("customer.created", {"id": "cus_1", "metadata": {"account_id": "a"}})
    assert listener.whose("a") == []


def test_two_changes_of_one_second_are_read(
    way: "Way", listener: Listener, sdk: stripe_sdk.StripeClient
) -> None:
    """Which was the later is not told; a customer that is gone by then is nobody's."""
    kept, gone = way.emulator.seed([{"account_id": "kept"}, {"account_id": "gone"}])
    sdk.v1.customers.delete(gone)
    for customer, value in ((kept, "kept"), (gone, "gone")):
        for now in (value, "other"):
            about = {"id": customer, "metadata": {"account_id": now}}
            assert listener.take("customer.updated", about)
    assert (listener.whose("kept"), listener.whose("gone")) == ([kept], [])
    assert listener.whose("other") == []
    assert way.calls(READ) == {"200": 2}


def test_what_cannot_be_read_comes_again(way: "Way", listener: Listener) -> None:
    """An event counts as dealt with only with what follows from it."""
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    way.emulator.fault("status", route="GET /v1/customers/", status=500)
    thin = {"event_id": "evt_thin", "created": way.clock.now}
    with pytest.raises(DeliveryError):
        listener.take("v1.customer.updated", {"id": customer}, **thin)
    assert listener.rows(StripeEventRow) == []
    assert listener.take("v1.customer.updated", {"id": customer}, **thin)
    assert listener.whose("a") == [customer]
    assert not listener.take("v1.customer.updated", {"id": customer}, **thin)
    assert way.calls(READ) == {"500": 1, "200": 1}


def test_thin_events_of_customers(
    way: "Way", listener: Listener, sdk: stripe_sdk.StripeClient
) -> None:
    """They name a customer, which is read; of a deleted one there is nothing to read."""
    kept, lost, deleted = way.emulator.seed([{"account_id": "a"}] * 3)
    for customer in (kept, lost, deleted):
        listener.take("v1.customer.created", {"id": customer})
    assert listener.whose("a") == sorted([kept, lost, deleted])
    way.pass_time(60)
    sdk.v1.customers.update(lost, {"metadata": {"account_id": ""}})
    sdk.v1.customers.delete(deleted)
    listener.take("v1.customer.updated", {"id": lost})
    listener.take("v1.customer.deleted", {"id": deleted})
    assert listener.whose("a") == [kept]
    sdk.v1.customers.delete(kept)
    listener.take("v1.customer.updated", {"id": kept})
    assert listener.whose("a") == []


def test_changed_meters_are_told_once(way: "Way", listener: Listener) -> None:
    """Snapshot or thin."""
    about = {"id": "mtr_1", "event_name": "tokens"}
    assert listener.take("billing.meter.created", about, event_id="evt_meter")
    assert not listener.take("billing.meter.created", about, event_id="evt_meter")
    assert listener.take("v1.billing.meter.deactivated", {"id": "mtr_1"})
    assert listener.meters == [way.account_id] * 2


def test_other_events_lead_to_nothing(way: "Way", listener: Listener) -> None:
    """Not even to a row: whoever sends us everything does not fill the database."""
    for kind in ("invoice.created", "v1.customer.subscription.updated", "payment_intent.created"):
        assert not listener.take(kind, {"id": "x", "customer": "cus_1"})
    assert not listener.take("account.application.deauthorized", {"id": "ca_1"})
    assert listener.rows(StripeEventRow) == []


def test_billing_periods_are_boundaries(way: "Way", listener: Listener) -> None:
    """Of the items or of the subscription, and its end; not those that usage cannot reach."""
    second = way.clock.now.replace(microsecond=0)
    at = {days: second + timedelta(days=days) for days in (-60, -30, 0, 30)}

    def period(start: int, end: int) -> dict[str, int]:
        return {
            "current_period_start": int(at[start].timestamp()),
            "current_period_end": int(at[end].timestamp()),
        }

    listener.take("customer.updated", {"id": "cus_1", "metadata": {"account_id": "waits"}})
    known = {"id": "sub_1", "customer": "cus_1"}
    listener.take("customer.subscription.created", known | period(-60, -30))
    listener.take("customer.subscription.updated", known | {"items": {"data": [period(-30, 30)]}})
    listener.take("customer.subscription.deleted", known | {"ended_at": int(second.timestamp())})
    listener.take("customer.subscription.created", {"id": "sub_2", "customer": "cus_2"})
    with way.database.reading() as tx:
        kept = billing_periods.periods_of(tx, way.account_id, "cus_1")
        assert kept == [at[-30], at[0], at[30]]
        assert billing_periods.periods_of(tx, way.account_id, "cus_2") == []
    assert {(row.at, row.reason) for row in listener.rows(LaneBoundaryRow)} == {
        (at[days], "period") for days in (-30, 0, 30)
    }


def test_error_reports_are_fetched_once(way: "Way", listener: Listener) -> None:
    """The notification has nothing but its id."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    way.use(1)
    way.emulator.set(rejection_delay_s=0)
    way.emulator.reject(event_name="tokens", code="archived_meter")
    way.forward(way.forwarder())
    way.pass_time(60)
    (report,) = way.gateway.error_reports_since(way.clock.now - timedelta(days=1))
    kind = "v1.billing.meter.error_report_triggered"
    assert listener.take(kind, {"id": report.meter_id}, event_id=report.event_id)
    assert not listener.take(kind, {"id": report.meter_id}, event_id=report.event_id)
    assert [row.event_id for row in listener.rows(ErrorReportRow)] == [report.event_id]
    assert "quarantined" in {state for state, _ in way.states()}


def state_of(listener: Listener) -> tuple[str, str | None]:
    """State and reason of the listener's account."""
    with listener.way.database.reading() as tx:
        row = tx.session.get_one(StripeAccountRow, listener.account_id)
        return row.state, row.reason


def test_an_account_that_was_withdrawn_stops(way: "Way", listener: Listener) -> None:
    """Once Stripe refuses it; not if it was connected anew meanwhile, or nobody answers."""
    other = another(way, "acct_1")
    kind, about = "account.application.deauthorized", {"id": "ca_1"}
    way.emulator.seed([{}])
    assert other.take(kind, about, account="acct_1")
    assert state_of(other) == ("active", None)
    way.emulator.fault("status", route="GET /v1/account", status=500)
    with pytest.raises(DeliveryError):
        other.take(kind, about, account="acct_1", event_id="evt_last")
    assert state_of(other) == ("active", None)
    way.emulator.fault("status", route="GET /v1/account", status=403)
    assert other.take(kind, about, account="acct_1", event_id="evt_last")
    assert state_of(other) == ("deauthorized", "its owner has ended the connection")
    assert not other.take(kind, about, account="acct_1", event_id="evt_last")


def test_usage_before_a_change_is_the_formers(
    way: "Way", listener: Listener, sdk: stripe_sdk.StripeClient
) -> None:
    """In the middle of an hour, of usage that is sent after all of it is known."""
    way.emulator.set_clock(way.clock.now)
    old, new = way.emulator.seed([{"account_id": "acct_1"}, {"account_id": "?"}], ["tokens"])
    listener.take_told()
    forwarder = way.forwarder()
    way.forward(forwarder)
    way.pass_time(3_600 - way.clock.now.timestamp() % 3_600)
    way.use(1, 2)
    way.pass_time(600)
    sdk.v1.customers.update(old, {"metadata": {"account_id": ""}})
    sdk.v1.customers.update(new, {"metadata": {"account_id": "acct_1"}})
    listener.take_told()
    way.use(30)
    way.use(4, occurred_at=way.clock.now - timedelta(seconds=60))
    for _ in range(3):
        way.forward(forwarder)
        way.pass_time(60)
    applied = way.emulator.applied("no such field")
    assert {customer: int(value) for (customer, _), value in applied.items()} == {old: 7, new: 30}


def test_two_customers_with_one_value(
    way: "Way", listener: Listener, sdk: stripe_sdk.StripeClient
) -> None:
    """Usage is parked and names them; once one has lost the value, it goes on at once."""
    one, other = way.emulator.seed([{"account_id": "acct_1"}] * 2, ["tokens"])
    way.use(5)
    forwarder = way.forwarder()
    way.forward(forwarder)
    (reason,) = (unit.reason for unit in way.units() if "acct_1" in str(unit.reason))
    assert reason == (f"2 Stripe customers have metadata account_id = acct_1: {one}, {other}")
    way.pass_time(10)
    sdk.v1.customers.update(other, {"metadata": {"account_id": "acct_2"}})
    way.forward(forwarder)
    assert way.applied() == {}
    listener.take_told()
    way.forward(forwarder)
    assert way.applied() == {("acct_1", "tokens"): "5"}


def test_what_was_dealt_with_is_forgotten_in_the_end(way: "Way", listener: Listener) -> None:
    """When it cannot come again."""
    listener.take("billing.meter.created", {"id": "mtr_1"})
    first = way.clock.now
    way.clock.now += timedelta(days=1)
    listener.take("billing.meter.updated", {"id": "mtr_1"})
    with way.database.transaction() as tx:
        events.prune(tx, first + timedelta(seconds=1))
    assert [row.type for row in listener.rows(StripeEventRow)] == ["billing.meter.updated"]
