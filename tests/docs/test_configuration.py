"""The page about the configuration file: its example is valid, its mistakes are told as it says."""

import re
from pathlib import Path
from typing import Any

import pytest

from usageflow.cli.config_file import SECTIONS, parse
from usageflow.config import Settings
from usageflow.errors import ConfigurationError

WRONG = "[proxy]\nlistn = 1\n\n\nworkers = 'two'\n"


@pytest.fixture
def configuration(root: Path) -> str:
    """The text of the page."""
    return (root / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_example_is_valid(blocks: Any) -> None:
    """What a user copies can be read, and means what it says."""
    (example,) = (
        block
        for block in blocks
        if block.page == "docs/configuration.md" and block.language == "toml"
    )
    found = {name: placed.value for name, placed in parse(example.text, "usageflow.toml").items()}
    settings = Settings.read({}, file=found)
    assert settings.upstream == "http://10.0.0.5:9000,http://10.0.0.6:9000"
    assert settings.trusted_proxies == "10.0.0.0/8,127.0.0.1"


def test_each_section_is_explained(configuration: str) -> None:
    """In the order of the file."""
    assert re.findall(r"(?m)^\| `\[(\w+)\]` \|", configuration) == list(SECTIONS)


def test_mistakes_are_told_as_shown(configuration: str) -> None:
    """The lines of the page are those of the program."""
    with pytest.raises(ConfigurationError) as refused:
        parse(WRONG, "usageflow.toml")
    assert f"\nusageflow: {refused.value}\n" in configuration
