"""Runs the command line in this process, as a shell would see it."""

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from usageflow.cli import main


class Outcome(NamedTuple):
    """Exit status and what was printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`run("keys", "list")`: the outcome of one command line, whatever the environment says."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("SERVER", "API_KEY", "DATABASE", "STRIPE_API_KEY", "POLICIES"):
        monkeypatch.delenv(f"USAGEFLOW_{name}", raising=False)

    def run_command(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(int(exit_.value.code or 0), captured.out, captured.err)

    log = logging.getLogger("usageflow")
    level = log.level
    yield run_command
    log.setLevel(level)
