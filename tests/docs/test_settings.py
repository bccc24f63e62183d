"""The page of settings is the settings."""

from dataclasses import fields
from pathlib import Path

from usageflow.config import Settings, variable


def expected_table() -> str:
    """The table as it has to be, from the fields."""
    rows = [
        f"| `{variable(item.name)}` | {_default(item.default)} | {item.metadata['doc']} |"
        for item in fields(Settings)
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _default(value: object) -> str:
    return "none" if value is None else f"`{value}`"


def test_the_page_is_what_the_code_says(root: Path) -> None:
    """Name, default and meaning of every field, in order; a failure prints the right table."""
    page = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    table = page[page.index("| variable |") :].rstrip("\n")
    assert table == expected_table(), f"docs/settings.md must have\n\n{expected_table()}"


def test_meanings_fit_a_cell() -> None:
    """A pipe or a line break would end the cell."""
    for item in fields(Settings):
        assert item.metadata["doc"].strip()
        assert not set(item.metadata["doc"]) & set("|\n")
