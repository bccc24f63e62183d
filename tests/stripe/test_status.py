"""How the way to an account is: units, lag, drift, meters, webhooks."""

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from sqlmodel import select

from usageflow.catalog.policies import publish
from usageflow.catalog.secrets import Keyring
from usageflow.config import Settings
from usageflow.db.tables import LaneRow, ReconciliationRow, StripeAccountRow, StripeReadsRow
from usageflow.policies import Policy
from usageflow.stripe import accounts
from usageflow.stripe.access import access
from usageflow.stripe.accounts import Refused
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.meter_events import Meter
from usageflow.stripe.status import AccountStatus, LiveStatus, ask, meter_statuses, statuses
from usageflow.stripe.sync_meters import Wanted

if TYPE_CHECKING:
    from tests.stripe.conftest import Way


@pytest.fixture
def settings(emulator: RemoteEmulator) -> Settings:
    """Those of the server."""
    return Settings(stripe_api_key=emulator.api_key, stripe_api_base=emulator.url)


def only(way: "Way", settings: Settings) -> AccountStatus:
    """The status of the one account."""
    with way.database.reading() as tx:
        (found,) = statuses(tx, settings, way.organization_id)
    return found


def test_usage_on_its_way_is_behind(way: "Way", settings: Settings) -> None:
    """From the moment it was used until Stripe has taken it."""
    quiet = only(way, settings)
    assert (quiet.state, quiet.problem, quiet.lag_s, quiet.units) == ("active", None, None, {})
    way.use(1)
    way.pass_time(90)
    late = only(way, settings)
    assert late.lag_s == 90
    assert sum(late.units.values()) == 1


def test_what_differs_and_what_was_read_is_told(way: "Way", settings: Settings) -> None:
    """Open differences count, those that are resolved do not; reads are today's."""
    with way.database.transaction() as tx:
        for number, state in enumerate(("open", "open", "resolved")):
            tx.session.add(
                ReconciliationRow(
                    organization_id=way.organization_id,
                    account_id=way.account_id,
                    stripe_customer_id=f"cus_{number}",
                    event_name="calls",
                    hour=tx.now,
                    expected=Decimal(5),
                    observed=Decimal(3 + 4 * number),
                    classification="late",
                    reason="",
                    state=state,
                    first_seen_at=tx.now,
                    observed_at=tx.now,
                    checked_at=tx.now,
                )
            )
        today = tx.now.replace(hour=0, minute=0, second=0, microsecond=0)
        for day, reads in ((today, 4), (today - timedelta(days=1), 40)):
            tx.session.add(StripeReadsRow(account_id=way.account_id, day=day, reads=reads))
    found = only(way, settings)
    assert (found.drift, found.drifts, found.reads_today) == (Decimal(4), 2, 4)


def test_why_nothing_is_sent_is_told(way: "Way", settings: Settings) -> None:
    """By Stripe's reason first, else by what is missing here."""
    assert "no key for it here" in str(only(way, Settings()).problem)
    with way.database.transaction() as tx:
        accounts.pause(tx, way.account_id, "Invalid API Key")
    found = only(way, settings)
    assert (found.state, found.problem) == ("paused", "Invalid API Key")


def test_an_account_that_has_ended_lacks_no_meters(way: "Way", settings: Settings) -> None:
    """Nothing is sent to it."""
    policy = Policy.model_validate(
        {
            "name": "a",
            "match": "GET /v1",
            "identify": [{"from": "header", "name": "x-account-id"}],
            "field": "account_id",
            "metric": "CALLS",
            "event_name": "calls",
        }
    )
    with way.database.transaction() as tx:
        publish(tx, way.organization_id, [policy])
    assert [meter.status for meter in only(way, settings).meters] == ["missing"]
    with way.database.transaction() as tx:
        accounts.deauthorize(tx, way.account_id, "gone")
    assert only(way, settings).meters == ()


def test_other_sinks_and_other_organizations_are_left_out(way: "Way", settings: Settings) -> None:
    """It is about Stripe, and about one organization."""
    with way.database.transaction() as tx:
        tx.session.add(
            StripeAccountRow(
                id="file",
                organization_id=way.organization_id,
                kind="cloudevents",
                account="file",
                livemode=False,
                state="active",
                created_at=tx.now,
            )
        )
    assert only(way, settings).account == "own"
    with way.database.reading() as tx:
        assert statuses(tx, settings, "other") == []
        assert tx.session.exec(select(LaneRow)).all() == []


def test_meters_are_as_last_listed_or_as_stripe_says(
    way: "Way", settings: Settings, gateway: StripeGateway
) -> None:
    """What was asked for goes before; what Stripe does not say is no reason to say nothing."""
    assert only(way, settings).meters == ()
    gateway.create_meter("calls", display_name="calls")
    with way.database.reading() as tx:
        row = tx.session.get_one(StripeAccountRow, way.account_id)
        reached = access(row, settings, Keyring([]))
    told = ask(settings, reached)
    assert isinstance(told, LiveStatus)
    assert told.owner.account_id.startswith("acct_")
    with way.database.reading() as tx:
        (found,) = statuses(tx, settings, way.organization_id, {way.account_id: told})
    assert [meter.event_name for meter in found.meters] == ["calls"]
    assert found.live == told
    assert ask(settings, Refused("no key")) == "no key"
    way.emulator.fault("status", route="/v1/account", status=500)
    assert str(ask(settings, reached)).startswith("Stripe: ")


def test_meters_and_policies_meet_by_event_name() -> None:
    """What lacks a meter is there, too; what nobody uses comes last, and is no problem."""
    wanted = [
        Wanted(event_name=name, policies=(f"p-{name}",), counts=False)
        for name in ("calls", "missing")
    ]
    meters = [
        Meter(event_name="z-unused", status="inactive"),
        Meter(event_name="a-unused", formula="count"),
        Meter(event_name="calls", status="inactive"),
    ]
    assert [
        (one.event_name, one.formula, one.status, one.policies, one.problem)
        for one in meter_statuses(wanted, meters)
    ] == [
        ("calls", "sum", "inactive", ("p-calls",), "the meter is deactivated"),
        ("missing", None, "missing", ("p-missing",), "Stripe has no meter of this event name"),
        ("a-unused", "count", "active", (), None),
        ("z-unused", "sum", "inactive", (), None),
    ]
