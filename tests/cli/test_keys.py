"""`usageflow keys`: the key alone on stdout, and what becomes of it later."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of a database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'fresh.db'}"


def test_create_prints_the_key_alone(run: Run, database: str) -> None:
    """`KEY=$(usageflow keys create ...)` works on a fresh database; the rest is on stderr."""
    status, out, err = run(
        "keys", "create", "--name", "edge", "--scope", "usage.write", "--database", database
    )
    assert status == 0
    assert re.fullmatch(r"uf_live_[0-9a-f]{48}\n", out)
    assert "cannot be shown again" in err
    assert out.strip() not in err


def test_a_key_is_listed_by_its_beginning_and_can_be_revoked(run: Run, database: str) -> None:
    """The list never has the secret; a revoked key stays in it."""
    scopes = ("--scope", "usage.write", "--scope", "usage.read")
    secret = run("keys", "create", "--name", "edge", *scopes, "--database", database).out.strip()
    prefix = secret[:12]
    status, listed, _ = run("keys", "list", "--database", database)
    assert status == 0
    assert prefix in listed
    assert secret not in listed
    assert "usage.read usage.write" in listed
    assert run("keys", "revoke", prefix, "--database", database)[:2] == (0, f"revoked {prefix}\n")
    again = run("keys", "revoke", prefix, "--database", database)
    assert again.status == 1
    assert again.err == f"usageflow: no key in use is '{prefix}'; see `usageflow keys list`\n"
    row = run("keys", "list", "--database", database).out.splitlines()[-1]
    assert len(re.findall(r"\d{4}-\d\d-\d\d", row)) == 2


@pytest.mark.parametrize("command", [("list",), ("revoke", "uf_live_0000")])
def test_a_mistyped_path_is_named_and_nothing_is_made_there(
    run: Run, database: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A database that is not there has no keys to list or revoke."""
    status, out, err = run("keys", *command, "--database", database)
    assert (status, out) == (1, "")
    assert err == f"usageflow: there is no database file {tmp_path / 'fresh.db'}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (("--scope", "everything"), 1, "unknown scope 'everything'"),
        ((), 2, "--scope"),
        (("--scope", "usage.write", "--organization", "acme"), 1, "no organization 'acme'"),
        (("--scope", "usage.write", "--database", "mysql://x"), 1, "sqlite:///FILE"),
    ],
)
def test_what_cannot_be_made_is_explained(
    run: Run, database: str, options: tuple[str, ...], status: int, word: str
) -> None:
    """Nothing is printed on stdout that a script could take for a key."""
    outcome = run("keys", "create", "--name", "edge", "--database", database, *options)
    assert (outcome[0], outcome[1]) == (status, "")
    assert word in outcome[2]
