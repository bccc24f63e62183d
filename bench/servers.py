"""Processes under measurement: started on a free loopback port, pinned to a core, and watched."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = resource.getpagesize()
MEASURED_CORE, OTHER_CORE = {0}, {os.cpu_count() - 1 if os.cpu_count() else 0}  # type: ignore[operator]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, core: set[int], env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server on a core until the block ends; its process id."""
    process = subprocess.Popen(command, env=os.environ | (env or {}), stderr=subprocess.PIPE)
    try:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, core)
        _wait(process, port)
        yield process.pid
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise SystemExit(
                f"{process.args!r} ended: {process.stderr and process.stderr.read()!r}"
            )
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} does not listen")


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def python(module: str, *arguments: str) -> list[str]:
    """A command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
