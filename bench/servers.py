"""Processes under measurement: started on a free loopback port, pinned to a core, and watched."""

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = resource.getpagesize()
CORES = sorted(os.sched_getaffinity(0))
MEASURED_CORE = {CORES[0]}
OTHER_CORE = set(CORES[1:]) or MEASURED_CORE
"""Where the load and what is not measured run: on the rest of the machine."""
START_S_MAX = 30


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory on this disk, as spools need one; removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="usageflow-bench-", dir=Path.cwd()))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Keep this thread, and the processes it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, cores: set[int], env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server on these cores until the block ends; its process id."""
    with pinned(cores):  # before it starts: later only its first thread would follow
        process = subprocess.Popen(command, env=os.environ | (env or {}), stderr=subprocess.PIPE)
    try:
        _wait(process, port)
        yield process.pid
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S_MAX
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


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for each in found:  # grows while it is read
        for task in Path(f"/proc/{each}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process and its descendants so far, to the nanosecond.

    The clock of another process is numbered as in clock_getcpuclockid(3): /proc counts in 10 ms.
    """
    return sum(time.clock_gettime(~each << 3 | 2) for each in family(pid))


def machine_busy_s() -> float:
    """Processor time used so far by everything here, and by others if the machine is virtual."""
    user, nice, system, _idle, _iowait, *rest = map(int, _proc("stat").split()[1:9])
    return (user + nice + system + sum(rest)) / TICKS_PER_S


def _proc(*names: str) -> str:
    return Path("/proc", *names).read_text()


def rss_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    return int(_proc(str(pid), "statm").split()[1]) * PAGE_BYTES


def peak_rss_bytes(pid: int) -> int:
    """The most resident memory a process had since `forget_peak`, by the kernel's own mark."""
    return int(_proc(str(pid), "status").split("VmHWM:")[1].split()[0]) * 1024


def forget_peak(pid: int) -> None:
    """Begin a new peak at what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def python(module: str, *arguments: str) -> list[str]:
    """A command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
