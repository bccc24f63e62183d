"""`usageflow organizations`, and that every command keeps to the organization it is told."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from usageflow.catalog.organizations import required
from usageflow.db.session import Database
from usageflow.events import Identity, UsageEvent, encode
from usageflow.ledger import store
from usageflow.middleware.endpoints import Endpoint
from usageflow.middleware.sketch import Sketch

Run = Callable[..., Any]
POLICY = """
[[policy]]
name = "calls"
match = "ANY /acme"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


@pytest.fixture
def url(run: Run, tmp_path: Path) -> str:
    """The URL of a database that does not exist yet; commands find it."""
    return f"sqlite:///{tmp_path / 'usageflow.db'}"


@pytest.fixture
def acme(run: Run, url: str) -> str:
    """The id of a second organization, `acme`, which alone has usage, and something to look at."""
    assert run("organizations", "create", "acme", "--database", url).status == 0
    line = encode(
        UsageEvent(
            id="event-1",
            policy="calls",
            policy_version="1",
            metric="API_CALL",
            identity=Identity("account_id", "payer"),
            quantity=Decimal(3),
            occurred_at=datetime(2026, 11, 21, 9, 30, tzinfo=UTC),
            state="counted",
            event_name="calls",
        )
    )
    from usageflow.catalog.endpoints import report

    with closing(Database.open(url)) as db, db.transaction() as tx:
        organization_id = required(tx, "acme")
        store.append(tx, organization_id, [line, b"nonsense"], unknown_metric="create")
        report(tx, organization_id, [Endpoint("GET", "/acme", 3, True, Sketch())])
    return organization_id


def test_they_are_made_and_listed(run: Run, url: str) -> None:
    """On a fresh database, too; the first is always there."""
    made = run("organizations", "create", "acme", "--display-name", "Acme Inc.", "--database", url)
    assert made == (
        0,
        "made organization acme; name it to other commands with --organization acme\n",
        "",
    )
    rows = run("organizations", "list", "--database", url).out.splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == ["acme", "default"]
    assert "Acme Inc." in rows[0]
    again = run("organizations", "create", "acme", "--database", url)
    assert (again.status, again.err) == (
        1,
        "usageflow: there is an organization 'acme' already\n",
    )


COMMANDS = (
    ("usage",),
    ("statement",),
    ("inbox",),
    ("inbox", "attach", "account_id", "a", "cus_1"),
    ("inbox", "detach", "account_id", "a"),
    ("inbox", "retry", "uf1_x"),
    ("inbox", "carry", "uf1_x"),
    ("inbox", "write-off", "uf1_x", "--reason", "r"),
    ("endpoints",),
    ("keys", "create", "--name", "n", "--scope", "usage.write"),
    ("keys", "list"),
    ("keys", "revoke", "uf_live_0000"),
    ("policies", "push", "POLICIES"),
    ("reconcile",),
    ("reconcile", "apply", "1"),
    ("reconcile", "dismiss", "1", "--reason", "r"),
    ("stripe", "status"),
    ("stripe", "sync-meters"),
    ("stripe", "connect"),
    ("stripe", "disconnect"),
    ("stripe", "key", "set"),
    ("stripe", "key", "remove"),
    ("stripe", "webhooks", "create"),
    ("stripe", "webhooks", "list"),
    ("stripe", "webhooks", "remove", "we_1"),
)
"""Every command about things of one organization."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_one_is_told_in_one_line(
    run: Run, url: str, acme: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """With those there are, by every command about one."""
    policies = tmp_path / "policies.toml"
    policies.write_text(POLICY)
    words = [str(policies) if word == "POLICIES" else word for word in command]
    status, out, err = run(*words, "--organization", "amce", "--database", url)
    assert (status, out) == (1, "")
    assert err == "usageflow: there is no organization 'amce'; there is acme, default\n"


def test_each_sees_its_own(run: Run, url: str, acme: str, tmp_path: Path) -> None:
    """The first organization has nothing of what the second one has."""
    ours, theirs = ("--database", url), ("--database", url, "--organization", "acme")
    usage = [json.loads(run("usage", "--json", *who).out) for who in (ours, theirs)]
    assert [(len(one["usage"]), one["inbox"]) for one in usage] == [(0, 0), (1, 1)]
    assert [len(run("inbox", "--json", *who).out.splitlines()) for who in (ours, theirs)] == [0, 1]
    endpoints = [run("endpoints", "--json", *who).out for who in (ours, theirs)]
    assert endpoints[0] == ""
    assert json.loads(endpoints[1])["template"] == "/acme"
    policies = tmp_path / "policies.toml"
    policies.write_text(POLICY)
    assert run("policies", "push", policies, *ours).out.startswith("added policy calls")
    assert json.loads(run("endpoints", "--json", *theirs).out)["requests"] == 3
    assert run("policies", "push", policies, *theirs).out.startswith("added policy calls")
    assert run("endpoints", "--json", *theirs).out == ""
    assert "calls" not in run("statement", *ours).out
