"""Running the emulator: a program of its own, and a thread."""

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from usageflow.errors import ConfigurationError
from usageflow.stripe.emulator.app import create_emulator
from usageflow.stripe.emulator.serve import run, running


def test_a_taken_port_is_explained() -> None:
    """The message names the address and the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1 port {port}: .*--port"):
            run("127.0.0.1", port)


def test_it_runs_as_a_program() -> None:
    """It prints its URL, answers, and stops on SIGTERM."""
    code = "from usageflow.stripe.emulator.serve import run; run('127.0.0.1', 0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        match = re.search(r"http://127.0.0.1:\d+", child.stdout.readline())
        assert match is not None
        assert httpx.get(match[0]).status_code == 200
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=10)


def test_it_runs_on_ipv6() -> None:
    """An IPv6 address gives a URL with brackets."""
    with running(create_emulator(), host="::1") as url:
        assert url.startswith("http://[::1]:")
        assert httpx.get(url).status_code == 200
