"""`usageflow ledger`: what is derived is compared with the events, and made again."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store

Run = Callable[..., Any]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with an event of a metric that adds up, and of one that tells values apart."""
    made = f"sqlite:///{tmp_path / 'usageflow.db'}"
    with closing(Database.open(made)) as db:
        db.migrate()
        with db.transaction() as tx:
            organization_id = default_organization(tx)
            lines = [line("API_CALL"), line("ACTIVE_USER")]
            store.append(tx, organization_id, lines[1:], unknown_metric="create")
            tx.session.execute(text("UPDATE metric SET aggregation = 'UNIQUE_COUNT'"))
            lines.append(line("ACTIVE_USER", id="other"))
            store.append(tx, organization_id, lines, unknown_metric="create")
    return made


def line(metric: str, **changes: Any) -> bytes:
    """An encoded event of acct_1."""
    values: dict[str, Any] = {
        "id": metric,
        "policy": "calls",
        "policy_version": "1",
        "metric": metric,
        "identity": Identity("account_id", "acct_1"),
        "quantity": Decimal("1.5"),
        "occurred_at": datetime(2026, 11, 21, 9, 30, tzinfo=UTC),
        "state": "counted",
    }
    return encode(UsageEvent(**values | changes))


def test_what_is_right_is_said_to_be(run: Run, url: str) -> None:
    """With how much was compared."""
    verified = run("ledger", "verify", "--database", url)
    assert (verified.status, verified.out) == (0, "2 windows are what their events add up to\n")


def test_what_is_wrong_is_shown_and_mended(run: Run, url: str) -> None:
    """Status 1, a line for each difference, and what to do; afterwards all is well."""
    with closing(Database.open(url)) as db, db.transaction() as tx:
        tx.session.execute(text("UPDATE usage_window SET total = '7' WHERE metric = 'API_CALL'"))
        tx.session.execute(text("DELETE FROM usage_value"))
    broken = run("ledger", "verify", "--database", url)
    header, _, window, value = broken.out.splitlines()
    assert header.split("  ")[0] == "customer"
    told = "API_CALL 2026-11-21 09:00 - 7 of 1, max 1.5, last 1.5 1.5 of 1, max 1.5, last 1.5"
    assert " ".join(window.split()).endswith(told)
    assert " ".join(value.split()).endswith("ACTIVE_USER 2026-11-21 09:00 acct_1 - 1 events")
    assert (broken.status, broken.err) == (
        1,
        "2 differences. `usageflow ledger rebuild` mends them\n",
    )
    one = run("ledger", "verify", "--limit", "1", "--database", url)
    assert len(one.out.splitlines()) == 3
    assert one.err.startswith("2 differences; the first 1 are shown.")
    rebuilt = run("ledger", "rebuild", "--database", url)
    assert rebuilt.out == "2 windows made again, 2 differences mended\n"
    assert run("ledger", "verify", "--database", url).status == 0


def test_nothing_is_right_as_well(run: Run, tmp_path: Path) -> None:
    """A database without usage."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    assert run("migrate", "--database", url).status == 0
    verified = run("ledger", "verify", "--database", url)
    assert verified.out == "0 windows are what their events add up to\n"
