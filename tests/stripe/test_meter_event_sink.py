"""From the ledger to the emulator over TCP: everything arrives, once, whatever happens."""

import random
import threading
import time
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import stripe as stripe_sdk

from usageflow.db.tables import StripeAccountRow
from usageflow.errors import DatabaseError, DeliveryError
from usageflow.forwarding.forwarder import Forwarder
from usageflow.ledger.verdicts import Verdict
from usageflow.stripe.client import StripeCustomer, StripeGateway
from usageflow.stripe.customers import StripeAddresses
from usageflow.stripe.meter_events import MeterEvent

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

HOUR_S = 3_600
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what Stripe answers, or when it is called: the database is not what is tried."""


class Killed(Exception):  # noqa: N818 - what happens to the process
    """Stands for a process that ends here."""


class DyingGateway(StripeGateway):
    """Stripe, seen by a process that is killed at one moment of its first unit."""

    def __init__(self, way: "Way", moment: str) -> None:
        super().__init__(way.emulator.api_key, base=way.emulator.url, timeout_s=5)
        self.moment = moment

    def search_customers(self, field: str, value: str) -> list[StripeCustomer]:
        """Killed before the customer is known."""
        if self.moment == "unbound":
            raise Killed
        return super().search_customers(field, value)

    def send_meter_event(self, event: MeterEvent) -> Verdict:
        """Killed before or after the event has been sent."""
        if self.moment == "before":
            raise Killed
        super().send_meter_event(event)
        raise Killed


def identifiers(way: "Way") -> Counter[str]:
    """How often the emulator counted each identifier."""
    return Counter(row["identifier"] for row in way.emulator.journal())


def assert_exactly_once(way: "Way", expected: dict[tuple[str, str], str]) -> None:
    """The emulator counted what the ledger has, each unit one time, and the ledger knows it."""
    assert way.applied() == expected
    assert set(identifiers(way).values()) <= {1}
    assert {unit.state for unit in way.units()} == {"accepted"}
    assert set(identifiers(way)) == {unit.identifier for unit in way.units()}


def until_called(way: "Way", forwarder: Forwarder) -> None:
    """Let the forwarder work until the call is in flight that is to be slow."""
    for _ in range(200):
        forwarder.forward_once()
        if not way.emulator.state()["faults"]:
            return
    raise AssertionError("the call was not made")


def must_search(forwarder: Forwarder) -> None:
    """Let the forwarder take the customers for listed, so that it has to search."""
    assert isinstance(forwarder._addresses, StripeAddresses)
    forwarder._addresses._unlisted.add("account_id")


def test_usage_arrives_and_is_accepted(way: "Way") -> None:
    """A first event goes at once; what comes meanwhile is folded into one."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder()
    way.use("0.1")
    way.forward(forwarder)
    way.use("0.2", 3, "4.000")
    way.forward(forwarder)
    assert way.states() == [("accepted", "0.1"), ("accepted", "7.200")]
    assert_exactly_once(way, {("acct_1", "tokens"): "7.3"})
    assert forwarder.forward_once() == 0


