"""Events that no webhook brought are asked for."""

import itertools
import logging
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import stripe as stripe_sdk
from sqlmodel import col, select

from usageflow.db.tables import ErrorReportRow, StripeAccountRow, StripeEventRow
from usageflow.errors import DeliveryError
from usageflow.stripe import directory, error_reports
from usageflow.stripe.catch_up import KEPT, poll
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.cursor import OVERLAP, READABLE
from usageflow.stripe.customers import StripeAddresses
from usageflow.stripe.events import CUSTOMERS, AccountEvents
from usageflow.stripe.identities import whose
from usageflow.stripe.inbound import InboundEvent

if TYPE_CHECKING:
    from tests.stripe.conftest import Way

FAR = timedelta(days=1)


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What UsageFlow told; other programs' words depend on what ran before."""
    return [record for record in caplog.records if record.name.startswith("usageflow")]


@pytest.fixture(autouse=True)
def _one_clock(way: "Way", monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes here and at the emulator alike; usage is known by account_id."""
    monkeypatch.setattr(StripeGateway, "clock_skew_s", 0.0)
    way.use(1)


def values(way: "Way") -> set[str]:
    """The values that anybody is known to have."""
    with way.database.reading() as tx:
        known = directory.known(
            tx, way.account_id, [("account_id", value) for value in ("old", "a", "b", "c")]
        )
    return {value for _, value in known}


def types(way: "Way") -> list[str]:
    """The types of the events that are remembered."""
    with way.database.reading() as tx:
        return sorted(tx.session.exec(select(StripeEventRow.type)))


def test_all_since_the_account_is_here(way: "Way", sdk: stripe_sdk.StripeClient) -> None:
    """What was before is in the list of customers; each event is dealt with once."""
    way.emulator.seed([{"account_id": "old"}])
    way.pass_time(OVERLAP.total_seconds() + 60)
    with way.database.transaction() as tx:
        tx.session.get_one(StripeAccountRow, way.account_id).created_at = tx.now
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    way.pass_time(60)
    sdk.v1.customers.update(customer, {"metadata": {"account_id": "b"}})
    told: list[str] = []
    way.emulator.seed(meters=["tokens"])
    assert poll(way.database, way.account_id, way.gateway, told.append) == 3
    assert (values(way), told) == ({"a", "b"}, [way.account_id])
    assert poll(way.database, way.account_id, way.gateway, told.append) == 0
    assert told == [way.account_id]


def test_the_first_webhook_after_an_outage_hides_nothing(
    way: "Way", sdk: stripe_sdk.StripeClient
) -> None:
    """What was missed is asked for since the last complete round, however new what came is."""
    poll(way.database, way.account_id, way.gateway)
    (customer,) = way.emulator.seed([{"account_id": "a"}])
    way.pass_time(FAR.total_seconds() * 5)
    sdk.v1.customers.update(customer, {"metadata": {"plan": "gold"}})
    with way.database.reading() as tx:
        since = tx.now - timedelta(hours=1)
    (newest,) = way.gateway.events_since(CUSTOMERS, since)
    AccountEvents(way.database, way.account_id, lambda: nullcontext(way.gateway), print).take(
        newest
    )
    assert poll(way.database, way.account_id, way.gateway) == 1
    assert values(way) == {"a"}


def cursor_of(way: "Way") -> datetime | None:
    """How far the account's events were read."""
    with way.database.reading() as tx:
        return tx.session.get_one(StripeAccountRow, way.account_id).polled_at


@pytest.mark.parametrize("failing", ["an event", "reports"])
def test_a_round_that_fails_midway_is_done_again(
    way: "Way", monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """However much later: what it had not reached is not lost behind what it had."""
    poll(way.database, way.account_id, way.gateway)
    before = cursor_of(way)
    assert before == way.clock.now
    way.emulator.seed([{"account_id": "a"}, {"account_id": "b"}])
    way.pass_time(60)
    if failing == "reports":
        way.emulator.fault("status", route="GET /v2/core/events", status=500)
    else:
        taken = itertools.count(1)
        real = AccountEvents.take

        def take(self: AccountEvents, event: InboundEvent) -> bool:
            if next(taken) == 2:
                raise DeliveryError("Stripe is away")
            return real(self, event)

        monkeypatch.setattr(AccountEvents, "take", take)
    with pytest.raises(DeliveryError):
        poll(way.database, way.account_id, way.gateway)
    assert cursor_of(way) == before
    way.pass_time(FAR.total_seconds())
    poll(way.database, way.account_id, way.gateway)
    assert values(way) == {"a", "b"}
    assert cursor_of(way) == way.clock.now


def test_the_cursor_is_of_stripes_clock(way: "Way", monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are dated by it, and ours may be wrong."""
    monkeypatch.setattr(StripeGateway, "clock_skew_s", -7_200.0)
    poll(way.database, way.account_id, way.gateway)
    assert cursor_of(way) == way.clock.now - timedelta(hours=2)


def test_what_stripe_forgot_is_made_up_for(way: "Way", sdk: stripe_sdk.StripeClient) -> None:
    """Then customers are listed once more, for the fields they were listed for; and once only."""
    one, gone = way.emulator.seed([{"account_id": "a"}, {"account_id": "b"}])
    addresses = StripeAddresses(way.database, way.account_id, way.gateway)
    addresses.prepare()
    poll(way.database, way.account_id, way.gateway)
    sdk.v1.customers.update(one, {"metadata": {"account_id": "c"}})
    sdk.v1.customers.delete(gone)
    way.pass_time((READABLE + FAR).total_seconds())
    for _ in range(2):
        assert poll(way.database, way.account_id, way.gateway) == 0
        assert way.calls("GET /v1/customers") == {"200": 2}
    with way.database.reading() as tx:
        identities = [("account_id", value) for value in "abc"]
        known = directory.known(tx, way.account_id, identities)
        assert [whose(known[identity], tx.now) for identity in identities] == [[], [], [one]]


def test_without_lists_there_is_nothing_to_make_up_for(way: "Way") -> None:
    """A new account that is older than its first customer need not be listed."""
    with way.database.transaction() as tx:
        created_at = tx.now - READABLE - FAR
        tx.session.get_one(StripeAccountRow, way.account_id).created_at = created_at
    assert poll(way.database, way.account_id, way.gateway) == 0
    assert way.calls("GET /v1/customers") == {}


def test_what_a_key_may_not_do_keeps_nothing_else_back(
    way: "Way", caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of; events are still read once only."""
    way.emulator.seed([{"account_id": "a"}])
    way.emulator.fault("status", route="GET /v2/core/events", status=403)
    assert poll(way.database, way.account_id, way.gateway) == 1
    assert cursor_of(way) == way.clock.now
    (told,) = (record.getMessage() for record in ours(caplog))
    assert told.startswith("Stripe cannot be asked for error reports: ")


def test_one_event_that_is_nonsense_keeps_no_other_back(
    way: "Way", caplog: pytest.LogCaptureFixture
) -> None:
    """It is skipped and told of, not tried for as long as Stripe lists it."""
    way.emulator.event("customer.created", {"id": "cus_x", "metadata": "nonsense"})
    way.emulator.seed([{"account_id": "a"}])
    assert poll(way.database, way.account_id, way.gateway) == 1
    assert (values(way), cursor_of(way)) == ({"a"}, way.clock.now)
    assert [record.getMessage().partition("' ")[2] for record in ours(caplog)] == [
        "of type 'customer.created' is skipped"
    ]


def test_reports_are_asked_for_too(
    way: "Way", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From the same moment on; one that cannot be dealt with keeps no other back."""
    poll(way.database, way.account_id, way.gateway)
    way.emulator.set(rejection_delay_s=0)
    way.emulator.seed([{"account_id": "acct_1"}], ["tokens", "words"])
    forwarder = way.forwarder()
    for event_name in ("tokens", "words"):
        way.emulator.reject(event_name=event_name, code="archived_meter")
        way.use(1, event_name=event_name)
        way.forward(forwarder)
        way.pass_time(60)
    way.pass_time(FAR.total_seconds() * 9)
    failing = iter([True])
    real = error_reports.consume

    def consume(*arguments: Any) -> bool:
        if next(failing, False):
            raise ValueError("of a form that nobody knew")
        return real(*arguments)

    monkeypatch.setattr(error_reports, "consume", consume)
    poll(way.database, way.account_id, way.gateway)
    with way.database.reading() as tx:
        assert len(tx.session.exec(select(ErrorReportRow)).all()) == 1
    assert sum("is skipped" in record.getMessage() for record in ours(caplog)) == 1


def test_what_came_late_is_found_behind_the_newest(way: "Way") -> None:
    """Events come in any order, so a while before the newest is asked for again."""
    way.emulator.seed([{"account_id": "a"}])
    way.pass_time(60)
    way.emulator.seed([{"account_id": "b"}])
    poll(way.database, way.account_id, way.gateway)
    with way.database.transaction() as tx:
        lost = tx.session.exec(select(StripeEventRow).order_by(col(StripeEventRow.event_id)))
        tx.session.delete(lost.first())
    assert poll(way.database, way.account_id, way.gateway) == 1


def test_no_further_back_than_stripe_remembers(way: "Way") -> None:
    """After a long silence it is asked for what there still is, and the old is let go of."""
    way.emulator.seed([{"account_id": "a"}])
    poll(way.database, way.account_id, way.gateway)
    way.pass_time((KEPT + FAR).total_seconds())
    way.emulator.seed([{"account_id": "b"}])
    assert types(way) == ["customer.created"]
    assert poll(way.database, way.account_id, way.gateway) == 1
    assert types(way) == ["customer.created"]
    assert READABLE < KEPT


def test_a_failure_is_told(way: "Way") -> None:
    """What was dealt with before it stays; the rest is asked for again."""
    way.emulator.seed([{"account_id": "a"}])
    way.emulator.fault("status", route="GET /v1/events", status=500)
    with pytest.raises(DeliveryError):
        poll(way.database, way.account_id, way.gateway)
    assert poll(way.database, way.account_id, way.gateway) == 1
