"""A child of `up`: the same command line, for as long as its parent is there."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start("serve")`: a child of this process."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "usageflow.cli.up_child", *words],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if not k.startswith("USAGEFLOW_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        with process:
            process.kill()


def test_it_ends_in_order_with_its_parent(start: Start) -> None:
    """It serves until the other end of its standard input is closed, as by any death."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    process = start("serve", "--port", str(port))
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline().startswith("Create the owner's account")
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 0


def test_a_command_that_is_done_waits_for_nobody(start: Start) -> None:
    """Its status and output are the command's own; its parent need not end first."""
    process = start("--version")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("usageflow ")
    assert process.wait(30) == 0
