"""Ports for the demo's processes, which get them on a command line."""

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that nobody listened on a moment ago."""
    for _ in range(100):
        with ExitStack() as held:
            first = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return int(first)
    raise AssertionError("no free ports")


@pytest.fixture
def ports() -> Callable[[int], int]:
    """`ports(5)`: the first of five free ports."""
    return free_ports
