"""`usageflow usage`: exact totals per customer, metric and hour, and how far they have come."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.events import Identity, UsageEvent, decode, encode
from usageflow.ledger import store, units
from usageflow.ledger.attempts import Limits
from usageflow.periods import hour_start
from usageflow.stripe.accounts import account_of, connect, ensure_own
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.meter_events import MeterEvent, meter_event
from usageflow.stripe.meters import Meters

Run = Callable[..., Any]

PLATFORM_KEY = "sk_test_platform"
EXACT = "1234567890123456789012345.123456789"
ONE_MORE = "1234567890123456789012346.123456789"


def event(number: int, customer: str, quantity: str, event_name: str | None) -> bytes:
    """An encoded usage event of half past nine."""
    return encode(
        UsageEvent(
            id=f"event-{number}",
            policy="calls",
            policy_version="1",
            metric="API_CALL",
            identity=Identity("account_id", customer),
            quantity=Decimal(quantity),
            occurred_at=datetime(2026, 11, 21, 9, 30, tzinfo=UTC),
            state="counted",
            event_name=event_name,
        )
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with usage of two customers and a line for the inbox."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    lines = [
        event(1, "acct_1", EXACT, "calls"),
        event(2, "acct_1", "1", "calls"),
        event(3, "acct_2", "7", None),
        b"not an event",
    ]
    with closing(Database.open(url)) as db:
        db.migrate()
        with db.transaction() as tx:
            store.append(tx, default_organization(tx), lines, unknown_metric="create")
    return url


def test_json_is_exact(run: Run, url: str) -> None:
    """Numbers with every digit; what stays here has no Stripe part; what was not asked is null."""
    status, out, err = run("usage", "--json", "--database", url)
    assert (status, err) == (0, "")
    document = json.loads(out, parse_float=Decimal)
    assert document["inbox"] == 1
    first, second = document["usage"]
    assert first == {
        "customer": "acct_1",
        "field": "account_id",
        "metric": "API_CALL",
        "hour": "2026-11-21T09:00:00Z",
        "quantity": Decimal(ONE_MORE),
        "events": 2,
        "stripe": [
            {
                "event_name": "calls",
                "accepted": 0,
                "pending": Decimal(ONE_MORE),
                "stuck": 0,
                "written_off": 0,
                "applied": None,
            }
        ],
    }
    assert (second["customer"], second["quantity"], second["stripe"]) == ("acct_2", 7, [])
    assert document["stripe"] == [], "nobody knows yet whose it is there"


def test_the_table_is_for_people(run: Run, url: str) -> None:
    """One line per customer, metric, hour and meter; the inbox is never out of sight."""
    lines = run("usage", "--database", url).out.splitlines()
    assert lines[2].split() == [
        *("acct_1", "API_CALL", "2026-11-21", "09:00", ONE_MORE, "2"),
        *("calls", "0", "?"),
    ]
    assert lines[3].split()[4:] == ["7", "1", "-", "-", "-"]
    assert '"?": Stripe was not asked' in lines[-3]
    assert lines[-1] == "1 in the inbox"


def test_no_usage_is_an_empty_list(run: Run, tmp_path: Path) -> None:
    """A database that was made and never used."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    assert run("migrate", "--database", url)[:2] == (0, f"{url} is up to date\n")
    document = json.loads(run("usage", "--json", "--database", url).out)
    assert document == {"usage": [], "stripe": [], "gaps": [], "inbox": 0, "units": {}}


def forward(url: str, gateway: StripeGateway, customer: str, *lines: bytes) -> None:
    """Record these events and send their units, one of each lane, for a Stripe customer."""
    with closing(Database.open(url)) as db, closing(gateway):
        db.migrate()
        with db.transaction() as tx:
            organization_id = default_organization(tx)
            account_id = account_of(tx, organization_id).id
        meters = Meters(db, account_id, gateway)
        meters.refresh()
        with db.transaction() as tx:
            store.append(tx, organization_id, lines, unknown_metric="create")
            limits = Limits(resend_s_max=60)
            claims = units.claim(tx, account_id, owner="test", limit=9, lease_s=60, limits=limits)
            for claim in claims:
                units.bind_customer(tx, claim, customer)
                sent = meter_event(
                    meters.get(claim.event_name),
                    customer=customer,
                    quantity=claim.quantity,
                    identifier=claim.identifier,
                    occurred_at=claim.occurred_at,
                )
                assert isinstance(sent, MeterEvent)
                assert units.settle(tx, claim, gateway.send_meter_event(sent))


