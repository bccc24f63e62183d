"""Programs that listen, as children of `up`: they tell what becomes of them in files."""

import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from usageflow.up.child import Program

LISTENS = """
import os, signal, socket, sys
name, port, stubborn = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
def note(text):
    with open("notes", "a") as notes:
        notes.write(f"{name} {text}\\n")
def end(*_):
    note("ended")
    sys.exit()
def reload(*_):
    note("reloads")
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else end)
signal.signal(signal.SIGHUP, reload)
signal.alarm(60)  # whatever happens to the test
server = socket.create_server(("127.0.0.1", port))
note("started " + os.environ.get("USAGEFLOW_API_KEY", ""))
while True:
    signal.pause()
"""
MakeProgram = Callable[..., Program]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the programs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "listens.py").write_text(LISTENS)
    return tmp_path


@pytest.fixture
def program(folder: Path) -> MakeProgram:
    """`program("server")`: one that listens on a port of its own; with code, one that runs it."""

    def make(name: str, *options: str, code: str = "", stop_s_max: float = 20.0) -> Program:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        command = (sys.executable, "listens.py", name, str(port), *options)
        return Program(
            name=name,
            command=(sys.executable, "-c", code) if code else command,
            environ={},
            listen=f"127.0.0.1:{port}",
            stop_s_max=stop_s_max,
        )

    return make
