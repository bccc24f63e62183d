"""`usageflow endpoints`: what no policy matches, and a policy to begin with."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from usageflow.catalog.endpoints import report
from usageflow.catalog.organizations import default_organization
from usageflow.cli import endpoints
from usageflow.db.session import Database
from usageflow.middleware.endpoints import Endpoint
from usageflow.middleware.sketch import Sketch
from usageflow.policies import parse_file

Run = Callable[..., Any]

CHAT = Endpoint(
    "POST",
    "/v1/chat",
    1_204,
    sketch=Sketch(
        response={"usage.total_tokens": ("integer",)},
        headers=("x-account-id",),
        statuses=(200, 400),
    ),
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that nobody reported to."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    with closing(Database.open(url)) as db:
        db.migrate()
    return url


def tell(url: str, *found: Endpoint) -> None:
    """Report at noon."""
    with (
        closing(Database.open(url, clock=lambda: datetime(2026, 11, 21, 12, tzinfo=UTC))) as db,
        db.transaction() as tx,
    ):
        report(tx, default_organization(tx), found)


def test_nothing_is_calm(run: Run, url: str) -> None:
    """A sentence for a person, no line for a script."""
    calm = "No requests were reported that no policy matches.\n"
    assert run("endpoints", "--database", url) == (0, calm, "")
    assert run("endpoints", "--json", "--database", url) == (0, "", "")


def test_the_busiest_come_first(run: Run, url: str) -> None:
    """A row each, and how to go on."""
    tell(url, Endpoint("GET", "/health", 7), CHAT)
    assert (
        run("endpoints", "--database", url).out
        == """\
requests  endpoint       answers  first seen        last seen
--------  -------------  -------  ----------------  ----------------
1204      POST /v1/chat  200 400  2026-11-21 12:00  2026-11-21 12:00
7         GET /health             2026-11-21 12:00  2026-11-21 12:00

--draft "METHOD /template" prints a policy to begin with
"""
    )


def test_json_has_all_that_is_known(run: Run, url: str) -> None:
    """A line each; what was not seen is left out of a sketch."""
    tell(url, CHAT)
    (line,) = run("endpoints", "--json", "--database", url).out.splitlines()
    assert json.loads(line) == {
        "method": "POST",
        "template": "/v1/chat",
        "requests": 1204,
        "routed": False,
        "sketch": {
            "response": {"usage.total_tokens": ["integer"]},
            "headers": ["x-account-id"],
            "statuses": [200, 400],
        },
        "first_seen_at": "2026-11-21T12:00:00Z",
        "last_seen_at": "2026-11-21T12:00:00Z",
    }


def test_a_person_sees_the_busiest_fifty(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how many more there are."""
    monkeypatch.setattr(endpoints, "SHOWN_MAX", 2)
    tell(url, *(Endpoint("GET", f"/{name}", 1) for name in "abcde"))
    lines = run("endpoints", "--database", url).out.splitlines()
    assert len(lines) == 2 + 2 + 2 + 2
    assert lines[5] == "... and 3 more; --json shows them all"
    assert len(run("endpoints", "--json", "--database", url).out.splitlines()) == 5


def test_a_draft_is_a_policy_file(run: Run, url: str, tmp_path: Path) -> None:
    """It can be pushed as it is; then the endpoint is not listed any more."""
    tell(url, CHAT)
    status, out, err = run("endpoints", "--draft", "POST /v1/chat", "--database", url)
    assert (status, err) == (0, "")
    assert parse_file(out, "draft.toml").problems == ()
    file = tmp_path / "draft.toml"
    file.write_text(out)
    assert run("policies", "check", file).status == 0
    assert run("policies", "push", file, "--database", url).status == 0
    assert run("endpoints", "--json", "--database", url).out == ""


def test_no_draft_of_what_is_not_there(run: Run, url: str) -> None:
    """One line that tells what to do."""
    tell(url, CHAT)
    status, out, err = run("endpoints", "--draft", "GET /v1/chat", "--database", url)
    assert (status, out) == (1, "")
    assert "'GET /v1/chat'; `usageflow endpoints` lists them" in err


def test_no_database_is_an_error(run: Run, tmp_path: Path) -> None:
    """It is not made by looking."""
    status, _, err = run("endpoints", "--database", f"sqlite:///{tmp_path / 'none.db'}")
    assert status == 1
    assert err.startswith("usageflow: ")
    assert not (tmp_path / "none.db").exists()
