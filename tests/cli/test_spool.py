"""`usageflow spool`: the events of a spool directory, in both forms, and damage."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from usageflow.events import Identity, UsageEvent, encode
from usageflow.recorder.spool import Block, Spool

Run = Callable[..., tuple[int, str, str]]

COUNTED = UsageEvent(
    id="0199",
    policy="chat",
    policy_version="3",
    metric="AI_TOKEN",
    identity=Identity("account_id", "acct_42"),
    quantity=Decimal("123456789012345678901234567890.5"),
    occurred_at=datetime(2026, 11, 21, 9, 30, tzinfo=UTC),
    state="counted",
)
UNKNOWN = UsageEvent(
    id="0200",
    policy="chat",
    policy_version="3",
    metric="AI_TOKEN",
    identity=Identity("account_id", None),
    quantity=None,
    occurred_at=datetime(2026, 11, 21, 9, 31, tzinfo=UTC),
    state="inbox",
    reason="no identity: header x-account-id is absent",
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A spool directory whose owner still writes to it."""
    spool = Spool.create(tmp_path / "spool")
    spool.write([Block(2, encode(COUNTED) + b"\n" + encode(UNKNOWN) + b"\n")])
    yield tmp_path / "spool"
    spool.close()


def test_json_is_the_stored_line(run: Run, directory: Path) -> None:
    """One line per event, exact to the digit, while the edge runs."""
    status, out, err = run("spool", directory, "--json")
    assert (status, err) == (0, "")
    assert out.encode().splitlines() == [encode(COUNTED), encode(UNKNOWN)]
    first = json.loads(out.splitlines()[0], parse_float=Decimal)
    assert first["quantity"] == COUNTED.quantity
    assert first["identity"] == {"field": "account_id", "value": "acct_42"}


def test_the_table_is_for_people(run: Run, directory: Path) -> None:
    """What is unknown shows as a question mark, with its reason beside it."""
    status, out, _ = run("spool", directory)
    assert status == 0
    assert "account_id=acct_42  123456789012345678901234567890.5  counted" in out
    assert "no identity: header x-account-id is absent" in out
    assert out.splitlines()[3].split()[4:6] == ["?", "inbox"]
    assert out.endswith("\n2 events not yet in the ledger\n")


def test_verify_says_that_all_is_well(run: Run, directory: Path) -> None:
    """Sound files: exit 0."""
    assert run("spool", directory, "--verify") == (0, f"{directory}: no damage\n", "")


def test_verify_names_the_damage(run: Run, directory: Path) -> None:
    """A changed byte is found: exit 1, with the file and the row."""
    (file,) = directory.glob("*.spool")
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE batch SET lines = CAST(replace(lines, 'chat', 'chau') AS BLOB)")
    status, out, _ = run("spool", directory, "--verify")
    assert status == 1
    assert str(file) in out
    assert "row 1" in out
    status, out, err = run("spool", directory, "--json")
    assert (status, out) == (1, "")
    assert err.startswith("usageflow: ")


@pytest.mark.parametrize("option", ["--json", "--verify", None])
def test_a_missing_directory_is_an_error(run: Run, tmp_path: Path, option: str | None) -> None:
    """A mistyped path is not an empty spool."""
    status, out, err = run("spool", tmp_path / "nowhere", *filter(None, [option]))
    assert (status, out) == (1, "")
    assert err.startswith("usageflow: ")
    assert str(tmp_path / "nowhere") in err


@pytest.mark.parametrize("options", [(), ("--json",), ("--verify",)])
def test_a_directory_that_cannot_be_is_told(run: Run, options: tuple[str, ...]) -> None:
    """In one line."""
    status, out, err = run("spool", "a" * 5_000, *options)
    assert (status, out) == (1, "")
    assert err.endswith(": File name too long\n")
