"""`usageflow inbox`: what needs a person, exactly, newest first, and how much there is."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.db.tables import ReconciliationRow, StripeAccountRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import inbox_details, store, units
from usageflow.ledger.attempts import Limits
from usageflow.ledger.verdicts import Parked
from usageflow.stripe.accounts import ensure_own

Run = Callable[..., Any]

EXACT = "1234567890123456789012345.123456789"
START = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def event(number: int, **changes: Any) -> bytes:
    """An encoded usage event."""
    fields: dict[str, Any] = {
        "id": f"event-{number}",
        "policy": "calls",
        "policy_version": "1",
        "metric": "API_CALL",
        "identity": Identity("account_id", "acct_1"),
        "quantity": Decimal(EXACT),
        "occurred_at": START,
        "state": "counted",
        "request_method": "GET",
        "request_route": "/v1/items/:id",
        "request_status": 200,
    }
    return encode(UsageEvent(**fields | changes))


class Clock:
    """A clock that goes on by a minute whenever it is told to."""

    now = START

    def __call__(self) -> datetime:
        """The time it shows."""
        return self.now

    def tick(self) -> None:
        """One minute later."""
        self.now += timedelta(minutes=1)


def add(database: Database, *lines: bytes) -> None:
    """Take lines into the ledger."""
    with database.transaction() as tx:
        store.append(tx, default_organization(tx), list(lines), unknown_metric="create")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of nothing but migrations and an organization."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    with closing(Database.open(url)) as db:
        db.migrate()
        add(db, event(0))
    return url


@pytest.fixture
def full(url: str) -> str:
    """One of each kind, a minute apart: a refused line, an event, a parked unit, a gap."""
    clock = Clock()
    with closing(Database.open(url, clock=clock)) as db:
        add(db, b"not an event")
        clock.tick()
        add(db, event(1, state="inbox", quantity=None, reason="no\n\x1b[31musage"))
        clock.tick()
        with db.transaction() as tx:
            account_id = ensure_own(tx, default_organization(tx), livemode=False)
        add(db, event(2, event_name="calls"))
        with db.transaction() as tx:
            (claim,) = units.claim(
                tx, account_id, owner="test", limit=1, lease_s=60, limits=Limits(resend_s_max=60)
            )
            units.settle(tx, claim, Parked("no Stripe customer"))
        clock.tick()
        add(db, event(3, state="gap", identity=Identity("account_id", None), reason="disk full"))
    return url


def test_an_empty_inbox_is_calm(run: Run, url: str) -> None:
    """A sentence for a person, no line for a script."""
    calm = "The inbox is empty: nothing needs you.\n"
    assert run("inbox", "--database", url) == (0, calm, "")
    assert run("inbox", "--json", "--database", url) == (0, "", "")


def test_json_is_exact(run: Run, full: str) -> None:
    """A line per item, the newest first, with every digit; what it does not have is null."""
    status, out, err = run("inbox", "--json", "--database", full)
    assert (status, err) == (0, "")
    gap, unit, waiting, refused = (
        json.loads(line, parse_float=Decimal) for line in out.splitlines()
    )
    fields = "id metric event_name identity stripe_customer quantity line policy policy_version"
    nothing = dict.fromkeys((*fields.split(), "request", "status", "occurred_at"))
    request = {
        "policy": "calls",
        "policy_version": "1",
        "request": "GET /v1/items/:id",
        "status": 200,
        "occurred_at": "2026-11-21T09:30:00Z",
    }
    acct_1 = {"field": "account_id", "value": "acct_1"}
    assert gap == nothing | request | {
        "kind": "event",
        "state": "gap",
        "since": "2026-11-21T09:33:00Z",
        "id": "event-3",
        "metric": "API_CALL",
        "quantity": Decimal(EXACT),
        "reason": "disk full",
    }
    assert unit == nothing | {
        "kind": "unit",
        "state": "parked",
        "since": "2026-11-21T09:32:00Z",
        "id": unit["id"],
        "event_name": "calls",
        "identity": acct_1,
        "quantity": Decimal(EXACT),
        "occurred_at": "2026-11-21T09:30:00Z",
        "reason": "no Stripe customer",
    }
    assert waiting == nothing | request | {
        "kind": "event",
        "state": "inbox",
        "since": "2026-11-21T09:31:00Z",
        "id": "event-1",
        "metric": "API_CALL",
        "identity": acct_1,
        "reason": "no\n\x1b[31musage",
    }
    assert refused == nothing | {
        "kind": "rejection",
        "state": "rejected",
        "since": "2026-11-21T09:30:00Z",
        "line": "not an event",
        "reason": refused["reason"],
    }
    assert refused["reason"]


def test_the_table_is_for_people(run: Run, full: str) -> None:
    """A row each; what came from outside can neither break a row nor command a terminal."""
    header, _, *rows = run("inbox", "--database", full).out.splitlines()
    assert header.split()[:3] == ["what", "id", "when"]
    assert [row.split("  ")[0].strip() for row in rows] == [
        *("gap event", "parked unit", "inbox event", "rejected line"),
    ]
    cells = [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows]
    where = "calls: GET /v1/items/:id 200"
    assert cells[0][1:] == ["2026-11-21 09:33", "API_CALL", where, "?", EXACT, "disk full"]
    assert re.fullmatch(r"uf1_\w{12}", cells[1][1])
    assert cells[1][3:] == ["calls", "account_id acct_1", EXACT, "no Stripe customer"]
    assert "\x1b" not in rows[2]
    assert cells[2][2:6] == ["API_CALL", where, "account_id acct_1", "?"]
    assert cells[3][2:5] == ["?", "?", "?"]


def test_a_person_sees_the_newest(run: Run, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty at most, and how many more; a script gets all, in as many statements as it takes."""
    with closing(Database.open(full)) as db:
        add(db, *(event(number, state="inbox") for number in range(10, 70)), b'{"id":"some-id"}')
    lines = run("inbox", "--database", full).out.splitlines()
    assert len(lines) == 2 + 50 + 2
    assert lines[-1] == "... and 15 more; --json shows them all"
    assert not any("gap event" in line for line in lines)
    monkeypatch.setattr(inbox_details, "KEYS_MAX", 7)
    found = [
        json.loads(line) for line in run("inbox", "--json", "--database", full).out.splitlines()
    ]
    assert len(found) == 65
    assert sum(item["metric"] == "API_CALL" for item in found) == 62


