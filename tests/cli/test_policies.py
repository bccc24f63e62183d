"""`usageflow policies`: every problem with its place, and what publishing changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

CHAT = """
[[policy]]
name = "chat"
match = "POST /v1/chat"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "AI_TOKEN"
quantity = "response.body.usage.total_tokens"
event_name = "token_used"
"""
CALLS = """
[[policy]]
name = "calls"
match = "GET /v1/items/:id"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy file that is right."""
    path = tmp_path / "policies.toml"
    path.write_text(CHAT + CALLS)
    return path


def test_a_good_file_is_summed_up(run: Run, file: Path) -> None:
    """How much there is, in good English, and exit 0."""
    assert run("policies", "check", file) == (0, "2 policies, 2 metrics: ok\n", "")
    file.write_text(CHAT)
    assert run("policies", "check", file).out == "1 policy, 1 metric: ok\n"
    file.write_text("")
    assert run("policies", "check", file).out == "0 policies, 0 metrics: ok\n"


def test_every_problem_has_its_line(run: Run, file: Path) -> None:
    """One line `FILE:LINE: ...` for each problem of each policy; exit 1."""
    file.write_text(CHAT.replace("POST /v1/chat", "/v1/chat") + CALLS.replace("API_CALL", "?!"))
    status, out, err = run("policies", "check", file)
    assert (status, err) == (1, "")
    first, second = out.splitlines()
    assert first.startswith(f"{file}:4: ")
    assert "chat" in first
    assert second.startswith(f"{file}:16: ")
    assert "calls" in second


def test_policies_that_contradict_each_other_are_a_problem(run: Run, file: Path) -> None:
    """Each is right alone; together they would count one request twice under one metric."""
    file.write_text(CALLS + CALLS.replace('"calls"', '"more"'))
    status, out, _ = run("policies", "check", file)
    assert status == 1
    assert "calls" in out
    assert "more" in out


@pytest.mark.parametrize("content", [b"[[policy", b"\xff\xfe", None])
def test_what_cannot_be_read_is_one_problem(
    run: Run, tmp_path: Path, content: bytes | None
) -> None:
    """No TOML, no text, no file: named, exit 1."""
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    status, out, err = run("policies", "check", path)
    assert (status, err, len(out.splitlines())) == (1, "", 1)
    assert out.startswith(f"{path}:")


def test_push_says_what_changed(run: Run, file: Path, tmp_path: Path) -> None:
    """Added, changed, removed, unchanged; the database may be a fresh one."""
    url = f"sqlite:///{tmp_path / 'fresh.db'}"
    status, out, _ = run("policies", "push", file, "--database", url)
    assert status == 0
    assert out.splitlines() == [
        "added policy calls",
        "added policy chat",
        "added metric AI_TOKEN",
        "added metric API_CALL",
    ]
    file.write_text(CHAT.replace("/v1/chat", "/v2/chat"))
    assert run("policies", "push", file, "--database", url).out.splitlines() == [
        "changed policy chat",
        "removed policy calls",
    ]
    again = run("policies", "push", file, "--database", url)
    assert again.out == "unchanged policy chat\n"


def test_a_file_with_a_problem_is_not_pushed(run: Run, file: Path, tmp_path: Path) -> None:
    """Half a file would silently take the other half out of use."""
    database = tmp_path / "fresh.db"
    file.write_text(CHAT + CALLS.replace("API_CALL", "?!"))
    status, out, err = run("policies", "push", file, "--database", f"sqlite:///{database}")
    assert (status, out) == (1, "")
    assert f"{file}:16: " in err
    assert not database.exists()


def test_a_server_does_not_start_with_a_broken_file(run: Run, file: Path, tmp_path: Path) -> None:
    """`serve --policies` judges the file before anything is opened."""
    database = tmp_path / "fresh.db"
    file.write_text("[[policy")
    url = f"sqlite:///{database}"
    status, _, err = run("serve", "--policies", file, "--database", url)
    assert status == 1
    assert err.startswith(f"usageflow: {file}:1")
    assert not database.exists()