def test_lanes_fold_while_one_call_is_in_flight(way: "Way") -> None:
    """What arrives during a call waits for it and leaves as one event; never two at a time."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder()
    way.emulator.fault("slow", seconds=2)
    way.use(1)
    until_called(way, forwarder)
    for _ in range(4):
        way.use(1)
        forwarder.forward_once()
    way.forward(forwarder)
    assert [quantity for _, quantity in way.states()] == ["1", "4"]
    assert way.calls() == {"200": 2}
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})


def test_two_forwarders_share_the_lanes(way: "Way") -> None:
    """Two servers on one ledger never have two calls of a lane in flight, and lose nothing."""
    names = [f"acct_{number}" for number in range(12)]
    way.emulator.seed([{"account_id": name} for name in names], ["tokens"])
    workers = [way.forwarder(concurrency=4) for _ in range(2)]
    way.emulator.fault("slow", seconds=0.02, count=1_000)
    for name in names:
        way.use(1, 2, customer=name)
    threads = [threading.Thread(target=way.forward, args=[worker]) for worker in workers]
    for thread in threads:
        thread.start()
    for name in names:
        way.use(3, customer=name)
    for thread in threads:
        thread.join(30)
    way.forward_all(workers[0])
    assert set(way.calls()) == {"200"}
    assert_exactly_once(way, {(name, "tokens"): "6" for name in names})


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 500, "after_commit": True},
        {"kind": "status", "status": 503},
        {"kind": "reset"},
        {"kind": "reset", "after_commit": True},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 409},
        {"kind": "slow", "seconds": 0.4},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
@pytest.mark.parametrize("count", [1, 3])
@ONE_DATABASE
def test_every_fault_ends_in_exactly_once(way: "Way", fault: dict[str, Any], count: int) -> None:
    """Whatever the answer hides, the usage is applied one time and the unit is accepted."""
    way.emulator.seed([{"account_id": "acct_1"}, {"account_id": "acct_2"}], ["tokens"])
    impatient = StripeGateway(way.emulator.api_key, base=way.emulator.url, timeout_s=0.25)
    forwarder = way.forwarder(impatient, clock=way.seconds)
    way.emulator.fault(**fault, count=count)
    for quantity in (1, 2, 3):
        way.use(quantity)
        way.use(quantity, customer="acct_2")
        way.forward(forwarder)
    way.forward_all(forwarder)
    assert_exactly_once(way, {("acct_1", "tokens"): "6", ("acct_2", "tokens"): "6"})
    impatient.close()


def test_a_storm_of_faults_loses_and_doubles_nothing(way: "Way") -> None:
    """Many lanes, random faults, units of several sizes: the sums are equal in the end."""
    chance = random.Random(7)
    names = [f"acct_{number}" for number in range(6)]
    way.emulator.seed([{"account_id": name} for name in names], ["tokens"])
    forwarder = way.forwarder(clock=way.seconds)
    expected: Counter[str] = Counter()
    for _ in range(25):
        kind = chance.choice(["status", "status", "reset"])
        status = chance.choice([500, 503, 409, 429])
        late = kind == "reset" or status >= 500
        way.emulator.fault(kind, status=status, after_commit=late and chance.random() < 0.5)
        name, quantity = chance.choice(names), chance.randint(1, 99)
        expected[name] += quantity
        way.use(quantity, customer=name)
        way.forward(forwarder)
        way.clock.now = way.clock.now.replace(microsecond=chance.randrange(1_000_000))
    way.forward_all(forwarder)
    assert_exactly_once(way, {(name, "tokens"): str(total) for name, total in expected.items()})


@pytest.mark.parametrize("moment", ["unbound", "before", "after"])
def test_a_killed_sender_is_followed_by_another(way: "Way", moment: str) -> None:
    """Killed before the customer is known, before or after the send: the lease ends, the next
    sender resends the same identifier, and Stripe counts one.
    """
    forwarder = way.forwarder(dying := DyingGateway(way, moment))
    if moment == "unbound":
        must_search(forwarder)
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    way.meters.refresh()
    way.use(5)
    way.forward(forwarder)
    assert way.states() == [("sending", "5")]
    successor = way.forwarder()
    way.forward(successor)
    assert way.states() == [("sending", "5")], "the lease has not ended"
    way.pass_time(120)
    way.forward_all(successor)
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})
    assert way.units()[0].attempts >= 2
    dying.close()


class FailingGateway(StripeGateway):
    """Stripe, and a customer whose units fail in a way that is no verdict."""

    def send_meter_event(self, event: MeterEvent) -> Verdict:
        """Fails for quantity 1 as a database does, for 2 as a mistake of ours; sends the others."""
        if event.payload["value"] == "1":
            raise DatabaseError("the database is gone")
        if event.payload["value"] == "2":
            raise ZeroDivisionError("ours")
        return super().send_meter_event(event)


@ONE_DATABASE
def test_one_failed_sender_hides_no_other(way: "Way", caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is told with its unit, ours with a traceback, and what went well counts."""
    names = ["acct_1", "acct_2", "acct_3"]
    way.emulator.seed([{"account_id": name} for name in names], ["tokens"])
    failing = FailingGateway(way.emulator.api_key, base=way.emulator.url, timeout_s=5)
    forwarder = way.forwarder(failing)
    for quantity, name in enumerate(names, 1):
        way.use(quantity, customer=name)
    way.forward(forwarder)
    assert [state for state, _ in way.states()] == ["sending", "sending", "accepted"]
    failures = [record for record in caplog.records if record.name == "usageflow.forwarding"]
    first, second, _ = (unit.identifier for unit in way.units())
    assert {record.getMessage(): bool(record.exc_info) for record in failures} == {
        f"unit {first}: the database is gone": False,
        f"unit {second}: ours": True,
    }
    failing.close()


