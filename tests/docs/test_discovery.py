"""The page about discovery: its tables, its draft and its numbers are what the code does."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from usageflow.catalog import endpoints
from usageflow.catalog.drafts import draft
from usageflow.catalog.endpoints import Unmatched
from usageflow.cli.endpoints import HEADER
from usageflow.middleware import discovery, observation, sketch, templates
from usageflow.middleware.endpoints import OTHERS
from usageflow.middleware.sketch import Sketch
from usageflow.middleware.templates import text_of, tokens_of

VALUES: dict[str, dict[str, object]] = {
    "/users/ann/orders/7": {"name": "ann", "number": 7},
    "/files/a/b.txt": {"rest": "a/b.txt"},
}
"""What the router finds in the paths of the table."""
COUNT = ("integer",)


@pytest.fixture
def text(root: Path) -> str:
    """The page."""
    return (root / "docs" / "discovery.md").read_text(encoding="utf-8")


def test_paths_become_templates_as_the_table_says(text: str) -> None:
    """Each row, with the parameters that it names."""
    rows = re.findall(r"^\| `(/.+?)` \| (.+?) \| `(.+?)` \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for path, known, template in rows:
        names = re.findall("`(.+?)`", known)
        tokens = tokens_of(path, {name: VALUES[path][name] for name in names})
        assert tokens
        assert text_of(tokens) == template


def test_the_draft_is_what_the_command_prints(blocks: Any) -> None:
    """To the letter."""
    (shown,) = (
        block.text
        for block in blocks
        if block.page == "docs/discovery.md" and block.language == "toml"
    )
    since = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    seen = Sketch(
        claims={"sub": ("string",)},
        headers=("x-account-id", "authorization"),
        response={"usage.prompt_tokens": COUNT, "usage.total_tokens": COUNT},
        statuses=(200, 400),
    )
    one = Unmatched("POST", "/v1/chat/completions", 1204, False, seen, since, since)
    assert shown == draft(one)


def test_the_fields_are_the_sketch_s(text: str) -> None:
    """All of them, in order; and those of a line of JSON."""
    rows = re.findall(r"^\| (`.+`) \| .+ \|$", text[: text.index("## How")], re.MULTILINE)
    named = [name for cell in rows[1:] for name in re.findall("`(.+?)`", cell)]
    assert rows[0].startswith("`request`")
    assert ["request", "response", *named] == list(Sketch.__struct_fields__)
    line = re.search(r"line for each: (.*?)\n\n", text, re.DOTALL)
    assert line
    assert re.findall("`([a-z_]+)`", line[1]) == list(Unmatched._fields)
    assert "  ".join(HEADER[2:4]) in text


def test_numbers_are_as_told(text: str) -> None:
    """Limits of the page and of the code."""
    flat = " ".join(text.split())
    for sentence in (
        f"at most {sketch.PATHS_MAX} paths of {sketch.DEPTH_MAX} steps",
        f"digits mixed, more than {templates.NAME_CHARS_MAX} characters.",
        f"an object with more than {sketch.KEYS_MAX}.",
        f"the last {sketch.EVENTS_MAX} events count",
        f"Bodies beyond {observation.BODY_BYTES_MAX // 1024} KiB",
        f"more than {templates.VALUES_MAX} different words",
        f"more than {templates.ROUTED_VALUES_MAX} where a router told",
        f"The first {discovery.LOOKS_FIRST} requests",
        f"then one in {discovery.LOOK_EVERY:,}",
        f"At most {discovery.LOOKS_AT_ONCE_MAX} at a time",
        f"the server {endpoints.ENDPOINTS_MAX:,} of each",
        f"counted together as `{' '.join(OTHERS)}`",
    ):
        assert sentence in flat
    proves = re.search(r"proved it\. ([\d, and]+) prove nothing", flat)
    assert proves
    assert set(map(int, re.findall(r"\d+", proves[1]))) == discovery.PROVES_NOTHING
