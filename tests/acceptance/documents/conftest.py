"""A server, a terminal beside it, and somebody who does what a product document says.

Commands are the document's, word by word; only the host is ours, and `<placeholders>` are filled in
with what earlier answers said.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 60.0
"""Longest wait for anything; reached only when something is broken."""
HOSTS = re.compile(r"https://(api\.fluxrate\.co|your-domain\.com)")
CURLRC = 'silent\nshow-error\nwrite-out = "\\n%{http_code}"\n'


@dataclass
class Answer:
    """What curl printed: the body as exact JSON, and the status."""

    status: int
    body: Any


@dataclass
class Terminal:
    """Somebody at a terminal, with a server that listens at `url`."""

    url: str
    home: Path
    environ: dict[str, str]
    filled: dict[str, str] = field(default_factory=dict)

    def curl(self, command: str) -> Answer:
        """Run a curl command of a document; `<name>` is what `filled` has for it."""
        command = HOSTS.sub(self.url, command)
        for name, value in self.filled.items():
            command = command.replace(f"<{name}>", value)
        assert not re.search(r"<\w+>", command), command
        done = subprocess.run(
            ["bash", "-c", command],
            env={"PATH": os.environ["PATH"], "CURL_HOME": str(self.home), "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        body, _, status = done.stdout.rpartition("\n")
        return Answer(int(status), exact(body) if body else None)

    def post(self, path: str, body: Any, *headers: str) -> Answer:
        """What a document says in words, as a request of the person who signed in."""
        return self.request("POST", path, body, *headers)

    def get(self, path: str, *headers: str) -> Answer:
        """Look something up."""
        return self.request("GET", path, None, *headers)

    def request(self, method: str, path: str, body: Any, *headers: str) -> Answer:
        """One request; without headers it shows the session's cookies."""
        shown = headers or (f"Cookie: access_token={self.filled['your_token']}",)
        options = "".join(f" -H '{header}'" for header in shown)
        if body is not None:
            options += f" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        return self.curl(f"curl -X {method} '{self.url}{path}'{options}")

    def sign_up(self, organization: str) -> None:
        """Step 1 of every document: an account."""
        owner = {
            "email": "owner@example.com",
            "password": "a long enough Passw0rd",
            "organization_name": organization,
        }
        jar = self.home / "cookies"
        command = (
            f"curl -X POST {self.url}/api/v1/auth/signup -c {jar} "
            f"-H 'Content-Type: application/json' -d '{json.dumps(owner)}'"
        )
        assert self.curl(command).status == 201
        found = re.search(r"\taccess_token\t(\S+)", jar.read_text())
        assert found
        self.filled["your_token"] = found.group(1)

    def usageflow(self, *arguments: str) -> str:
        """Run one of our commands; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "usageflow", *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        return done.stdout


def exact(text: str) -> Any:
    """JSON without floats."""
    return json.loads(text, parse_float=Decimal)


def free_port() -> int:
    """A port that was free a moment ago."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal beside a fresh `usageflow serve` on SQLite."""
    (tmp_path / ".curlrc").write_text(CURLRC)
    ours = {name: text for name, text in os.environ.items() if "USAGEFLOW" not in name}
    environ = ours | {
        "USAGEFLOW_DATABASE": f"sqlite:///{tmp_path / 'usageflow.db'}",
        "USAGEFLOW_ENCRYPTION_KEYS": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "USAGEFLOW_WEBHOOKS_PRIVATE": "on",
    }
    port = free_port()
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "usageflow", "serve", "--port", str(port)],
        env=environ,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    with log:
        until(lambda: _listens(port, process), (tmp_path / "log").read_text)
        yield Terminal(f"http://127.0.0.1:{port}", tmp_path, environ)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def _listens(port: int, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(done: Callable[[], bool], told: Callable[[], object]) -> None:
    """Wait until something is so; else fail with what is."""
    ends_s = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > ends_s:
            raise AssertionError(told())
        time.sleep(0.1)


@pytest.fixture(name="until")
def _until() -> Callable[[Callable[[], bool], Callable[[], object]], None]:
    """`until(done, told)`: wait for something."""
    return until


@dataclass
class Receiver:
    """An application that webhooks are sent to."""

    url: str
    bodies: list[Any] = field(default_factory=list)

    def types(self) -> list[str]:
        """The types of what came, in order."""
        return [body["type"] for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An HTTP server that keeps what is posted to it."""
    received = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.bodies.append(exact(body.decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}/hooks"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield received
    server.shutdown()
    server.server_close()
    thread.join()
