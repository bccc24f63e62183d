"""The demo's processes: started on loopback, waited for, and stopped in the reverse order."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from usageflow.errors import ConfigurationError, UsageFlowError

HOST: Final = "127.0.0.1"
START_S_MAX: Final = 30.0
"""A cold import of the whole server on a busy two-core machine takes a few seconds."""
STOP_S_MAX: Final = 15.0
"""Above the 10 s in which our own processes drain."""


class Processes:
    """Child processes with their logs in one directory. A context: leaving it stops them all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, port: int, *command: str, env: Mapping[str, str] = {}) -> None:
        """Start `python -m command` and wait until `port` accepts connections.

        Raises UsageFlowError with the end of its log if it ends first or takes too long.
        """
        log = self._directory / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self._directory,
                env=os.environ | env,
                start_new_session=True,  # Ctrl-C is for the demo, which stops them in order
            )
        self._running.append((name, process))
        deadline_s = time.monotonic() + START_S_MAX
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                tail = log.read_text(errors="replace")[-2000:]
                raise UsageFlowError(f"{name} did not start:\n{tail}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask each to stop, last started first, and end those that do not.

        A second Ctrl-C must not leave some of them running.
        """
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        while self._running:
            _, process = self._running.pop()
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        signal.signal(signal.SIGINT, interrupt)


def require_free(ports: Sequence[int]) -> None:
    """Raise ConfigurationError naming the first port that somebody else listens on."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                raise ConfigurationError(
                    f"port {port} is taken; the demo needs {ports[0]} to {ports[-1]}: choose "
                    f"others with --port-base"
                ) from None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((HOST, port)) == 0