def test_a_difference_says_what_stripe_lacks(run: Run, full: str) -> None:
    """With every digit, by its customer there; `reconcile` takes its number."""
    with closing(Database.open(full)) as db, db.transaction() as tx:
        account = tx.session.exec(select(StripeAccountRow)).one()
        tx.session.add(
            ReconciliationRow(
                organization_id=account.organization_id,
                account_id=account.id,
                stripe_customer_id="cus_1",
                event_name="calls",
                expected=Decimal(EXACT),
                observed=Decimal("1e-9"),
                classification="rejected",
                reason="Stripe shows less",
                state="open",
                hour=START,
                first_seen_at=START,
                observed_at=START,
                checked_at=START,
            )
        )
    lines = run("inbox", "--json", "--database", full).out.splitlines()
    (found,) = (json.loads(line, parse_float=Decimal) for line in lines if "difference" in line)
    assert {name: value for name, value in found.items() if value is not None} == {
        "kind": "difference",
        "state": "rejected",
        "since": "2026-11-21T09:30:00Z",
        "id": "1",
        "event_name": "calls",
        "stripe_customer": "cus_1",
        "quantity": Decimal("1234567890123456789012345.123456788"),
        "occurred_at": "2026-11-21T09:30:00Z",
        "reason": "Stripe shows less",
    }
    table = run("inbox", "--database", full).out.splitlines()
    (row,) = (line for line in table if line.startswith("rejected difference"))
    assert row.split()[2] == "1"
    assert row.split()[5:7] == ["calls", "cus_1"]


def test_a_refused_line_is_known_by_its_id(run: Run, url: str) -> None:
    """If one could be read of it."""
    with closing(Database.open(url)) as db:
        add(db, b'{"id":"some-id"}')
    (row,) = run("inbox", "--database", url).out.splitlines()[2:]
    assert "id some-id" in row


def test_no_database_is_an_error(run: Run, tmp_path: Path) -> None:
    """It is not made by looking."""
    status, out, err = run("inbox", "--database", f"sqlite:///{tmp_path / 'none.db'}")
    assert (status, out) == (1, "")
    assert err.startswith("usageflow: ")
    assert not (tmp_path / "none.db").exists()
