"""Options derived from settings, and where the settings of a command come from."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from usageflow.cli.options import edge_settings, file_settings, server_settings, setting
from usageflow.config import Settings
from usageflow.errors import ConfigurationError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no variables of ours."""
    for name in ("CONFIG", "SERVER", "API_KEY", "PORT", "HOST"):
        monkeypatch.delenv(f"USAGEFLOW_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_option_explains_its_setting() -> None:
    """Explanation, variable and default come from the field of Settings."""
    assert setting("spool_dir").help == (
        "directory of the spool; must survive restarts "
        "[USAGEFLOW_SPOOL_DIR; default: .usageflow/spool]"
    )
    assert setting("tls_key").help == (
        "PEM file with its key; none: it is in tls_cert [USAGEFLOW_TLS_KEY]"
    )


def test_flag_environment_file_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes before what follows it, for edges and for the server alike."""
    (folder / "u.toml").write_text("[server]\nport = 3\nhost = '::3'\n[proxy]\nworkers = 3")
    monkeypatch.setenv("USAGEFLOW_PORT", "2")
    monkeypatch.setenv("USAGEFLOW_HOST", "::2")
    for read in (server_settings, edge_settings):
        settings = read(folder / "u.toml", port=1, host=None)
        assert (settings.port, settings.host, settings.workers) == (1, "::2", 3)
        assert settings.durability == "durable"


def test_the_file_of_the_directory_is_read_if_there_is_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An option names another one, or else the environment; the log has which it was."""
    assert file_settings() == {}
    for number, name in enumerate(("usageflow", "environment", "flag")):
        (folder / f"{name}.toml").write_text(f"[server]\nport = {number + 1}")
    with caplog.at_level(logging.INFO):
        assert server_settings().port == 1
        monkeypatch.setenv("USAGEFLOW_CONFIG", "environment.toml")
        assert server_settings().port == 2
        assert server_settings(Path("flag.toml")).port == 3
    assert caplog.messages == [
        f"configuration file {name}.toml" for name in ("usageflow", "environment", "flag")
    ]


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the one that nobody named may be missing."""
    monkeypatch.setenv("USAGEFLOW_CONFIG", "nowhere.toml")
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: No such file"):
        edge_settings()


@pytest.mark.parametrize("by", ["environment", "file"])
def test_the_first_key_can_be_made_where_an_edge_is_configured(
    by: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without a key yet is an error for an edge only."""
    if by == "environment":
        monkeypatch.setenv("USAGEFLOW_SERVER", "http://127.0.0.1:8787")
    else:
        (folder / "usageflow.toml").write_text("[edge]\nserver = 'http://127.0.0.1:8787'")
    assert server_settings().server is None
    with pytest.raises(ConfigurationError, match="no API key"):
        edge_settings()


@pytest.mark.parametrize("read", [edge_settings, server_settings])
def test_a_mistake_is_told_by_the_name_it_was_written_by(
    read: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option as the option; what is in the environment by its variable."""
    with pytest.raises(ConfigurationError, match=r"^--workers must be a number above 0, not 0$"):
        read(workers=0)
    with pytest.raises(ConfigurationError, match=r"^--durability must be one of"):
        read(durability="maybe", port=None)
    monkeypatch.setenv("USAGEFLOW_WORKERS", "0")
    with pytest.raises(ConfigurationError, match=r"^USAGEFLOW_WORKERS must be"):
        read(workers=None)


def test_wrong_variables_are_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that concerns the server is checked as always."""
    monkeypatch.setenv("USAGEFLOW_UNKNOWN_METRIC", "maybe")
    with pytest.raises(ConfigurationError, match="create, inbox"):
        server_settings()