def test_metrics_of_one_meter_do_not_look_like_a_drift(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stripe has only their sum: it stands beside theirs, never beside one of them."""
    url, now = f"sqlite:///{tmp_path / 'shared.db'}", datetime.now(UTC)
    first = msgspec.structs.replace(decode(event(1, "acct_1", "2", "calls")), occurred_at=now)
    more: list[dict[str, Any]] = [
        {"id": "event-2", "metric": "TOKEN", "quantity": Decimal("0.5")},
        {"id": "event-3", "event_name": "own"},
        {"id": "event-4", "event_name": "each"},
    ]
    lines = [encode(msgspec.structs.replace(first, **changes)) for changes in [{}, *more]]
    with running(create_emulator(search_lag_s=0)) as base:
        emulator = RemoteEmulator(base, "sk_test_emulated")
        count = {"event_name": "each", "formula": "count"}
        (customer,) = emulator.seed([{"account_id": "acct_1"}], ["calls", "own", count])
        with closing(Database.open(url)) as db:
            db.migrate()
            with db.transaction() as tx:
                ensure_own(tx, default_organization(tx), livemode=False)
        gateway = StripeGateway(emulator.api_key, base=emulator.url, timeout_s=5)
        forward(url, gateway, customer, *lines)
        monkeypatch.setenv("USAGEFLOW_STRIPE_API_KEY", emulator.api_key)
        monkeypatch.setenv("USAGEFLOW_STRIPE_API_BASE", emulator.url)
        document = json.loads(run("usage", "--json", "--database", url).out, parse_float=Decimal)
        table = run("usage", "--database", url).out.splitlines()
    applied = {
        (row["metric"], part["event_name"]): part["applied"]
        for row in document["usage"]
        for part in row["stripe"]
    }
    assert applied == {
        ("API_CALL", "calls"): None,
        ("API_CALL", "each"): 1,
        ("API_CALL", "own"): 2,
        ("TOKEN", "calls"): None,
    }
    hour = f"{hour_start(now):%Y-%m-%dT%H:%M:%SZ}"
    place = {"stripe_customer": customer, "customers": ["acct_1"], "hour": hour}
    assert document["stripe"] == [
        place | {"event_name": name, "accepted": both, "applied": both}
        for name, both in (("calls", Decimal("2.5")), ("own", 2))
    ]
    (line,) = [line for line in table if line.startswith(customer)]
    day = f"{hour_start(now):%Y-%m-%d %H:%M}"
    assert line == f"{customer}  calls         {day}  acct_1 API_CALL, acct_1 TOKEN  2.5   2.5"


def test_customers_of_one_stripe_customer_do_not_look_like_a_drift(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has sent its part; what Stripe has is told once, beside all of them."""
    url, now = f"sqlite:///{tmp_path / 'shared.db'}", datetime.now(UTC)
    lines = [
        encode(msgspec.structs.replace(decode(event(number, who, "2", "calls")), occurred_at=now))
        for number, who in ((1, "a"), (2, "b"))
    ]
    with running(create_emulator(search_lag_s=0)) as base:
        forward(url, *connected(base, url), *lines)
        monkeypatch.setenv("USAGEFLOW_STRIPE_API_KEY", PLATFORM_KEY)
        monkeypatch.setenv("USAGEFLOW_STRIPE_CLIENT_ID", "ca_1")
        monkeypatch.setenv("USAGEFLOW_STRIPE_API_BASE", base)
        document = json.loads(run("usage", "--json", "--database", url).out)
        shown = run("usage", "--database", url).out.splitlines()
    assert [row["stripe"][0]["applied"] for row in document["usage"]] == [None, None]
    (meter,) = document["stripe"]
    assert (meter["customers"], meter["accepted"], meter["applied"]) == (["a", "b"], 4, 4)
    assert [line.split()[-2:] for line in shown[2:4]] == [["2", "?"], ["2", "?"]]
    assert "has only the sum that stands below" in shown[5]
    assert shown[9].endswith("a API_CALL, b API_CALL  4     4")


def connected(base: str, url: str) -> tuple[StripeGateway, str]:
    """An account connected to the organization, with a meter and a customer, by its access."""
    platform = StripeGateway(PLATFORM_KEY, base=base, timeout_s=5, client_id="ca_1")
    asked = platform.authorize_url(state="s", redirect_uri="http://127.0.0.1/back")
    back = httpx.get(f"{asked}&_emulator_decision=connect:acct_theirs").headers["location"]
    platform.exchange_code(httpx.URL(back).params["code"])
    platform.close()
    gateway = StripeGateway(PLATFORM_KEY, base=base, timeout_s=5, account="acct_theirs")
    gateway.create_meter("calls", display_name="calls")
    headers = {"authorization": f"Bearer {PLATFORM_KEY}", "stripe-account": "acct_theirs"}
    made = httpx.post(f"{base}/v1/customers", headers=headers).raise_for_status()
    with closing(Database.open(url)) as db:
        db.migrate()
        with db.transaction() as tx:
            connect(tx, default_organization(tx), "acct_theirs", livemode=False)
    return gateway, made.json()["id"]


def test_a_connected_account_is_asked_with_its_own_access(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the platform. Where Stripe was not, or could not be asked, it is "?" and never 0."""
    url, now = f"sqlite:///{tmp_path / 'connected.db'}", datetime.now(UTC)
    sent, waits = (
        encode(msgspec.structs.replace(decode(event(number, who, "2", "calls")), occurred_at=now))
        for number, who in ((1, "acct_1"), (2, "acct_2"))
    )
    with running(create_emulator(search_lag_s=0)) as base:
        forward(url, *connected(base, url), sent)
        with closing(Database.open(url)) as db, db.transaction() as tx:
            store.append(tx, default_organization(tx), [waits], unknown_metric="create")
        monkeypatch.setenv("USAGEFLOW_STRIPE_API_KEY", PLATFORM_KEY)
        monkeypatch.setenv("USAGEFLOW_STRIPE_CLIENT_ID", "ca_1")
        monkeypatch.setenv("USAGEFLOW_STRIPE_API_BASE", base)
        told = run("usage", "--database", url)
        document = json.loads(run("usage", "--json", "--database", url).out)
        monkeypatch.delenv("USAGEFLOW_STRIPE_CLIENT_ID")
        unreached = run("usage", "--database", url)
    assert (told.status, told.err) == (0, "")
    assert [line.split()[-2:] for line in told.out.splitlines()[2:4]] == [["2", "2"], ["0", "?"]]
    assert [row["stripe"][0]["applied"] for row in document["usage"]] == [2, None]
    assert [meter["applied"] for meter in document["stripe"]] == [2]
    shown = unreached.out.splitlines()[2:4]
    assert [line.split()[-2:] for line in shown] == [["2", "?"], ["0", "?"]]
    assert unreached.status == 0
    assert unreached.err.startswith(
        "usageflow: what Stripe has is not known for acct_theirs: there is no key for it here"
    )


def test_gaps_are_shown(run: Run, url: str) -> None:
    """What was not recorded one by one is told in both forms, known or not, and is in no total."""
    shown = json.loads(run("usage", "--json", "--database", url).out)
    assert shown["gaps"] == []
    known = msgspec.structs.replace(
        decode(event(4, "acct_1", EXACT, "calls")), state="gap", reason="12 requests: disk full"
    )
    unknown = msgspec.structs.replace(
        known, id="event-5", identity=Identity("account_id", None), quantity=None
    )
    with closing(Database.open(url)) as db, db.transaction() as tx:
        lines = [encode(known), encode(unknown)]
        store.append(tx, default_organization(tx), lines, unknown_metric="create")
    out = run("usage", "--json", "--database", url).out
    document = json.loads(out, parse_float=Decimal)
    gap = {"metric": "API_CALL", "events": 1, "reason": "12 requests: disk full"}
    assert document["gaps"] == [
        gap | {"identity": {"field": "account_id", "value": "acct_1"}, "quantity": Decimal(EXACT)},
        gap | {"identity": None, "quantity": None},
    ]
    assert (len(document["usage"]), document["inbox"]) == (len(shown["usage"]), 3)
    lines = run("usage", "--database", url).out.splitlines()
    reason = ["12", "requests:", "disk", "full"]
    assert lines[-4].split() == ["account_id", "acct_1", "API_CALL", "1", EXACT, *reason]
    assert lines[-3].split() == ["?", "API_CALL", "1", "?", *reason]
    assert lines[-1] == "3 in the inbox"


def test_a_mistyped_path_is_named_and_nothing_is_made_there(run: Run, tmp_path: Path) -> None:
    """Reading leaves no file behind: neither a database nor its locks."""
    path = tmp_path / "typo.db"
    status, out, err = run("usage", "--database", f"sqlite:///{path}")
    assert (status, out, err) == (1, "", f"usageflow: there is no database file {path}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_tables_is_explained(run: Run, tmp_path: Path) -> None:
    """With the command that would make a database of it."""
    (tmp_path / "empty.db").touch()
    status, out, err = run("usage", "--database", f"sqlite:///{tmp_path / 'empty.db'}")
    assert (status, out) == (1, "")
    assert "run `usageflow migrate`" in err