def senders() -> list[threading.Thread]:
    """The threads that are sending."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name in ("usageflow-sender", "usageflow-customer")
    ]


@pytest.mark.parametrize("route", ["/v1/billing/meter_events", "GET /v1/customers/search"])
@ONE_DATABASE
def test_closing_waits_only_so_long(
    way: "Way", route: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A late answer is neither settled nor followed by another call; the next sender resends."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder(stop_s_max=0.05)
    if "search" in route:
        must_search(forwarder)
    way.emulator.fault("slow", route=route, seconds=0.6)
    way.use(5)
    until_called(way, forwarder)
    began_s = time.monotonic()
    forwarder.close()
    assert time.monotonic() - began_s < 0.5
    assert "1 calls unanswered" in caplog.text
    for sender in senders():
        assert sender.daemon
        sender.join(5)
    assert way.states() == [("sending", "5")]
    assert way.applied() == ({("acct_1", "tokens"): "5"} if "events" in route else {})
    way.use(6)
    way.pass_time(120)
    way.forward(forwarder)
    assert way.units()[1].attempts == 0, "nothing is begun any more"
    way.forward_all(way.forwarder())
    assert_exactly_once(way, {("acct_1", "tokens"): "11"})


def test_closing_lets_a_call_end(way: "Way") -> None:
    """Within the bound the answer is waited for and settled."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder()
    way.emulator.fault("slow", seconds=0.3)
    way.use(5)
    until_called(way, forwarder)
    forwarder.close()
    for sender in senders():
        sender.join(5)
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_pauses_the_account_and_burns_nothing(way: "Way", status: int) -> None:
    """One call is refused; nothing more is sent until a new start, and then all of it is."""
    way.emulator.seed([{"account_id": "acct_1"}, {"account_id": "acct_2"}], ["tokens"])
    forwarder = way.forwarder(concurrency=1)
    way.emulator.fault("status", status=status)
    way.use(1)
    way.use(2, customer="acct_2")
    way.forward(forwarder)
    way.pass_time(HOUR_S)
    way.forward(forwarder)
    assert way.calls() == {str(status): 1}
    assert {state for state, _ in way.states()} <= {"sealed", "open"}
    with way.database.transaction() as tx:
        account = tx.session.get_one(StripeAccountRow, way.account_id)
        assert account.state == ("paused" if status == 401 else "deauthorized")
        assert account.reason
        account.state = "active"
    way.forward_all(forwarder)
    assert_exactly_once(way, {("acct_1", "tokens"): "1", ("acct_2", "tokens"): "2"})


def test_an_unknown_customer_waits_and_is_released(
    way: "Way", sdk: stripe_sdk.StripeClient
) -> None:
    """Parked with a reason, asked for ever more rarely, sent once the customer appears."""
    way.emulator.seed([{"account_id": "other"}], ["tokens"])
    forwarder = way.forwarder()
    way.use(5)
    way.forward(forwarder)
    way.use(6)
    way.forward(forwarder)
    unit = way.units()[0]
    assert way.states() == [("parked", "5"), ("open", "6")]
    assert unit.reason == "no Stripe customer has metadata account_id = acct_1"
    assert unit.first_attempt_at is None
    searches = way.calls("GET /v1/customers/search")["200"]
    for pause, asked in ((29, 0), (1, 1), (119, 1), (1, 2), (599, 2), (1, 3)):
        way.pass_time(pause)
        way.forward(forwarder)
        assert way.calls("GET /v1/customers/search")["200"] - searches == asked
    sdk.v1.customers.create({"metadata": {"account_id": "acct_1"}})
    way.pass_time(HOUR_S)
    way.forward_all(forwarder)
    assert_exactly_once(way, {("acct_1", "tokens"): "11"})


def test_an_ambiguous_customer_is_nobody(way: "Way", sdk: stripe_sdk.StripeClient) -> None:
    """Two customers with the value: neither gets the usage until one has lost it."""
    one, _ = way.emulator.seed([{"account_id": "acct_1"}] * 2, ["tokens"])
    forwarder = way.forwarder()
    way.use(5)
    way.forward(forwarder)
    assert way.states() == [("parked", "5")]
    assert "2 Stripe customers have metadata account_id = acct_1" in (way.units()[0].reason or "")
    sdk.v1.customers.delete(one)
    way.forward_all(forwarder)
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})


