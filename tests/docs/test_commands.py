"""Every command line of the documentation exists, with exactly these options and variables."""

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from usageflow.cli.app import app
from usageflow.config import Settings, variable
from usageflow.demo.run import _options as demo_options

NO_SETTINGS = {"USAGEFLOW_CONFIG", "USAGEFLOW_TORTURE"}
"""Variables that say where the settings are, and what `make` sets for the test suite."""
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]


def command_lines(shell: str) -> list[list[str]]:
    """The words of each `usageflow ...` in lines of a shell, substitutions included."""
    lines = re.sub(r"\\\n\s*", "", shell).splitlines()
    found = [re.search(r"\busageflow [^)|>#]*", line) for line in lines]
    return [shlex.split(line[0])[1:] for line in found if line]


def parse(words: list[str]) -> None:
    """Read a command line as the program would, without running it. Raises what it would."""
    name, *rest = words
    command = COMMANDS[name]
    if hasattr(command, "commands") and rest[:1] and not rest[0].startswith("-"):
        name, *rest = rest
        command = command.commands[name]
    if name == "demo":
        demo_options(rest)
    else:
        command.make_context(name, rest)


def test_nothing_is_installed_by_our_name(page: Path) -> None:
    """It is on no index yet, where the name may be somebody else's: the checkout's path is told."""
    assert not re.search(r"`pip install ['\"]?usageflow", page.read_text(encoding="utf-8"))


def test_the_lines_of_a_shell() -> None:
    """Continued lines, substitutions and comments are read as a shell does."""
    shell = "cd x\nusageflow a \\\n  --b 'c d'\nexport K=$(usageflow k) # usageflow\n$ usageflow e"
    assert command_lines(shell) == [["a", "--b", "c d"], ["k"], ["e"]]


def test_command_lines_are_right(shell: Any) -> None:
    """In the blocks that a user copies."""
    for words in command_lines(shell.text):
        parse(words)


@pytest.mark.parametrize(
    "line", ["serve --prot 1", "serve x", "keys make", "spool", "demo --twice"]
)
def test_a_wrong_line_would_be_found(line: str) -> None:
    """An unknown option, an argument too many, an unknown command, a missing argument."""
    with pytest.raises((Exception, SystemExit)):
        parse(line.split())


def test_commands_in_the_text_exist(page: Path) -> None:
    """`usageflow NAME` and `usageflow GROUP NAME`, wherever they are mentioned."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    for found in re.finditer(r"`usageflow ([a-z-]+)(?:\s+([a-z][a-z-]*))?", text):
        assert found[1] in COMMANDS, found[0]
        inner = getattr(COMMANDS[found[1]], "commands", None)
        assert inner is None or found[2] is None or found[2] in inner, found[0]


def test_options_in_the_text_exist(page: Path) -> None:
    """Each is one of some command; or of the demo, which reads its own."""
    commands = [*COMMANDS.values()]
    commands += [inner for one in commands for inner in getattr(one, "commands", {}).values()]
    known = {option for one in commands for parameter in one.params for option in parameter.opts}
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    named = {found[1] for found in re.finditer(r"`[^`\n]*?(?<![\w-])(--[a-z][a-z-]+)", text)}
    assert named <= known | {"--help", "--once", "--port-base", "--version"}


def test_every_command_is_documented(root: Path) -> None:
    """The page of commands has each of them, also those in groups."""
    text = (root / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `usageflow ([a-z-]+)[^`]*` \| (.+) \|$", text, re.MULTILINE))
    assert rows.keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        for inner in getattr(command, "commands", {}):
            assert re.search(rf"`{inner}\b", rows[name]), f"usageflow {name} {inner}"


def test_make_targets_exist(blocks: Any, root: Path) -> None:
    """What the README tells to `make`."""
    targets = set(re.findall(r"(?m)^(\w+):", (root / "Makefile").read_text(encoding="utf-8")))
    in_blocks = {name for block in blocks for name in re.findall(r"(?m)^make (\w+)", block.text)}
    in_text = set(re.findall(r"`make (\w+)", (root / "README.md").read_text(encoding="utf-8")))
    assert in_blocks == {"demo", "test", "bench", "torture"}
    assert in_text <= targets
    assert in_blocks <= targets


def test_variables_are_settings(page: Path) -> None:
    """No page names a variable that nobody reads."""
    named = set(re.findall(r"\bUSAGEFLOW_[A-Z_]+\b", page.read_text(encoding="utf-8")))
    assert named <= {variable(item.name) for item in fields(Settings)} | NO_SETTINGS
