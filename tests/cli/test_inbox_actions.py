"""`usageflow inbox attach`, `retry`, `carry`, `write-off`: what is done, and what is said."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from usageflow.catalog.organizations import default_organization
from usageflow.cli import inbox_actions
from usageflow.db.session import Database
from usageflow.db.tables import LaneRow, StripeCustomerRow, UnitRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store
from usageflow.stripe.accounts import ensure_own
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running

Run = Callable[..., Any]
KEY = "sk_test_inbox"


@pytest.fixture(scope="module")
def emulator_url() -> Iterator[str]:
    """One emulator for this module."""
    with running(create_emulator(search_lag_s=0)) as url:
        yield url


@pytest.fixture
def emulator(emulator_url: str, monkeypatch: pytest.MonkeyPatch, run: Run) -> RemoteEmulator:
    """The emulator, empty, and where the command's environment says Stripe is."""
    monkeypatch.setenv("USAGEFLOW_STRIPE_API_KEY", KEY)
    monkeypatch.setenv("USAGEFLOW_STRIPE_API_BASE", emulator_url)
    remote = RemoteEmulator(emulator_url, KEY)
    remote.reset()
    return remote


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with a unit of each of three customers: parked, quarantined and held."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    with closing(Database.open(url)) as db:
        db.migrate()
        lines = [
            encode(
                UsageEvent(
                    id=f"event-{state}",
                    policy="calls",
                    policy_version="1",
                    metric="CALLS",
                    identity=Identity("account_id", state),
                    quantity=Decimal(1),
                    occurred_at=datetime.now(UTC) - timedelta(days=days),
                    state="counted",
                    event_name="calls",
                )
            )
            for state, days in (("parked", 0), ("quarantined", 0), ("held", 40))
        ]
        with db.transaction() as tx:
            organization_id = default_organization(tx)
            ensure_own(tx, organization_id, livemode=False)
            store.append(tx, organization_id, lines, unknown_metric="create")
        with db.transaction() as tx:
            for unit, lane in tx.session.exec(
                select(UnitRow, LaneRow).join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
            ):
                unit.state, unit.reason = lane.identity_value, "no_meter: none"
    return url


def unit_of(url: str, customer: str) -> UnitRow:
    """The latest unit of a customer."""
    with closing(Database.open(url)) as db, db.reading() as tx:
        unit = tx.session.exec(
            select(UnitRow)
            .join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
            .where(col(LaneRow.identity_value) == customer)
            .order_by(col(UnitRow.id).desc())
        ).first()
        assert unit is not None
        tx.session.expunge(unit)
        return unit


def test_attach_says_whose_it_is(run: Run, url: str, emulator: RemoteEmulator) -> None:
    """And whether anything went on; nobody is attached that Stripe does not know."""
    (customer,) = emulator.seed([{}])
    where = ("--database", url)
    told = f"account_id parked is {customer} from now on"
    assert run("inbox", "attach", "account_id", "parked", customer, *where) == (
        0,
        f"{told}; what was parked goes on\n",
        "",
    )
    assert run("inbox", "attach", "account_id", "other", customer, *where).out == (
        f"account_id other is {customer} from now on\n"
    )
    status, out, err = run("inbox", "attach", "account_id", "parked", "cus_x", *where)
    assert (status, out) == (1, "")
    assert err == "usageflow: there is no customer cus_x in this account\n"
    with closing(Database.open(url)) as db, db.reading() as tx:
        rows = tx.session.exec(select(StripeCustomerRow)).all()
        assert {row.stripe_customer_id for row in rows} == {customer}


def test_several_lanes_are_counted(run: Run, url: str, emulator: RemoteEmulator) -> None:
    """One identity may wait under several event names."""
    (customer,) = emulator.seed([{}])
    with closing(Database.open(url)) as db, db.transaction() as tx:
        for unit, lane in tx.session.exec(
            select(UnitRow, LaneRow).join(LaneRow, col(LaneRow.id) == col(UnitRow.lane_id))
        ):
            unit.state, lane.identity_value = "parked", "same"
    told = run("inbox", "attach", "account_id", "same", customer, "--database", url).out
    assert told == f"account_id same is {customer} from now on; 3 parked lanes go on\n"


def test_retry_by_identifier_or_code(run: Run, url: str) -> None:
    """What went out again is on standard output, what was refused on the other."""
    unit = unit_of(url, "quarantined")
    out = f"{unit.identifier}: goes out again as it is\n"
    assert run("inbox", "retry", "--code", "no_meter", "--database", url) == (0, out, "")
    assert unit_of(url, "quarantined").state == "sealed"
    none = "No unit is quarantined with no_meter.\n"
    assert run("inbox", "retry", "--code", "no_meter", "--database", url) == (0, none, "")
    status, out, err = run("inbox", "retry", unit.identifier, "uf1_x", "--database", url)
    assert (status, out) == (1, "")
    assert err == (
        f"{unit.identifier}: it is sealed, and needs nobody\nuf1_x: there is no such unit\n"
    )


