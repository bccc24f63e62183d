"""Somebody who follows a page word by word, as a new user would, in an empty directory.

Its files, its commands and its outputs. Only ports are others, since those of the page may be in
use. What a block exports holds in the blocks after it, as in the terminal of a page.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

PORTS = {
    "python3 api.py": 9000,
    "python3 -m http.server": 9000,
    "usageflow stripe-emulator": 8788,
    "usageflow up": 8080,
    "usageflow serve": 8787,
    "usageflow proxy": 8080,
}
"""What runs until it is stopped, by how its command begins -> where the page lets it listen."""
ADMIN_PORT = 9901
PATIENCE_S = 60.0
"""Longest wait for a command or a listening port; reached only when something is broken."""
POLL_S = 0.1
TOKEN = r"(?<=token=)[\w-]{43}"
VARYING = (
    *(r"(?<=Date: ).+", r"(?<=Server: ).+", TOKEN, r"20\d\d-\d\d-\d\d \d\d:\d\d"),
    *(r"mtr_test\w+", r"\b(inv|evt)_[0-9a-f]+", r"INV-20\d\d"),
    r"20\d\d-\d\d-\d\dT[\d:.]+(Z|\+00:00)",
)
"""What differs from one time to another."""


class Reader:
    """Somebody who follows the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        self._command = ""
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        pages = (*sorted(set(PORTS.values())), ADMIN_PORT)
        self._ports = dict(zip(pages, free_ports(len(pages)), strict=True))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Nor coverage: what a reader runs is measured where it is tested, and is slow enough.
        unlike = re.compile("COVERAGE_|.*USAGEFLOW")
        ours = {name: text for name, text in os.environ.items() if not unlike.match(name)}
        port = str(self._ports[8787])  # the default, which the page does not name
        self._environ = {**ours, "PATH": path, "PYTHONUNBUFFERED": "1", "USAGEFLOW_PORT": port}

    def follow(self, language: str, text: str) -> None:
        """Save the file, run the commands, or see that the output is this."""
        for port, ours in self._ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{ours}")
            text = text.replace(f'"127.0.0.1", {port}', f'"127.0.0.1", {ours}')
            text = re.sub(rf"(http.server|--port) {port}\b", rf"\1 {ours}", text)
        if language == "toml":
            (self.folder / "policies.toml").write_text(text)
        elif language == "text":
            self._expect(text)
        elif started := next((name for name in PORTS if re.search(f"(?m)^{name}", text)), None):
            self._start(started, text)
        else:
            self._run(text)
        self._environ |= dict(re.findall(r"(?m)^export (\w+)=([^\s$]+)$", text))

    def stop(self, name: str) -> None:
        """Press Ctrl-C. Python ignores it in a program that a shell started in the background."""
        process = self._running.pop(name)
        ours = name.startswith("usageflow")
        process.send_signal(signal.SIGINT if ours else signal.SIGTERM)
        status = process.wait(PATIENCE_S)
        assert status == 0 or not ours, self.log(name)

    def stop_all(self) -> None:
        """In the reverse order."""
        for name in reversed(tuple(self._running)):
            self.stop(name)

    def log(self, name: str) -> str:
        """What a running program printed."""
        return self._log(name).read_text()

    def _log(self, name: str) -> Path:
        return self.folder.with_name(f"{name.rpartition(' ')[2]}.log")

    def _start(self, name: str, text: str) -> None:
        if name == "usageflow serve" and "usageflow up" in self._running:
            self.stop("usageflow up")  # as the page says
        shell = re.sub(rf"(?m)^(?={name})", "exec ", text)
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                ["/bin/sh", "-c", shell], cwd=self.folder, env=self._environ, stdout=log, stderr=log
            )
        self._command = name
        deadline = time.monotonic() + PATIENCE_S
        while not accepts(self._ports[PORTS[name]]):
            assert self._running[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(POLL_S)

    def _run(self, shell: str) -> None:
        self._command = shell
        kept = self.folder.with_name("environment")
        done = subprocess.run(
            ["/bin/sh", "-c", f"trap 'env -0 > {kept}' EXIT\n{shell}"],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.output = done.stdout
        assert done.returncode == 0, f"{shell}{done.stdout}{done.stderr}"
        environ = dict(one.split("=", 1) for one in kept.read_text().split("\0") if one)
        self._environ |= {name: environ[name] for name in re.findall(r"(?m)^export (\w+)", shell)}

    def _expect(self, wanted: str) -> None:
        """What a program prints may come a moment later, and what a command shows may change."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._shows(wanted):
            assert time.monotonic() < deadline, f"{self._command}\n{self.output}"
            time.sleep(POLL_S)
            if self._command not in PORTS:
                self._only_looks()
                self._run(self._command)

    def _shows(self, wanted: str) -> bool:
        if self._command in PORTS:
            self.output = self.log(self._command)
            return set(masked(wanted)) <= set(masked(self.output))
        return masked(self.output) == masked(wanted)

    def _only_looks(self) -> None:
        """A command that is repeated must do no more than look."""
        metered, posting = f":{self._ports[8080]}/", re.search(r" (-d|-X) ", self._command)
        assert metered not in self._command, f"{self._command}\n{self.output}"
        assert not posting, f"{self._command}\n{self.output}"


def masked(output: str) -> list[str]:
    """The lines of an output, without what differs each time."""
    for pattern in VARYING:
        output = re.sub(pattern, "*", output)
    return [line.rstrip() for line in output.rstrip().splitlines()]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    with closing(socket.socket()) as first:
        sockets = [first, *(socket.socket() for _ in range(count - 1))]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
    return ports


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """One whose programs end with the test."""
    (folder := tmp_path / "empty").mkdir()
    made = Reader(folder)
    try:
        yield made
    finally:
        made.stop_all()
