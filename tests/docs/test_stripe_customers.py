"""What the page about Stripe says of whose usage is, over time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from usageflow.stripe.identities import Meant, whose

START = datetime(2026, 11, 21, tzinfo=UTC)


def meant(customer_id: str, since: int, until: int | None = None) -> Meant:
    """A customer who had the value for some hours."""
    end = None if until is None else START + timedelta(hours=until)
    return Meant(customer_id, START + timedelta(hours=since), end)


def at(hour: int, *rows: Meant) -> list[str]:
    """Whose usage of this hour is."""
    return whose(rows, START + timedelta(hours=hour))


HOLDS: dict[str, Callable[[], bool]] = {
    "when exactly one customer had the value": lambda: (
        at(3, meant("then", 2, 4), meant("now", 4)) == ["then"]
    ),
    "before anybody had it": lambda: at(1, meant("first", 2, 4), meant("now", 4)) == ["first"],
    "when none or several had it": lambda: (
        at(5, meant("then", 2, 4), meant("now", 6)) == ["now"]
        and at(3, meant("one", 2, 4), meant("now", 2)) == ["now"]
        and at(3, meant("one", 2), meant("other", 2)) == ["one", "other"]
        and at(5, meant("then", 2, 4)) == []
    ),
    "when the customer that had it has been deleted since": lambda: (
        at(3, meant("gone", 2, 4)._replace(gone=True), meant("other", 4)) == []
        and at(5, meant("gone", 2, 4)._replace(gone=True), meant("anew", 6)) == ["anew"]
    ),
}
"""Row of the table -> whether the code has it so."""


def test_usage_is_whose_the_table_says(root: Path) -> None:
    """Every row, in order."""
    text = (root / "docs" / "stripe.md").read_text(encoding="utf-8")
    table = text.partition("| usage of a time | goes to |\n|---|---|\n")[2].partition("\n\n")[0]
    assert [row.split("|")[1].strip() for row in table.splitlines()] == list(HOLDS)
    assert all(holds() for holds in HOLDS.values())
