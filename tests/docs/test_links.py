"""Links lead somewhere, and decisions have the form of decisions."""

import re
from pathlib import Path


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in found}


def test_relative_links_resolve(page: Path) -> None:
    """A file or folder of the repository, and where an anchor is named, a heading there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in headings(linked), f"{page.name}: {target}"


def test_every_page_is_linked_from_the_readme(root: Path) -> None:
    """Documentation that nobody finds is none."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    for page in (root / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme


def test_decisions_are_numbered_and_say_what_was_given_up(root: Path) -> None:
    """One after the other, each with its number in the title and the same three parts."""
    pages = sorted((root / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, 1):
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {number}. ")
        assert re.findall("(?m)^## (.+)$", text) == ["Context", "Decision", "What we gave up"]


def test_the_guarantees_name_tests_that_there_are(root: Path) -> None:
    """Each file that is said to show a promise."""
    text = (root / "docs" / "guarantees.md").read_text(encoding="utf-8")
    table = text.partition("shown in `tests/` by")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert named
    assert [name for name in named if not (root / "tests" / name).is_file()] == []
