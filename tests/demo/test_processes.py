"""Starting and stopping the demo's processes."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from usageflow.demo import processes
from usageflow.demo.processes import HOST, Processes, require_free
from usageflow.errors import ConfigurationError, UsageFlowError

Ports = Callable[[int], int]

LISTENS = """
import os, signal, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(os.environ["GREETING"], os.getcwd(), flush=True)
def end(*_):
    open("ended", "a").write(sys.argv[2])
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2] == "stubborn" else end)
while True:
    signal.pause()
"""


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a module that listens on a port."""
    (tmp_path / "listens.py").write_text(LISTENS)
    return tmp_path


def test_a_process_is_ready_once_it_listens(folder: Path, ports: Ports) -> None:
    """It runs in the directory, with the environment it was given, and its output is kept there."""
    port = ports(1)
    with Processes(folder) as running:
        running.start("one", port, "listens", str(port), "1", env={"GREETING": "hello"})
        assert listens(port)
    assert not listens(port)
    assert (folder / "one.log").read_text() == f"hello {folder}\n"


def test_the_last_one_started_stops_first(folder: Path, ports: Ports) -> None:
    """An edge ships its last usage while the server still runs."""
    port = ports(2)
    with Processes(folder) as running:
        for offset, name in enumerate("12"):
            started = ("listens", str(port + offset), name)
            running.start(name, port + offset, *started, env={"GREETING": ""})
    assert (folder / "ended").read_text() == "21"


def test_who_does_not_stop_is_ended(
    folder: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo leaves nothing behind."""
    monkeypatch.setattr(processes, "STOP_S_MAX", 0.1)
    port = ports(1)
    with Processes(folder) as running:
        running.start("one", port, "listens", str(port), "stubborn", env={"GREETING": ""})
    assert not listens(port)


def test_a_process_that_ends_at_once_shows_its_last_words(folder: Path, ports: Ports) -> None:
    """The message has what the process printed; waiting for its port would be in vain."""
    (folder / "fails.py").write_text("raise SystemExit('no disk left')")
    with Processes(folder) as running, pytest.raises(UsageFlowError) as failed:
        running.start("one", ports(1), "fails")
    assert str(failed.value) == "one did not start:\nno disk left\n"


def test_a_process_that_never_listens_is_given_up(
    folder: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded, and the process is stopped."""
    monkeypatch.setattr(processes, "START_S_MAX", 0.3)
    (folder / "sleeps.py").write_text(
        "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    with Processes(folder) as running, pytest.raises(UsageFlowError, match="one did not start"):
        running.start("one", ports(1), "sleeps")
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)


def test_an_interrupt_is_for_the_demo_alone(folder: Path, ports: Ports) -> None:
    """Ctrl-C reaches a whole process group; the processes have their own and stop in order."""
    port = ports(1)
    with Processes(folder) as running:
        running.start("one", port, "listens", str(port), "1", env={"GREETING": ""})
        assert os.getpgid(running._running[0][1].pid) != os.getpgid(0)


def test_free_ports_are_no_problem(ports: Ports) -> None:
    """Nothing is held afterwards."""
    port = ports(2)
    require_free([port, port + 1])
    require_free([port, port + 1])


def test_a_taken_port_is_named_with_the_way_out() -> None:
    """Which one, which are needed, and the option that chooses others."""
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as refused:
            require_free([port, port + 4])
    assert str(refused.value) == (
        f"port {port} is taken; the demo needs {port} to {port + 4}: choose others with --port-base"
    )
