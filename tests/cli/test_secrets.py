"""`usageflow secrets`: which key seals what, and another key for everything."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usageflow.catalog.audit import CLI
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.secrets import Keyring
from usageflow.db.session import Database
from usageflow.stripe.accounts import store_key

Run = Callable[..., Any]
OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
OLD_ID, NEW_ID = (Keyring.read(key).sealing for key in (OLD, NEW))


@pytest.fixture
def url(tmp_path: Path, run: Run) -> str:
    """A database with one secret, sealed with the old key."""
    url = f"sqlite:///{tmp_path / 'usageflow.db'}"
    db = Database.open(url)
    db.migrate()
    with db.transaction() as tx:
        store_key(tx, default_organization(tx), "sk_test_1", Keyring.read(OLD), actor=CLI)
    db.close()
    return url


def rows(out: str) -> list[list[str]]:
    """The rows of the table that was printed."""
    return [line.split() for line in out.splitlines()[2:]]


def test_a_key_is_changed(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both at hand; then the old one can go. A second time there is nothing to do."""
    monkeypatch.setenv("USAGEFLOW_ENCRYPTION_KEYS", f"{NEW},{OLD}")
    status, out, _ = run("secrets", "status", "--database", url)
    assert status == 0
    assert rows(out) == [[NEW_ID, "0", "seals"], [OLD_ID, "1", "opens"]]
    status, out, _ = run("secrets", "rotate", "--database", url)
    assert (status, out) == (0, f"sealed 1 anew; all are sealed with the key {NEW_ID}\n")
    assert "sealed 0 anew" in run("secrets", "rotate", "--database", url).out
    monkeypatch.setenv("USAGEFLOW_ENCRYPTION_KEYS", NEW)
    status, out, _ = run("secrets", "status", "--database", url)
    assert (status, rows(out)) == (0, [[NEW_ID, "1", "seals"]])


def test_a_key_that_is_missing_is_told(run: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id, with exit status 1; nothing is changed."""
    monkeypatch.setenv("USAGEFLOW_ENCRYPTION_KEYS", NEW)
    status, out, _ = run("secrets", "status", "--database", url)
    assert (status, rows(out)) == (1, [[NEW_ID, "0", "seals"], [OLD_ID, "1", "missing"]])
    status, out, err = run("secrets", "rotate", "--database", url)
    assert (status, out) == (1, "")
    assert f"sealed with the key {OLD_ID}, which is not in" in err


def test_without_a_key_nothing_is_sealed(run: Run, url: str, tmp_path: Path) -> None:
    """The message says how to make one; a database that is not there is not made."""
    assert rows(run("secrets", "status", "--database", url).out) == [[OLD_ID, "1", "missing"]]
    assert f"sealed with the key {OLD_ID}" in run("secrets", "rotate", "--database", url).err
    nowhere = f"sqlite:///{tmp_path / 'nowhere.db'}"
    assert "there is no database file" in run("secrets", "rotate", "--database", nowhere).err
    assert not (tmp_path / "nowhere.db").exists()
