"""The command list, exit statuses and messages of the command line as a whole."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

import usageflow
from usageflow.cli import app as module
from usageflow.errors import DeliveryError

COMMANDS = {
    "up",
    "serve",
    "proxy",
    "demo",
    "usage",
    "statement",
    "reconcile",
    "inbox",
    "endpoints",
    "keys",
    "organizations",
    "policies",
    "stripe",
    "secrets",
    "audit",
    "invoices",
    "ledger",
    "spool",
    "stripe-emulator",
    "migrate",
    "config",
}
HEAVY = {"sqlmodel", "sqlalchemy", "stripe", "starlette", "httpx", "uvicorn", "pydantic", "rich"}


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A fresh interpreter, as a shell would start it."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_shows_exactly_the_commands() -> None:
    """Nothing more and nothing less than what the documentation names, on a real terminal line."""
    shown = python("-m", "usageflow", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    listing = shown.stdout.partition("Commands:")[2]
    assert set(re.findall(r"^  (\S+)", listing, re.MULTILINE)) == COMMANDS
    assert "..." not in listing


def test_help_loads_nothing_heavy() -> None:
    """The list of commands appears without a database, a web framework or the Stripe SDK."""
    code = (
        "import sys\nfrom usageflow.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert python("-c", code).stdout.endswith("[]\n")


def test_every_command_and_option_explains_itself() -> None:
    """Nothing can be typed that its help does not explain in words."""

    def silent(command: Any, path: str) -> Iterator[str]:
        if not command.help:
            yield path
        for option in command.params:
            if not option.help:
                yield f"{path} {option.name}"
        for name, sub in getattr(command, "commands", {}).items():
            yield from silent(sub, f"{path} {name}")

    assert list(silent(typer.main.get_command(module.app), "usageflow")) == []


def test_version(run: Callable[..., tuple[int, str, str]]) -> None:
    """`--version` is the package's version."""
    assert run("--version") == (0, f"usageflow {usageflow.__version__}\n", "")


@pytest.mark.parametrize("line", ["", "bogus", "serve --bogus", "serve --port many", "spool"])
def test_a_wrong_command_line_exits_2(line: str, run: Callable[..., tuple[int, str, str]]) -> None:
    """Usage errors are told apart from failures, by status and by a pointer to the help."""
    status, out, err = run(*line.split())
    assert status == 2
    assert "Usage: usageflow" in out + err


@pytest.mark.parametrize("words", ["usage --database \udcff", "inbox attach account_id \udcff x"])
def test_what_is_not_utf_8_is_refused(words: str, run: Callable[..., tuple[int, str, str]]) -> None:
    """Whatever it was meant for: it could be neither stored nor sent nor shown."""
    status, out, err = run(*words.split())
    number = words.split().index("\udcff") + 1
    assert (status, out, err) == (2, "", f"usageflow: argument {number} is not UTF-8\n")


def test_a_message_gives_no_orders_to_the_terminal(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of others are in many; their lines stay."""

    def fails(_arguments: object, **_: object) -> None:
        raise DeliveryError("Stripe: \x1b[2Jno\nnever")

    monkeypatch.setattr(module, "app", fails)
    assert run("usage") == (1, "", "usageflow: Stripe:  [2Jno\nnever\n")


def test_what_usageflow_can_explain_is_one_message(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours is a sentence on stderr and exit 1, never a traceback."""
    monkeypatch.setenv("USAGEFLOW_PORT", "eighty")
    status, out, err = run("serve")
    assert (status, out) == (1, "")
    assert err == "usageflow: USAGEFLOW_PORT must be a whole number, not 'eighty'\n"


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("psycopg", "postgres"),
        ("uvloop", "proxy"),
        ("uvicorn", "server"),
        ("sqlmodel.main", "server"),
    ],
)
def test_a_missing_extra_is_named(
    package: str,
    extra: str,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command whose packages are not installed says which extra brings them."""

    def without(_arguments: object, **_: object) -> None:
        raise ModuleNotFoundError("missing", name=package)

    monkeypatch.setattr(module, "app", without)
    status, _, err = run("serve")
    assert status == 1
    assert f"pip install 'usageflow[{extra}]'" in err


def test_other_missing_modules_are_not_explained_away(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of ours that is missing is a fault of ours and keeps its traceback."""

    def broken(_arguments: object, **_: object) -> None:
        raise ModuleNotFoundError("missing", name="usageflow.nothing")

    monkeypatch.setattr(module, "app", broken)
    with pytest.raises(ModuleNotFoundError):
        run("serve")
