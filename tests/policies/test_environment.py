"""Secrets are named in a policy, and found in the environment of an edge."""

import pytest

from usageflow.policies.environment import resolved, secret_reference
from usageflow.policies.reason import Reason


def test_a_reference_names_a_variable() -> None:
    """Letters, digits and underscores, as shells have them."""
    assert secret_reference("env:JWT_SECRET_2") == "env:JWT_SECRET_2"


@pytest.mark.parametrize("text", ["hunter2", "env:", "env:2X", "env:A-B", "ENV:A", "env:A\n", ""])
def test_a_literal_secret_is_refused_and_not_repeated(text: str) -> None:
    """The message ends up in logs and dashboards."""
    with pytest.raises(ValueError, match="must name an environment variable") as refused:
        secret_reference(text)
    assert "hunter2" not in str(refused.value)


def test_missing_and_empty_are_no_secret() -> None:
    """An empty secret would verify what anybody signs."""
    assert resolved("env:A", {"A": "x"}) == "x"
    for environ in ({}, {"A": ""}):
        assert resolved("env:A", environ) == Reason("the environment variable A is not set")
