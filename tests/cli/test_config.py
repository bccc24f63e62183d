"""`usageflow config`: the complete file, and what is in force."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from usageflow.cli import config_file

Run = Callable[..., Any]


def test_it_prints_the_complete_file(run: Run) -> None:
    """Alone on standard output, so that it can be redirected."""
    assert run("config") == (0, config_file.template(), "")


def test_check_shows_where_each_value_comes_from(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment goes before the file, the file before the default; secrets are masked."""
    file = tmp_path / "u.toml"
    file.write_text("[server]\nport = 1\nhost = '::1'\n[stripe]\nstripe_api_key = 'sk_test_S'")
    file.chmod(0o600)
    monkeypatch.setenv("USAGEFLOW_HOST", "::2")
    status, out, err = run("config", "--check", file)
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["port"] == ["1", f"{file}:2"]
    assert rows["host"] == ["::2", "USAGEFLOW_HOST"]
    assert rows["workers"] == ["1", "default"]
    assert rows["stripe_api_key"] == ["********", f"{file}:5"]


def test_check_takes_the_file_that_commands_take(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an argument: ./usageflow.toml."""
    monkeypatch.chdir(tmp_path)
    Path("usageflow.toml").write_text("[server]\nport = 7\n")
    assert "usageflow.toml:2" in run("config", "--check").out


def test_check_tells_what_is_wrong(run: Run, tmp_path: Path) -> None:
    """Every mistake, and exit 1."""
    file = tmp_path / "u.toml"
    file.write_text("[server]\nprot = 1\nport = 'x'")
    status, out, err = run("config", "--check", file)
    assert (status, out) == (1, "")
    assert err == (
        f'usageflow: {file}:2: prot is not known; did you mean "port"?\n'
        f"{file}:3: port must be a whole number, not text\n"
    )


def test_check_finds_what_the_proxy_would_refuse(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what no other setting shows to be wrong, each with its place."""
    file = tmp_path / "u.toml"
    file.write_text("[proxy]\nlisten = '8080'\n[upstream]\nhealth_path = 'health'\n")
    monkeypatch.setenv("USAGEFLOW_TRUSTED_PROXIES", "all")
    status, out, err = run("config", "--check", file)
    assert (status, out) == (1, "")
    listen, trusted, health = err.splitlines()
    assert listen.startswith(f"usageflow: {file}:2: listen address '8080' must look like ")
    assert trusted.startswith("USAGEFLOW_TRUSTED_PROXIES: ")
    assert health.startswith(f"{file}:4: USAGEFLOW_HEALTH_PATH must be a path ")


def test_a_file_without_check_is_a_mistake(run: Run) -> None:
    """The complete file has nothing of it."""
    status, out, err = run("config", "u.toml")
    assert (status, out) == (1, "")
    assert err == "usageflow: to check a file: usageflow config --check u.toml\n"
