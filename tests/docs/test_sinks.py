"""The page about sinks: its example passes the kit, its event and its tables are what happens."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest

from usageflow.forwarding.cloudevents import encoded, source_of
from usageflow.forwarding.http import verdict
from usageflow.forwarding.sink import Parcel, Properties
from usageflow.ledger.verdicts import (
    Accepted,
    AccountPaused,
    Ambiguous,
    Busy,
    Quarantined,
    Verdict,
)

MEANINGS: dict[str, Verdict | type[Verdict]] = {
    "all units are counted": Accepted(),
    "counted before": Accepted(duplicate=True),
    "refused": Quarantined,
    "not now": Busy,
    "not known": Ambiguous,
    "the address": AccountPaused,
}
"""How a meaning in the table begins -> its verdict."""


@pytest.fixture
def written(root: Path) -> str:
    """The page."""
    return (root / "docs" / "sinks.md").read_text(encoding="utf-8")


def block(written: str, language: str) -> str:
    """The first block of a language."""
    found = re.search(rf"(?ms)^```{language}\n(.*?)^```$", written)
    assert found is not None
    return found[1]


def rows(written: str, header: str) -> list[list[str]]:
    """The cells of the table with this header, without marks."""
    lines = written.partition(f"| {header} |\n")[2].splitlines()[1:]
    table = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


def test_the_event_is_what_is_written(written: str) -> None:
    """Every field of it."""
    shown = json.loads(block(written, "json"), parse_float=Decimal)
    installation, account = shown["source"].removeprefix("urn:usageflow:").split(":")
    data = shown["data"]
    unit = Parcel(
        identifier=shown["id"],
        event_name=data["event_name"],
        customer=shown["subject"],
        identity_field=data["identity"]["field"],
        identity_value=data["identity"]["value"],
        quantity=data["quantity"],
        occurred_at=datetime(2026, 11, 21, 10, 30, tzinfo=UTC),
    )
    event = encoded(unit, source_of(installation, account))
    assert json.loads(event, parse_float=Decimal) == shown


def test_the_statuses_mean_what_is_written(written: str) -> None:
    """Each row of the table, and every status there is belongs to one."""
    named: set[int] = set()
    for told, meaning in rows(written, "status | meaning"):
        statuses = {int(number) for number in re.findall(r"\b\d{3}\b", told)}
        statuses |= {200, 202, 204, 299} if told == "2xx" else set()
        statuses |= {500, 502, 504} if "5xx" in told else set()
        statuses |= set(range(300, 500)) - named if told == "any other" else set()
        expected = next(said for start, said in MEANINGS.items() if meaning.startswith(start))
        for status in statuses:
            said = verdict(status, {"retry-after": "3"} if "Retry-After" in told else {}, b"")
            assert expected in (said, type(said))
        named |= statuses
    assert {*range(300, 500), 200, 500, 503} <= named


def test_the_verdicts_are_all_there(written: str) -> None:
    """All but those about looking up customers, which no sink does."""
    told = {row[0] for row in rows(written, "verdict | when | what follows")}
    assert told == {kind.__name__ for kind in get_args(Verdict)} - {"Parked", "Addressed", "Queued"}


def test_the_properties_are_all_there(written: str) -> None:
    """The example names each, with what it means."""
    example = block(written, "python")
    for item in fields(Properties):
        assert re.search(rf"(?m)^\s+{item.name}=\S+,\s+# ", example)


def test_the_command_examines_the_example(written: str, tmp_path: Path) -> None:
    """Saved as the page says, it passes."""
    (tmp_path / "my_sink.py").write_text(block(written, "python"), encoding="utf-8")
    line = re.search(r"(?m)^python (-m usageflow\.forwarding\.\w+ \S+)$", written)
    assert line is not None
    ran = subprocess.run(
        [sys.executable, *line[1].split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("nothing found\n")
