"""The page about the statement and the metrics: every part, metric and number is the code's."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from usageflow.api.metrics import SCOPE, MetricsEndpoint
from usageflow.catalog.keys import create_key
from usageflow.catalog.organizations import default_organization
from usageflow.cli.statement import HEADER, _print_table
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import StripeAccountRow
from usageflow.ledger import statement
from usageflow.ledger.statement import Line

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
FAMILY = re.compile(r"# HELP (\S+) (.+)\.\n# TYPE \S+ gauge\n\S+?\{(\S+)\} \S+\n")
COMMON = {"organization", "account", "mode"}


@pytest.fixture
def text(root: Path) -> str:
    """The page."""
    return (root / "docs" / "statement.md").read_text(encoding="utf-8")


@pytest.fixture
def served(sqlite_template: bytes, tmp_path: Path) -> Iterator[str]:
    """A scrape in which every metric has a sample."""
    path = tmp_path / "usageflow.db"
    path.write_bytes(sqlite_template)
    with closing(Database.open(f"sqlite:///{path}", clock=lambda: NOW)) as database:
        with database.transaction() as tx:
            organization_id = default_organization(tx)
            key = create_key(tx, organization_id, "prometheus", [SCOPE]).secret
            tx.session.add(
                StripeAccountRow(
                    id="account-1",
                    kind="own",
                    organization_id=organization_id,
                    account="own",
                    livemode=False,
                    state="active",
                    created_at=NOW,
                )
            )
            statement.store(tx, organization_id, NOW, [Line("used")])
        headers = [(b"authorization", f"Bearer {key}".encode())]
        request = Request({"type": "http", "method": "GET", "headers": headers})
        yield bytes(MetricsEndpoint(database, Settings()).metrics(request).body).decode()


def rows_of(text: str, header: str) -> list[list[str]]:
    """The cells of a table on the page."""
    lines = text.split(f"| {header} |\n")[1].split("\n\n", maxsplit=1)[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_metric_is_listed(text: str, served: str) -> None:
    """By name, label and meaning, in the order in which they are served."""
    expected = []
    for name, meaning, labels in FAMILY.findall(served):
        own = set(re.findall(r"(\w+)=", labels)) - COMMON
        expected.append([f"`{name}{f'{{{own.pop()}}}' if own else ''}`", meaning])
    assert len(expected) == served.count("# HELP")
    table = "\n".join(f"| {' | '.join(row)} |" for row in expected)
    listed = [row[:2] for row in rows_of(text, "metric | meaning | alert")]
    assert listed == expected, f"the page must have\n\n{table}"


def test_alerts_are_comparisons(text: str) -> None:
    """As a rule takes them; the one written out is that of the table."""
    alerts = {name: alert for name, _, alert in rows_of(text, "metric | meaning | alert")}
    for alert in filter(None, alerts.values()):
        assert re.match(r"`(>|<|!=) \d+( for \d+[mh])?`", alert), alert
    written = re.findall(r"expr: (\w+) (> \d+)\n\s+for: (\w+)", text)
    assert [f"`{bound} for {time}`" for _, bound, time in written] == [
        alerts[f"`{written[0][0]}`"].partition(":")[0]
    ]


def test_the_parts_are_those_of_the_code(text: str) -> None:
    """In the sum, in the table and in the example, whose numbers add up."""
    parts = [name.replace("_", " ") for name in Line._fields[2:]]
    assert [row[0] for row in rows_of(text, "part | what it is | what to do")] == parts
    assert f"`metered = {' + '.join(parts)}`" in text


def test_the_example_is_what_is_printed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows give the same text."""
    shown = text.split("```text\n")[1].split("```", maxsplit=1)[0]
    lines = [Line(name, *map(Decimal, parts)) for name, *parts in map(str.split, _body(shown))]
    _print_table(lines)
    assert capsys.readouterr().out == shown
    assert shown.split("\n")[0].split("  ")[0] == HEADER[0]


def _body(shown: str) -> list[str]:
    return shown.split("\n\n", maxsplit=1)[0].splitlines()[2:]


def test_numbers_are_the_code_s(text: str) -> None:
    """The setting and its default, and the scope."""
    settings: Any = Settings()
    assert f"`USAGEFLOW_STRIPE_BARRIER_S` ({settings.stripe_barrier_s:.0f} s)" in text
    assert f"--scope {SCOPE}" in text
