"""The pages of the documentation, cut into what can be executed or compared."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import usageflow

ROOT = Path(usageflow.__file__).parents[1]
POLICY_TABLES = {
    "template_row": "template | matches | does not match",
    "precedence_row": "request | counted by",
    "identity_row": "request | identity",
    "quantity_row": "quantity | the app answers | counts",
}
"""Argument of a test -> the table on the page about policies it gets a row of."""
LANGUAGES = {"toml": ["toml"], "python": ["python"], "shell": ["sh", "console"]}
"""Argument of a test -> the languages of the blocks it gets."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: the page it is on, the line it begins at, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start()) + 2
        yield Block(str(page.relative_to(ROOT)), line, found[1], found[2])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def tables_of(page: Path) -> dict[str, list[list[str]]]:
    """The tables of a page by their header, cells joined by " | ": rows of cells."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if rows is None:
            rows = found.setdefault(" | ".join(cells), [])
        elif set(line) - set("|-"):
            rows.append(cells)
    return found


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def blocks() -> list[Block]:
    """Every fenced block of the documentation."""
    return BLOCKS


@pytest.fixture(scope="session")
def inbox_table() -> list[list[str]]:
    """The rows about the inbox on the page about policies."""
    return tables_of(ROOT / "docs" / "policies.md")["reason begins with | what to do"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each page, block of a language, or row of a table that a test asks for."""
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
    for argument, languages in LANGUAGES.items():
        if argument in metafunc.fixturenames:
            chosen = [block for block in BLOCKS if block.language in languages]
            if argument == "python":  # the README's app has a test of its own
                chosen = [block for block in chosen if block.page != "README.md"]
            metafunc.parametrize(argument, chosen, ids=str)
    for argument, header in POLICY_TABLES.items():
        if argument in metafunc.fixturenames:
            rows = tables_of(ROOT / "docs" / "policies.md")[header]
            metafunc.parametrize(argument, rows, ids=["/".join(row[:2]) for row in rows])
