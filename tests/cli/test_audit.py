"""`usageflow audit`: who changed what, and that nobody changed the log."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from usageflow.catalog.audit import record
from usageflow.catalog.organizations import default_organization
from usageflow.db.session import Database

Run = Callable[..., Any]


@pytest.fixture
def url(run: Run, tmp_path: Path) -> str:
    """A database in which two keys were made, one of them revoked."""
    made = f"sqlite:///{tmp_path / 'usageflow.db'}"
    for name in ("one", "two"):
        create = run("keys", "create", "--name", name, "--scope", "usage.write", "--database", made)
        assert create.status == 0
    assert run("keys", "revoke", create.out[:12], "--database", made).status == 0
    return made


def test_the_log_is_listed(run: Run, url: str) -> None:
    """The latest first, each with what it changed; only what is asked for."""
    listed = run("audit", "list", "--database", url)
    header, _, *rows = listed.out.splitlines()
    assert header.split() == ["entry", "at", "who", "what", "subject", "request"]
    assert re.findall(r"command line  (api_key\.\w+)", listed.out) == [
        "api_key.revoke",
        "api_key.create",
        "api_key.create",
    ]
    options = ("--action", "api_key.c", "--actor", "command line", "--since", "2020-01-01")
    one = run("audit", "list", *options, "--limit", "1", "--database", url)
    assert "       name: two\n" in one.out
    assert "name: one" not in one.out
    assert one.err == "1 more: --limit 2 shows all\n"
    assert len([row for row in rows if not row.startswith(" ")]) == 3


def test_what_an_entry_changed_is_told(run: Run, tmp_path: Path) -> None:
    """What was and is, each as it was written; what stayed is left out."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    with closing(Database.open(url)) as db:
        db.migrate()
        with db.transaction() as tx:
            organization_id = default_organization(tx)
            before = {"state": "OPEN", "paid": 0, "kept": [1], "gone": "x"}
            after = {"state": "PAID", "paid": 12_000, "kept": [1], "note": "by\nbank"}
            record(
                tx,
                organization_id,
                actor="ada",
                action="invoice.paid",
                subject="inv_1",
                before=before,
                after=after,
            )
    lines = run("audit", "list", "--action", "invoice.", "--database", url).out.splitlines()
    assert sorted(lines[3:]) == [
        "       gone: x ->",
        "       note: by bank",
        "       paid: 0 -> 12000",
        "       state: OPEN -> PAID",
    ]


def test_the_log_is_verified(run: Run, url: str) -> None:
    """What it prints is the hash to keep; a change behind our back is told, with status 1."""
    whole = run("audit", "verify", "--database", url)
    assert whole.status == 0
    form = r"3 entries, as they were written; the last has the hash [0-9a-f]{64}\n"
    assert re.fullmatch(form, whole.out)
    with closing(Database.open(url)) as db, db.transaction() as tx:
        tx.session.execute(text("DROP TRIGGER audit_no_update"))
        tx.session.execute(text("UPDATE audit SET actor = 'nobody' WHERE seq = 2"))
    broken = run("audit", "verify", "--database", url)
    assert (broken.status, broken.out) == (1, "")
    assert broken.err.startswith("entry 2 (api_key.create ")


def test_an_empty_log_is_whole(run: Run, tmp_path: Path) -> None:
    """Nothing was changed yet."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    assert run("migrate", "--database", url).status == 0
    found = run("audit", "verify", "--database", url)
    assert found.out == "0 entries, as they were written; the last has the hash -\n"