@ONE_DATABASE
def test_a_thousand_customers_cost_one_sweep(way: "Way") -> None:
    """The list is read once for a new field; nobody is searched for who is in it."""
    way.emulator.seed([{"account_id": f"acct_{number}"} for number in range(1_000)], ["tokens"])
    forwarder = way.forwarder()
    for number in range(0, 1_000, 100):
        way.use(1, customer=f"acct_{number}")
    way.forward_all(forwarder)
    assert len(way.applied()) == 10
    assert way.calls("GET /v1/customers") == {"200": 10}
    assert way.calls("GET /v1/customers/search") == {}


@ONE_DATABASE
def test_a_key_that_may_not_list_customers_searches(
    way: "Way", caplog: pytest.LogCaptureFixture
) -> None:
    """A refused sweep is not repeated and stops nothing; another failure is told and repeated."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    now = [1_000.0]
    forwarder = way.forwarder(clock=lambda: now[0])
    way.use(5)
    way.emulator.fault("status", route="GET /v1/customers", status=500)
    way.forward(forwarder)
    way.pass_time(60)
    way.forward(forwarder)
    assert "customers cannot be listed" in caplog.text
    assert way.calls("GET /v1/customers") == {"500": 1}
    now[0] += 60
    way.emulator.fault("status", route="GET /v1/customers", status=403)
    way.forward_all(forwarder)
    assert way.calls("GET /v1/customers") == {"403": 1, "500": 1}
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})


@pytest.mark.parametrize(("status", "state"), [(403, "paused"), (500, "active")])
@ONE_DATABASE
def test_a_failed_search_sends_nothing(way: "Way", status: int, state: str) -> None:
    """A search that is refused pauses the account, one that fails is tried again soon."""
    way.emulator.seed([{"account_id": "other"}], ["tokens"])
    forwarder = way.forwarder()
    way.use(5)
    way.emulator.fault("status", route="/v1/customers/search", status=status)
    way.forward(forwarder)
    assert way.states() == [("sealed", "5")]
    assert way.units()[0].first_attempt_at is None
    with way.database.reading() as tx:
        assert tx.session.get_one(StripeAccountRow, way.account_id).state == state
    assert way.calls() == {}


def test_too_late_to_resend_is_left_to_reconciliation(way: "Way") -> None:
    """20 hours after the first attempt Stripe may soon forget the identifier: no blind resend."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder()
    way.emulator.fault("reset", after_commit=True)
    way.use(5)
    way.forward(forwarder)
    assert way.states() == [("ambiguous", "5")]
    way.pass_time(72_001)
    way.use(6)
    way.forward(forwarder)
    assert way.states() == [("ambiguous", "5"), ("open", "6")]
    assert way.calls() == {"reset": 1}


def test_within_the_window_the_resend_is_recognised(way: "Way") -> None:
    """Up to the limit the same identifier is sent again, and Stripe knows it."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder()
    way.emulator.fault("reset", after_commit=True)
    way.use(5)
    way.forward(forwarder)
    way.pass_time(71_999)
    way.forward_all(forwarder)
    assert way.calls() == {"reset": 1, "400": 1}
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})


@pytest.mark.parametrize(("formula", "total"), [("count", "3"), ("last", "9")])
def test_only_sums_are_folded(way: "Way", formula: str, total: str) -> None:
    """A meter that counts, or keeps the last, gets one event for each usage event, in order."""
    meter = {"event_name": "tokens", "formula": formula}
    way.emulator.seed([{"account_id": "acct_1"}], [meter])
    forwarder = way.forwarder()
    way.use(4, 7, 9)
    way.forward_all(forwarder)
    assert [row["value"] for row in way.emulator.journal()] == ["4", "7", "9"]
    assert_exactly_once(way, {("acct_1", "tokens"): total})


def test_what_stripe_cannot_take_is_held_and_blocks_nothing(way: "Way") -> None:
    """100 times what Stripe takes is held for a human; the lane's next unit goes."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder()
    way.use("1" + "0" * 17)
    way.forward(forwarder)
    way.use(5)
    way.forward_all(forwarder)
    assert way.states() == [("held", "1" + "0" * 17), ("accepted", "5")]
    assert "18 digits" in (way.units()[0].reason or "")
    assert way.applied() == {("acct_1", "tokens"): "5"}


def test_a_refused_unit_is_quarantined_and_blocks_nothing(way: "Way") -> None:
    """Without a meter the unit waits for a human with Stripe's words; once there is one, the
    next unit goes.
    """
    way.emulator.seed([{"account_id": "acct_1"}])
    forwarder = way.forwarder()
    way.use(5)
    way.forward(forwarder)
    way.emulator.seed([], ["tokens"])
    assert way.meters.refresh() == 1
    way.use(6)
    way.forward(forwarder)
    assert way.states() == [("quarantined", "5"), ("accepted", "6")]
    assert "No active meter found" in (way.units()[0].reason or "")


