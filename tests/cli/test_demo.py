"""`usageflow demo`: the command line belongs to the demo."""

from collections.abc import Callable
from typing import Any

import pytest

from usageflow import demo

Run = Callable[..., Any]


def test_every_option_is_handed_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown options and `--help` reach the demo; what it returns is the exit status."""
    given: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        given.append(arguments)
        return 3

    monkeypatch.setattr(demo, "main", main)
    assert run("demo", "--once", "--port-base", "9000").status == 3
    assert run("demo", "--help").status == 3
    assert given == [["--once", "--port-base", "9000"], ["--help"]]