def test_retry_must_know_which(run: Run, url: str) -> None:
    """Neither nothing nor both."""
    for words in ((), ("uf1_x", "--code", "no_meter")):
        status, _, err = run("inbox", "retry", *words, "--database", url)
        assert status == 1
        assert "say which units: their identifiers, or --code" in err


def test_carry_and_write_off(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fit in one transaction, too."""
    monkeypatch.setattr(inbox_actions, "UNITS_AT_ONCE", 1)
    old, other = unit_of(url, "held"), unit_of(url, "quarantined")
    status, out, err = run("inbox", "carry", old.identifier, other.identifier, "--database", url)
    new = unit_of(url, "held")
    assert (status, out) == (1, f"{old.identifier}: is carried over as {new.identifier}\n")
    assert err.startswith(f"{other.identifier}: Stripe still takes usage of its time")
    given_up = (other.identifier, unit_of(url, "parked").identifier)
    status, out, _ = run("inbox", "write-off", *given_up, "--reason", "a test", "--database", url)
    assert status == 0
    assert out.count("is written off, and will never be billed") == 2
    assert unit_of(url, "parked").reason == "a test"
    assert run("inbox", "write-off", *given_up, "--database", url).status == 2


@pytest.mark.parametrize("reason", ["", " \t"])
def test_a_reason_says_something(run: Run, url: str, reason: str) -> None:
    """Who reads the audit log has nothing else; nothing is given up without."""
    unit = unit_of(url, "quarantined")
    status, out, err = run(
        "inbox", "write-off", unit.identifier, "--reason", reason, "--database", url
    )
    assert (status, out) == (2, "")
    assert "'--reason': say why" in err
    assert unit_of(url, "quarantined").state == "quarantined"


def test_options_go_behind_the_action(run: Run, url: str) -> None:
    """Before it they would mean another database than the one that is changed."""
    status, _, err = run("inbox", "--database", url, "retry", "--code", "x")
    assert status == 2
    assert "options go behind 'retry'" in err


def test_detach_takes_back_what_attach_said(run: Run, url: str, emulator: RemoteEmulator) -> None:
    """Once; nobody else's identity is touched."""
    (customer,) = emulator.seed([{}])
    run("inbox", "attach", "account_id", "parked", customer, "--database", url)
    words = ("inbox", "detach", "account_id", "parked", "--database", url)
    told = "account_id parked is whose Stripe's metadata say, from now on\n"
    assert run(*words) == (0, told, "")
    again = run(*words)
    assert (again.status, again.err) == (
        1,
        "usageflow: account_id parked is attached to no customer\n",
    )


@pytest.mark.parametrize(
    "words", [("account_id", "a", "x"), ("account_id", "a", "../x"), ("account_id", "", "cus_1")]
)
def test_what_is_no_identity_or_customer_is_refused(
    run: Run, url: str, emulator: RemoteEmulator, words: tuple[str, ...]
) -> None:
    """In a sentence; Stripe is not asked."""
    status, out, err = run("inbox", "attach", *words, "--database", url)
    assert (status, out) == (1, "")
    assert err.startswith("usageflow: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_the_beginning_of_an_identifier_will_do(run: Run, url: str) -> None:
    """As the inbox shows it, if it is long enough and of one unit alone."""
    shown = run("inbox", "--database", url).out
    unit = unit_of(url, "quarantined")
    begin = unit.identifier[:16]
    assert f"  {begin}  " in shown
    short = run("inbox", "retry", begin[:11], "--database", url)
    assert short.err == f"{begin[:11]}: there is no such unit\n"
    out = f"{unit.identifier}: goes out again as it is\n"
    assert run("inbox", "retry", begin, "--database", url) == (0, out, "")


def test_a_beginning_of_several_is_refused(run: Run, url: str) -> None:
    """Which of them is meant, a person has to say."""
    with closing(Database.open(url)) as db, db.transaction() as tx:
        for unit in tx.session.exec(select(UnitRow)).all():
            tx.session.add(
                UnitRow(
                    **unit.model_dump(exclude={"id", "identifier", "sequence"}),
                    identifier=f"uf1_aaaaaaaaaaaa{unit.id}",
                    sequence=100,
                )
            )
    several = run("inbox", "carry", "uf1_aaaaaaaaaaaa", "--database", url)
    assert (several.status, several.err) == (
        1,
        "usageflow: 3 units begin with uf1_aaaaaaaaaaaa; tell more of it\n",
    )
