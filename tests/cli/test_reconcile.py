"""`usageflow reconcile`: what differs is shown, applied and dismissed, beside a server."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlmodel import select

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import LaneRow, StripeMeterRow, UnitRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import resolution, store, units
from usageflow.ledger.attempts import Limits
from usageflow.periods import hour_start
from usageflow.stripe.accounts import ensure_own
from usageflow.stripe.client import StripeGateway
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.remote import RemoteEmulator
from usageflow.stripe.emulator.serve import running
from usageflow.stripe.meter_events import MeterEvent
from usageflow.stripe.meters import Meters
from usageflow.stripe.reconciliation import reconcile

Run = Callable[..., Any]
KEY = "sk_test_trial"
PAGE = Path(__file__).parents[2] / "docs" / "settlement.md"
NOW = datetime.now(UTC)
HOUR = hour_start(NOW) - timedelta(hours=4)


class Books:
    """A ledger with 12,000 tokens of one customer four hours ago, and an emulator with as many.

    They were sent three hours ago, by the clock of `database`.
    """

    def __init__(self, database: Database, emulator: RemoteEmulator) -> None:
        self.database, self.emulator = database, emulator
        self.gateway = StripeGateway(KEY, base=emulator.url, timeout_s=5)
        (self.customer,) = emulator.seed([{"account_id": "acct_1"}], ["tokens"])
        database.migrate()
        with database.transaction() as tx:
            self.organization_id = default_organization(tx)
            self.account_id = ensure_own(tx, self.organization_id, livemode=False)
        Meters(database, self.account_id, self.gateway).refresh()
        line = encode(
            UsageEvent(
                id="event-1",
                policy="chat",
                policy_version="1",
                metric="TOKENS",
                identity=Identity("account_id", "acct_1"),
                quantity=Decimal(12_000),
                occurred_at=HOUR,
                state="counted",
                event_name="tokens",
            )
        )
        with database.transaction() as tx:
            store.append(tx, self.organization_id, [line], unknown_metric="create")
        self.send()

    def send(self) -> None:
        """Send what waits."""
        with self.database.transaction() as tx:
            limits = Limits(resend_s_max=72_000)
            claims = units.claim(
                tx, self.account_id, owner="test", limit=9, lease_s=60, limits=limits
            )
            for claim in claims:
                units.bind_customer(tx, claim, self.customer)
                verdict = self.write(claim.identifier, claim.quantity, claim.occurred_at)
                assert units.settle(tx, claim, verdict)

    def write(self, identifier: str, value: Decimal | int, at: datetime = HOUR) -> Any:
        """One meter event at Stripe."""
        payload = {"stripe_customer_id": self.customer, "value": str(value)}
        return self.gateway.send_meter_event(
            MeterEvent("tokens", identifier, int(at.timestamp()), payload)
        )


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """Books that agree, and the environment of the commands."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    database = Database.open(url, clock=lambda: datetime.now(UTC) - timedelta(hours=3))
    with running(create_emulator(search_lag_s=0)) as base:
        for name, value in (
            ("DATABASE", url),
            ("STRIPE_API_KEY", KEY),
            ("STRIPE_API_BASE", base),
        ):
            monkeypatch.setenv(f"USAGEFLOW_{name}", value)
        made = Books(database, RemoteEmulator(base, KEY))
        yield made
        made.gateway.close()
    database.close()


def blocks() -> list[tuple[str, str]]:
    """The commands of the page's example, each with what it prints."""
    text = PAGE.read_text(encoding="utf-8")
    parts = [block.partition("```")[0] for block in text.split("```text\n")[1:]]
    return [(part.splitlines()[0], part.partition("\n")[2]) for part in parts]


def told(text: str, customer: str) -> list[list[str]]:
    """The words of a table or a sentence, without what differs from day to day."""
    text = text.replace(customer, "cus_...").replace(f"{HOUR:%Y-%m-%d %H:%M}", "2026-11-21 09:00")
    return [line.split() for line in text.splitlines() if set(line) - set("- ")]


def test_the_example_of_the_page_is_what_happens(run: Run, books: Books) -> None:
    """Word by word: a foreign writer is found, taken off, and gone; or it is dismissed."""
    example = blocks()
    assert [command for command, _ in example] == [
        "$ usageflow reconcile",
        "$ usageflow reconcile apply 1 --yes",
        "$ usageflow reconcile",
        '$ usageflow reconcile dismiss 1 --reason "agreed with the customer"',
    ]
    books.write("by hand", 100)
    outputs = []
    for command in ("", "apply 1 --yes", ""):
        status, out, err = run("reconcile", *command.split())
        assert (status, err) == (0, "")
        outputs.append(told(out, books.customer))
        books.send()
    assert outputs == [told(output, books.customer) for _, output in example[:3]]


def test_a_difference_is_dismissed(run: Run, books: Books) -> None:
    """As the page has it; it is not shown any more, and the unit is settled with the next one."""
    books.write("by hand", 100)
    run("reconcile")
    status, out, _ = run("reconcile", "dismiss", 1, "--reason", "agreed with the customer")
    assert (status, out) == (0, blocks()[3][1])
    assert run("reconcile", "dismiss", 1, "--reason", "again") == (
        1,
        "",
        "usageflow: difference 1 is dismissed\n",
    )
    document = json.loads(run("reconcile", "--json").out)
    assert (document["agreed"], document["differences"]) == (1, [])


