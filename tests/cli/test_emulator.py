"""`usageflow stripe-emulator`: runs until it is told to stop."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx

Run = Callable[..., Any]


def test_it_says_where_it_is_and_stops_when_told() -> None:
    """The URL on stdout answers; SIGTERM ends it."""
    command = [sys.executable, "-m", "usageflow", "stripe-emulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            assert emulator.stdout is not None
            url = emulator.stdout.readline().split()[2]
            assert httpx.get(f"{url}/_emulator/state").status_code == 200
            emulator.send_signal(signal.SIGTERM)
            emulator.wait(20)
        finally:
            emulator.kill()


def test_a_taken_port_is_one_message(run: Run) -> None:
    """With the address and the way out."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        status, _, err = run("stripe-emulator", "--port", port)
    assert status == 1
    assert f"127.0.0.1 port {port}" in err
    assert "--port" in err
