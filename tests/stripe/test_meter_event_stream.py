"""Stripe's v2 stream as a sink, against the emulator over TCP."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import pytest

from usageflow.db.session import Database
from usageflow.forwarding.conformance import Trial, examine
from usageflow.forwarding.sink import Parcel, Sink
from usageflow.ledger.verdicts import Accepted, AccountPaused, Ambiguous, Busy, Held
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.meter_event_sink import StripeMeterEvents
from usageflow.stripe.meter_event_stream import StripeStream
from usageflow.stripe.meter_events import Meter
from usageflow.stripe.meters import Meters


def parcels(customers: list[str], event_name: str = "tokens") -> list[Parcel]:
    """A unit of 5 for each customer."""
    return [
        Parcel(
            identifier=f"unit-{customer}",
            event_name=event_name,
            customer=customer,
            identity_field="account_id",
            identity_value=customer,
            quantity=Decimal(5),
            occurred_at=datetime.now(UTC),
        )
        for customer in customers
    ]


@pytest.fixture
def meters(gateway: StripeGateway) -> Meters:
    """Nothing is known of any meter, so each is taken for a `sum`; no database is asked."""
    return Meters(cast("Database", None), "account-1", gateway)


@pytest.fixture
def sink(gateway: StripeGateway, meters: Meters) -> StripeStream:
    """The stream of the emulator's account."""
    return StripeStream(gateway, meters)


def counted(emulator: RemoteEmulator) -> Mapping[str, Decimal]:
    """What the emulator has applied, by customer."""
    return {customer: value for (customer, _), value in emulator.applied("none").items()}


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_stripes_sinks_keep_what_a_sink_promises(
    emulator: RemoteEmulator, meters: Meters, gateway: StripeGateway, kind: str
) -> None:
    """The kit finds nothing in either; the stream tells later what it drops."""
    customers = emulator.seed([{}] * 10, ["tokens"])
    nowhere = StripeGateway(emulator.api_key, base="http://127.0.0.1:1", timeout_s=5)

    def made(to: StripeGateway) -> Sink:
        return (
            StripeStream(to, meters)
            if kind == "v2"
            else StripeMeterEvents(to, meters, calls_per_s=100)
        )

    trial = Trial(
        open=lambda: made(gateway),
        counted=lambda: counted(emulator),
        customers=customers,
        event_name="tokens",
        away=lambda: made(nowhere),
        told_later=kind == "v2",
    )
    assert examine(trial) == []
    nowhere.close()


def test_a_hundred_units_are_one_call(sink: StripeStream, emulator: RemoteEmulator) -> None:
    """Under one session."""
    customers = emulator.seed([{}] * 100, ["tokens"])
    for _ in range(2):
        assert list(sink.send(parcels(customers))) == [Accepted()] * 100
    calls = emulator.state()["accounts"][0]["calls"]
    assert sum(calls["POST /v2/billing/meter_event_stream"].values()) == 2
    assert sum(calls["POST /v2/billing/meter_event_session"].values()) == 1
    assert len(list(emulator.journal())) == 100


def test_what_cannot_be_told_is_held_alone(
    sink: StripeStream, emulator: RemoteEmulator, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go, in one call, and every verdict is at its place."""
    customers = emulator.seed([{}] * 3, ["tokens"])
    units = parcels(customers)
    units[1] = replace(units[1], quantity=Decimal(10**15))
    units.append(replace(units[0], identifier="hourly", event_name="hourly"))
    hourly = Meter(event_name="hourly", time_window="hour")
    get = meters.get
    monkeypatch.setattr(meters, "get", lambda name: hourly if name == "hourly" else get(name))
    verdicts = sink.send(units)
    assert [type(verdict) for verdict in verdicts] == [Accepted, Held, Accepted, Held]
    assert counted(emulator) == {customers[0]: 5, customers[2]: 5}


def test_nothing_but_what_cannot_be_told_is_no_call(
    sink: StripeStream, emulator: RemoteEmulator
) -> None:
    """A batch of which nothing is left is not sent."""
    (unit,) = parcels(emulator.seed([{}], ["tokens"]))
    (verdict,) = sink.send([replace(unit, quantity=Decimal(10**15))])
    assert isinstance(verdict, Held)
    assert "POST /v2/billing/meter_event_stream" not in emulator.state()["accounts"][0]["calls"]


def test_a_session_that_has_expired_is_replaced(
    sink: StripeStream, emulator: RemoteEmulator
) -> None:
    """After 15 minutes of Stripe's, whatever our clock says."""
    customers = emulator.seed([{}] * 2, ["tokens"])
    first, second = parcels(customers)
    assert list(sink.send([first])) == [Accepted()]
    emulator.advance(timedelta(minutes=16).total_seconds())
    assert list(sink.send([second])) == [Accepted()]
    assert counted(emulator) == dict.fromkeys(customers, 5)


def test_an_answer_that_is_lost_is_ambiguous(sink: StripeStream, emulator: RemoteEmulator) -> None:
    """The same units again are counted once."""
    units = parcels(emulator.seed([{}] * 3, ["tokens"]))
    emulator.fault("reset", route="/v2/billing/meter_event_stream", after_commit=True)
    assert {type(verdict) for verdict in sink.send(units)} == {Ambiguous}
    assert list(sink.send(units)) == [Accepted()] * 3
    assert len(list(emulator.journal())) == 3


@pytest.mark.parametrize(
    ("status", "kind"), [(500, Busy), (403, AccountPaused), (404, AccountPaused), (429, Busy)]
)
def test_a_session_that_is_refused_refuses_no_unit(
    sink: StripeStream, emulator: RemoteEmulator, status: int, kind: type
) -> None:
    """Nothing was sent, and nothing is quarantined."""
    units = parcels(emulator.seed([{}] * 2, ["tokens"]))
    emulator.fault("status", route="/v2/billing/meter_event_session", status=status)
    assert {type(verdict) for verdict in sink.send(units)} == {kind}
    assert list(sink.send(units)) == [Accepted()] * 2


def test_a_key_without_v2_is_told_of_v1(sink: StripeStream, emulator: RemoteEmulator) -> None:
    """The account pauses, and its reason says what to do."""
    emulator.fault("status", route="/v2/billing/meter_event_session", status=403)
    (verdict,) = sink.send(parcels(emulator.seed([{}], ["tokens"])))
    assert isinstance(verdict, AccountPaused)
    assert "USAGEFLOW_STRIPE_API=v1" in verdict.message


def test_a_connected_account_has_its_own_session(emulator: RemoteEmulator, meters: Meters) -> None:
    """It is named to v2 by its context."""
    connected = RemoteEmulator(emulator.url, emulator.api_key)
    gateway = StripeGateway(connected.api_key, base=emulator.url, timeout_s=5, account="acct_x")
    (verdict,) = StripeStream(gateway, meters).send(parcels(emulator.seed([{}], ["tokens"])))
    gateway.close()
    assert isinstance(verdict, AccountPaused)
    assert verdict.deauthorized