def test_json_has_everything(run: Run, books: Books) -> None:
    """Exact numbers, the proposal, and the reason in words."""
    books.write("by hand", 100)
    out = run("reconcile", "--json").out
    document = json.loads(out, parse_float=Decimal)
    assert {name: document[name] for name in ("reads", "compared", "agreed", "differed")} == {
        "reads": 1,
        "compared": 1,
        "agreed": 0,
        "differed": 1,
    }
    (found,) = document["differences"]
    assert (found["expected"], found["observed"], found["quantity"]) == (12_000, 12_100, -100)
    assert (found["classification"], found["proposal"]) == ("foreign", "unit")
    assert found["hour"] == f"{HOUR:%Y-%m-%dT%H:%M:%SZ}"
    assert found["stripe_customer_id"] == books.customer


def test_everything_that_is_proposed(
    run: Run, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--all` asks first; what is applied is shown as such, and not applied again."""
    books.write("by hand", 100)
    run("reconcile")
    asked: list[str] = []
    monkeypatch.setattr(typer, "confirm", lambda text, **_: asked.append(text))
    status, out, _ = run("reconcile", "apply", "--all")
    assert (status, asked) == (0, ["Apply?"])
    assert out.splitlines()[-1] == "1: applied"
    assert "send -100 (applied)" in run("reconcile").out
    nothing = "usageflow: nothing is proposed; `usageflow reconcile` shows what differs\n"
    assert run("reconcile", "apply", "--all", "--yes") == (1, "", nothing)


def test_a_cancellation_is_shown_as_one(run: Run, books: Books) -> None:
    """What is cancelled is named, not a quantity."""
    with books.database.transaction() as tx:
        unit = tx.session.exec(select(UnitRow)).one()
        identifier = unit.identifier
        resolution.reissue(tx, unit, reason="in vain")
    books.send()
    assert f"cancel {identifier}" in run("reconcile").out
    status, out, _ = run("reconcile", "apply", 1, "--yes")
    assert (status, out.splitlines()[-1]) == (0, "1: applied")
    assert "1 agree" in run("reconcile").out


def test_a_proposal_of_yesterday_may_be_refused(run: Run, books: Books) -> None:
    """The ledger has changed in between; the message says what to do."""
    books.write("by hand", 100)
    run("reconcile")
    with books.database.transaction() as tx:
        resolution.settled(tx, tx.session.exec(select(UnitRow)).all())
        resolution.correct(
            tx,
            tx.session.exec(select(LaneRow)).one(),
            stripe_customer_id=books.customer,
            occurred_at=HOUR,
            quantity=Decimal(-100),
            reason="by hand",
        )
    status, _, err = run("reconcile", "apply", 1, "--yes")
    assert status == 1
    assert err == "usageflow: 1: the ledger has changed since Stripe was asked; compare again\n"


def test_what_could_not_be_compared_is_told(
    run: Run, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a used up allotment nor a strange meter is silent."""
    with books.database.transaction() as tx:
        row = tx.session.get_one(StripeMeterRow, (books.account_id, "tokens"))
        row.meter_id = "mtr_gone"
    out = run("reconcile").out
    assert f"tokens of {books.customer} could not be compared: Stripe: " in out
    monkeypatch.setenv("USAGEFLOW_STRIPE_READS_PER_DAY", "1")
    assert "today's reads are used up" in run("reconcile").out


def test_what_cannot_be_compared_yet_is_told(run: Run, books: Books) -> None:
    """How many units wait, and until when; so nobody wonders about an empty comparison."""
    assert "until the hour is over" not in run("reconcile").out
    with books.database.transaction() as tx:
        unit = tx.session.exec(select(UnitRow)).one()
        unit.state, unit.accepted_at = "accepted", NOW
        until = NOW + timedelta(hours=2)
    assert (
        "1 unit waits until the hour is over for 2 hours; the next can be compared at "
        f"{until:%Y-%m-%d %H:%M} UTC"
    ) in run("reconcile").out


def test_what_is_late_has_no_proposal(run: Run, books: Books) -> None:
    """It is shown, and there is nothing to apply."""
    books.emulator.set(summary_lag_s=3_600)
    cells = run("reconcile").out.splitlines()[-1].split()
    assert cells[5:9] == ["12000", "0", "late", "-"]


def test_only_the_last_hours(run: Run, books: Books) -> None:
    """Older ones are not read."""
    assert run("reconcile", "--hours", 2).out.startswith("0 sums compared with 0 reads")
    assert run("reconcile", "--hours", 6).out.startswith("1 sums compared with 1 reads")


def test_misuse_is_explained(run: Run, books: Books) -> None:
    """Which difference; and options in a place where they would mean another command."""
    for words in ([], ["1", "--all"]):
        status, _, err = run("reconcile", "apply", *words)
        assert (status, err) == (
            1,
            "usageflow: say which difference to apply: its ID, or --all\n",
        )
    too_large: list[tuple[object, ...]] = [
        ("--hours", 8785),
        ("apply", 2**63),
        ("dismiss", 2**63, "--reason", "r"),
    ]
    for wrong in too_large:
        status, _, err = run("reconcile", *wrong)
        assert status == 2
        assert "Input should be less than or equal to" in err
    status, _, err = run("reconcile", "dismiss", 1, "--reason", " ")
    assert (status, "say why" in err) == (2, True)
    status, _, err = run("reconcile", "--hours", 3, "apply", "--all")
    assert status == 2
    assert "options go behind 'apply'" in err


def test_it_runs_beside_a_server(run: Run, books: Books) -> None:
    """On SQLite, which has one server: the command is none."""
    books.database.claim_server()
    assert run("reconcile").out.startswith("1 sums compared with 1 reads: 1 agree")
    report = reconcile(books.database, books.account_id, books.gateway, reads_per_day=10)
    assert report.compared == 0
