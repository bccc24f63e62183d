"""The entry point, with and without the packages of the command line."""

import subprocess
import sys

WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from usageflow.__main__ import main
main()
"""


def start_without(missing: str) -> "subprocess.CompletedProcess[str]":
    """A fresh interpreter in which one module cannot be imported."""
    code = WITHOUT.format(missing=missing)
    return subprocess.run(
        [sys.executable, "-c", code, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_light_installation_says_what_to_install() -> None:
    """Without typer there are no commands, but a way to get them."""
    ended = start_without("typer")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "usageflow: the commands need pip install 'usageflow[server]'\n"


def test_a_module_of_ours_that_is_missing_is_not_explained_away() -> None:
    """A broken installation keeps its traceback."""
    ended = start_without("usageflow.cli.app")
    assert ended.returncode == 1
    assert "ModuleNotFoundError" in ended.stderr
