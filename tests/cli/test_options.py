"""Options derived from settings, and what a server-side command reads of the environment."""

import pytest

from usageflow.cli.options import server_settings, setting
from usageflow.errors import ConfigurationError


def test_an_option_explains_its_setting() -> None:
    """Explanation, variable and default come from the field of Settings."""
    assert setting("spool_dir").help == (
        "directory of the spool; must survive restarts "
        "[USAGEFLOW_SPOOL_DIR; default: .usageflow/spool]"
    )
    assert setting("upstream").help == "URL of the API behind the proxy [USAGEFLOW_UPSTREAM]"


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag, then the variable, then the default."""
    monkeypatch.setenv("USAGEFLOW_PORT", "1")
    monkeypatch.setenv("USAGEFLOW_HOST", "::1")
    settings = server_settings(port=2, host=None)
    assert (settings.port, settings.host) == (2, "::1")


def test_the_first_key_can_be_made_where_an_edge_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server without a key yet is an error for an edge only."""
    monkeypatch.setenv("USAGEFLOW_SERVER", "http://127.0.0.1:8787")
    monkeypatch.delenv("USAGEFLOW_API_KEY", raising=False)
    assert server_settings().server is None


def test_wrong_variables_are_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that concerns the server is checked as always."""
    monkeypatch.setenv("USAGEFLOW_UNKNOWN_METRIC", "maybe")
    with pytest.raises(ConfigurationError, match="create, inbox"):
        server_settings()