@ONE_DATABASE
def test_the_log_tells_once_what_needs_a_human(
    way: "Way", sdk: stripe_sdk.StripeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose unit, for which meter and why: however often a parked one is tried; never the key."""
    way.emulator.seed([{"account_id": "acct_1"}, {"account_id": "acct_2"}], ["tokens"])
    forwarder = way.forwarder()
    way.use("1" + "0" * 17)
    way.use(5, customer="acct_2", event_name="nothing")
    way.use(6, customer="nobody\nforged")
    for _ in range(3):
        way.forward(forwarder)
        way.pass_time(HOUR_S)
    told = [record for record in caplog.records if record.name == "usageflow.forwarding"]
    assert {record.levelname for record in told} == {"WARNING"}
    held, refused, parked = way.units()
    assert sorted(record.getMessage() for record in told) == sorted(
        f"unit {unit.identifier} is {state}: customer account_id {customer!r}, "
        f"event name {event_name!r}, reason {unit.reason!r}"
        for unit, state, customer, event_name in (
            (held, "held", "acct_1", "tokens"),
            (refused, "quarantined", "acct_2", "nothing"),
            (parked, "parked", "nobody\nforged", "tokens"),
        )
    )
    assert parked.attempts > 1
    assert way.emulator.api_key not in caplog.text
    assert forwarder._told_parked == {parked.id}
    sdk.v1.customers.create({"metadata": {"account_id": "nobody\nforged"}})
    way.forward_all(forwarder)
    assert forwarder._told_parked == set()


@ONE_DATABASE
def test_nothing_is_sent_before_the_meters_are_known(way: "Way") -> None:
    """While the list cannot be read, usage waits: a meter may have keys or rules of its own."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder(listed=False)
    way.use(5)
    way.emulator.fault("status", route="GET /v1/billing/meters", status=500)
    with pytest.raises(DeliveryError):
        way.meters.refresh()
    assert forwarder.forward_once() == 0
    assert way.meters.refresh() == 1
    way.forward_all(forwarder)
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})


@ONE_DATABASE
def test_the_payload_follows_the_meter(way: "Way", sdk: stripe_sdk.StripeClient) -> None:
    """A meter with payload keys of its own gets them."""
    way.emulator.seed([{"account_id": "acct_1"}])
    params: Any = {
        "display_name": "Tokens",
        "event_name": "tokens",
        "default_aggregation": {"formula": "sum"},
        "customer_mapping": {"type": "by_id", "event_payload_key": "payer"},
        "value_settings": {"event_payload_key": "amount"},
    }
    sdk.v1.billing.meters.create(params)
    way.use(5)
    way.forward(way.forwarder())
    assert_exactly_once(way, {("acct_1", "tokens"): "5"})


@ONE_DATABASE
def test_calls_are_paced(way: "Way") -> None:
    """No more meter events begin each second than allowed, whatever is waiting."""
    names = [f"acct_{number}" for number in range(6)]
    way.emulator.seed([{"account_id": name} for name in names], ["tokens"])
    now = [1_000.0]
    forwarder = way.forwarder(calls_per_s=2, clock=lambda: now[0])
    for name in names:
        way.use(1, customer=name)
    for begun in range(1, 7):
        way.forward(forwarder)
        assert way.calls() == {"200": begun}
        now[0] += 0.5
    assert way.applied() == {(name, "tokens"): "1" for name in names}


@ONE_DATABASE
def test_a_refused_rate_slows_the_account_down(way: "Way") -> None:
    """A 429 for the rate lowers the pace of all lanes; one for a busy lane is the lane's alone."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    forwarder = way.forwarder()
    way.emulator.fault("status", status=409)
    way.use(1)
    way.forward_all(forwarder)
    assert forwarder.rate == 1_000
    way.emulator.fault("status", status=429)
    way.use(1)
    way.forward_all(forwarder)
    assert forwarder.rate < 1_000
    assert_exactly_once(way, {("acct_1", "tokens"): "2"})


def test_exact_beyond_binary_floats(way: "Way") -> None:
    """Ten times 0.1 is 1, at Stripe too."""
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens"])
    way.use(*["0.1"] * 10)
    with way.forwarder() as forwarder:
        way.forward_all(forwarder)
    assert Decimal(way.applied()["acct_1", "tokens"]) == 1
