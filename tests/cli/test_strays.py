"""Variables with a typo: told with what was meant, and only they."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usageflow.cli.options import file_settings
from usageflow.cli.strays import strays

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("USAGEFLOW_WORKRES", "USAGEFLOW_WORKERS"),
        ("USAGEFLOW_UPSTREAMS", "USAGEFLOW_UPSTREAM"),
        ("USAGEFLOW_workers", "USAGEFLOW_WORKERS"),
        ("USAGEFLOW_CONFG", "USAGEFLOW_CONFIG"),
    ],
)
def test_a_typo_is_told_with_the_nearest_name(name: str, meant: str) -> None:
    """In one sentence."""
    assert strays([name]) == [f"{name} is no setting; did you mean {meant}?"]


def test_what_is_none_of_our_business() -> None:
    """Settings, other programs' variables, and secrets that policies may name."""
    known = ("USAGEFLOW_WORKERS", "USAGEFLOW_CONFIG")
    others = ("PATH", "WORKRES", "USAGEFLOW_JWT_SECRET", "USAGEFLOW_HASH_KEY")
    assert strays([*known, *others]) == []


def test_each_is_told_in_order() -> None:
    """That of the alphabet."""
    told = strays(["USAGEFLOW_WORKRES", "USAGEFLOW_LISTN"])
    assert [line.split()[0] for line in told] == ["USAGEFLOW_LISTN", "USAGEFLOW_WORKRES"]


def test_a_command_tells_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, in its log, and it goes on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USAGEFLOW_WORKRES", "2")
    monkeypatch.setenv("USAGEFLOW_LISTEN", "8080")
    refused = run("proxy").err
    assert caplog.messages == ["USAGEFLOW_WORKRES is no setting; did you mean USAGEFLOW_WORKERS?"]
    assert refused.startswith("usageflow: listen address ")


def test_a_child_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`up` has read file and environment for its children, and told what it found."""
    monkeypatch.setenv("USAGEFLOW_WORKRES", "2")
    monkeypatch.setenv("USAGEFLOW_CONFIG", os.devnull)
    file_settings()
    assert caplog.messages == []
