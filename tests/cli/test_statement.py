"""`usageflow statement`: what a person sees, what a machine reads, and the exit code of both."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from usageflow.catalog.organizations import default_organization
from usageflow.db.columns import table
from usageflow.db.session import Database
from usageflow.db.tables import LaneRow
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import statement, store
from usageflow.stripe.accounts import ensure_own

Run = Callable[..., Any]

NOW = datetime(2026, 11, 21, 9, 3, tzinfo=UTC)
EXACT = "1234567890123456789012345.123456789"


@pytest.fixture
def url(tmp_path: Path, sqlite_template: bytes) -> str:
    """A database with usage of two event names, and its statement of nine o'clock."""
    path = tmp_path / "usageflow.db"
    path.write_bytes(sqlite_template)
    url = f"sqlite:///{path}"
    with closing(Database.open(url, clock=lambda: NOW)) as db:
        with db.transaction() as tx:
            organization_id = default_organization(tx)
            ensure_own(tx, organization_id, livemode=False)
            lines = [
                encode(
                    UsageEvent(
                        id=f"event-{name}",
                        policy="calls",
                        policy_version="1",
                        metric="API_CALL",
                        identity=Identity("account_id", "acct_1"),
                        quantity=Decimal(quantity),
                        occurred_at=NOW,
                        state="counted",
                        event_name=name,
                    )
                )
                for name, quantity in (("tokens", EXACT), ("calls", "7"))
            ]
            store.append(tx, organization_id, lines, unknown_metric="create")
        assert statement.store_hourly(db) == 2
    return url


def lose(url: str) -> None:
    """Let the ledger forget a call."""
    lanes = table(LaneRow)
    with closing(Database.open(url)) as db, db.transaction() as tx:
        tx.session.execute(
            update(lanes).where(lanes.c.event_name == "calls").values(metered=Decimal(6))
        )


def test_the_table_ends_with_its_sum_check(run: Run, url: str) -> None:
    """One line for each event name, in full; and whether the parts add up."""
    status, out, err = run("statement", "--database", url)
    assert (status, err) == (0, "")
    header, _, *rows, blank, last = out.splitlines()
    assert header.split()[:4] == ["event", "name", "metered", "settled"]
    assert [row.split() for row in rows] == [
        ["calls", "7", "0", "7", "0", "0", "0", "0"],
        ["tokens", EXACT, "0", EXACT, "0", "0", "0", "0"],
    ]
    assert (blank, last) == ("", "adds up")


def test_what_is_in_no_sum_is_told(run: Run, url: str) -> None:
    """Of now, for a person: nobody knows whose it is, so it is under no event name."""
    for count, words in ((1, "1 event is in no sum"), (2, "2 events are in no sum")):
        line = encode(
            UsageEvent(
                id=f"unknown-{count}",
                policy="calls",
                policy_version="1",
                metric="API_CALL",
                identity=Identity("account_id", None),
                quantity=Decimal(1),
                occurred_at=NOW,
                state="inbox",
                reason="no header x-account-id",
            )
        )
        with closing(Database.open(url)) as db, db.transaction() as tx:
            store.append(tx, default_organization(tx), [line], unknown_metric="create")
        last = run("statement", "--database", url).out.splitlines()[-1]
        assert last == f"{words}: nobody knows whose or how much; see `usageflow inbox`"
    stored = run("statement", "--at", "2026-11-21T09", "--database", url)
    assert stored.out.splitlines()[-1] == "adds up"


def test_what_does_not_add_up_is_the_last_line_and_fails(run: Run, url: str) -> None:
    """For a person and for a script; the statement of an hour before stays what it was."""
    lose(url)
    status, out, _ = run("statement", "--database", url)
    assert (status, out.splitlines()[-1]) == (1, "calls differs by -1")
    status, out, _ = run("statement", "--json", "--database", url)
    assert (status, json.loads(out)["lines"][0]["difference"]) == (1, -1)
    status, out, _ = run("statement", "--at", "2026-11-21T09", "--database", url)
    assert (status, out.splitlines()[-1]) == (0, "adds up")


def test_json_is_exact(run: Run, url: str) -> None:
    """Numbers with every digit, and the hour of a statement that was stored."""
    line = run("statement", "--json", "--at", "2026-11-21T09:00", "--database", url)
    assert (line.status, line.err) == (0, "")
    document = json.loads(line.out, parse_float=Decimal)
    assert document["at"] == "2026-11-21T09:00:00Z"
    _, tokens = document["lines"]
    places = dict.fromkeys(("settled", "parked", "quarantined", "held", "written_off"), 0)
    assert tokens == places | {
        "event_name": "tokens",
        "metered": Decimal(EXACT),
        "in_flight": Decimal(EXACT),
        "difference": 0,
    }


def test_an_hour_without_a_statement_is_explained(run: Run, url: str, tmp_path: Path) -> None:
    """With the newest there is, if there is one."""
    status, out, err = run("statement", "--at", "2026-11-21T10", "--database", url)
    assert (status, out) == (1, "")
    assert err == (
        "usageflow: no statement is stored for 2026-11-21T10; the newest is of 2026-11-21T09\n"
    )
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    assert run("migrate", "--database", empty).status == 0
    status, _, err = run("statement", "--at", "2026-11-21T10", "--database", empty)
    assert (status, err) == (
        1,
        "usageflow: no statement is stored for 2026-11-21T10; none is\n",
    )
    assert run("statement", "--database", empty).out.endswith("adds up\n")


def test_verify_names_every_lane_that_differs(run: Run, url: str) -> None:
    """In words and as JSON; and says so if there is none."""
    fine = run("statement", "--verify", "--database", url)
    assert fine == (0, "every lane is what its events and units add up to\n", "")
    lose(url)
    status, out, _ = run("statement", "--verify", "--database", url)
    assert (status, out.splitlines()[-1].split()) == (1, ["acct_1", "calls", "metered", "6", "7"])
    status, out, _ = run("statement", "--verify", "--json", "--database", url)
    expected = {"customer": "acct_1", "event_name": "calls", "of": "metered", "kept": 6, "found": 7}
    assert (status, json.loads(out)) == (1, [expected])
