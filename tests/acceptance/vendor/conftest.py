"""Metered apps under uvicorn, and a real UsageFlow server that can be told to be a bad one.

Everything speaks TCP on loopback. Policies come from a file or from that server, usage is on a real
spool and in a real ledger.
"""

import asyncio
import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlmodel import select

from usageflow import UsageFlowMiddleware
from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.api import create_api
from usageflow.catalog.keys import create_key
from usageflow.catalog.organizations import default_organization
from usageflow.catalog.policies import publish
from usageflow.config import Settings
from usageflow.db.session import Database
from usageflow.db.tables import UsageEventRow
from usageflow.events import UsageEvent, decode
from usageflow.policies import parse_file
from usageflow.recorder import read_spool
from usageflow.recorder.sink import EVENTS_PATH, POLICIES_PATH

PATIENCE_S = 20.0
"""Longest wait for anything; reached only when something is broken."""
BY_HEADER = '[ { from = "header", name = "x-account" } ]'


def wait_for(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for: {what}"
        time.sleep(0.01)


def policy(match: str | list[str], *, identify: str = BY_HEADER, **keys: Any) -> str:
    """One policy of a TOML file; what is not said is a call, counted as one."""
    found = {"name": keys.get("metric", "calls"), "match": match, "metric": "API_CALL"} | keys
    lines = [f"{key} = {json.dumps(value)}" for key, value in found.items()]
    return "\n".join(["[[policy]]", 'field = "account"', f"identify = {identify}", *lines, ""])


class Served:
    """An ASGI app under uvicorn, in a thread of this process."""

    def __init__(self, app: ASGIApp, port: int = 0, *, lifespan: bool = True) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app: Any = app
        config = uvicorn.Config(
            app,
            interface="asgi3",
            log_config=None,
            access_log=False,
            lifespan="on" if lifespan else "off",
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        sockets = {"sockets": [self._listener]}
        self._thread = threading.Thread(target=self.server.run, kwargs=sockets, daemon=True)
        self._thread.start()
        wait_for(lambda: self.server.started or not self._thread.is_alive(), "uvicorn")
        if not self.server.started:
            self._listener.close()
            raise AssertionError("the app does not start")

    def stop(self) -> None:
        """End it as SIGTERM would; a second time does nothing."""
        self.server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._listener.close()


@dataclass
class Edge:
    """A metered app."""

    app: Any
    settings: Settings
    served: Served

    @property
    def url(self) -> str:
        """Where its clients call it."""
        return self.served.url

    @property
    def lines(self) -> list[bytes]:
        """What is on its disk, as it is sent."""
        return list(read_spool(Path(self.settings.spool_dir)))

    @property
    def events(self) -> list[UsageEvent]:
        """What is on its disk."""
        return [decode(line) for line in self.lines]

    def measured(self) -> list[tuple[str | None, Any, str]]:
        """Identity, quantity and state of each event on its disk."""
        return [(event.identity.value, event.quantity, event.state) for event in self.events]

    def client(self, **options: Any) -> httpx.Client:
        """A client of the app."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE_S, **options)

    @property
    def middleware(self) -> UsageFlowMiddleware:
        """Ours, which an app with middlewares of its own builds at its first message."""
        found = getattr(self.app, "middleware_stack", None) or self.served.app
        while not isinstance(found, UsageFlowMiddleware):
            found = found.app
        return found

    def stop(self) -> None:
        """End the app in good order."""
        self.served.stop()
        self.middleware.close()  # a server without a lifespan does not say that it ends


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Callable[..., Edge]]:
    """`edge(app, toml, **settings)`: serve an app with the middleware; without policies in TOML,
    the settings name a server. With `lifespan=False` the server does not say when it starts.
    """
    started: list[Edge] = []

    def start(app: Any, toml: str | None = None, *, lifespan: bool = True, **settings: Any) -> Edge:
        place = tmp_path / f"edge-{len(started)}"
        place.mkdir()
        if toml is not None:
            path = place / "policies.toml"
            path.write_text(toml)
            settings["policies"] = str(path)
        chosen = Settings(**{"spool_dir": str(place / "spool"), **QUICK, **settings})
        served = Served(metered(app, chosen), lifespan=lifespan)
        started.append(Edge(app, chosen, served))
        return started[-1]

    yield start
    for each in started:
        each.stop()


QUICK: dict[str, Any] = {
    "policy_poll_s": 0.05,
    "ship_interval_s": 0.02,
    "ship_backoff_s_max": 0.1,
    "adoption_interval_s": 0.1,
    "drain_timeout_s": 0.5,
}
"""Pauses that tests need not wait for."""


def metered(app: Any, settings: Settings) -> Any:
    """The app with the middleware, added as its framework has it."""
    if hasattr(app, "add_middleware"):
        app.add_middleware(UsageFlowMiddleware, settings=settings)
        return app
    return UsageFlowMiddleware(app, settings=settings)


@pytest.fixture
def plain() -> Iterator[Callable[[ASGIApp], str]]:
    """`plain(app)`: serve an app as it is; gives its URL."""
    started: list[Served] = []

    def start(app: ASGIApp) -> str:
        started.append(Served(app, lifespan=False))
        return started[-1].url

    yield start
    for each in started:
        each.stop()


@dataclass
class Heard:
    """One request that reached the peer."""

    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    @property
    def text(self) -> bytes:
        """The body, decoded."""
        encoded = (b"content-encoding", b"gzip") in self.headers
        return gzip.decompress(self.body) if encoded else self.body


@dataclass
class Peer:
    """A UsageFlow server: its API over a database, on a port that stays its own.

    `held` paths are answered once they are no longer held; `broken` ones with a status and a body
    instead; `lost_answers` batches are taken for good, and their answer never comes.
    """

    database: Database
    organization: str
    api_key: str
    port: int
    held: set[str] = field(default_factory=set)
    broken: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    lost_answers: int = 0
    heard: list[Heard] = field(default_factory=list)
    waiting: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    connections_max: int = 0
    served: Served | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What an edge needs to know of it."""
        return {"server": f"http://127.0.0.1:{self.port}", "api_key": self.api_key}

    def start(self) -> None:
        """Listen."""
        self._api = create_api(self.database, Settings(), on_events=lambda: None)
        self.served = Served(self._serve, self.port, lifespan=False)

    def stop(self) -> None:
        """Listen no more; open connections are closed."""
        self.held.clear()
        if self.served is not None:
            self.served.stop()
            self.served = None

    def publish(self, toml: str) -> None:
        """Make these its policies."""
        parsed = parse_file(toml, "published.toml")
        assert parsed.problems == ()
        with self.database.transaction() as tx:
            publish(tx, self.organization, [each for each, _ in parsed.policies])

    def ledger(self) -> list[UsageEventRow]:
        """Every event it has, in its order."""
        with self.database.reading() as tx:
            rows = list(tx.session.exec(select(UsageEventRow).order_by("seq")))
            tx.session.expunge_all()
        return rows

    def await_ledger(self, events: int) -> list[UsageEventRow]:
        """Wait until it has so many events; no more may be there."""
        wait_for(lambda: len(self.ledger()) >= events, f"{events} events in the ledger")
        rows = self.ledger()
        assert len(rows) == events
        return rows

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        heard = Heard(scope["path"], scope["headers"])
        self.heard.append(heard)
        assert self.served is not None
        open_now = len(self.served.server.server_state.connections)
        self.connections_max = max(self.connections_max, open_now)

        async def hearing() -> Message:
            message = await receive()
            heard.body += message.get("body", b"")
            return message

        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._wait(heard.path)
                self.answered[heard.path, message["status"]] += 1
            await send(message)

        if heard.path in self.broken:
            status, content = self.broken[heard.path]
            await answering({"type": "http.response.start", "status": status, "headers": []})
            await answering({"type": "http.response.body", "body": content})
        elif heard.path == EVENTS_PATH and self.lost_answers:
            self.lost_answers -= 1
            await self._api(scope, hearing, _nowhere)
            while (await receive())["type"] != "http.disconnect":
                pass
        else:
            await self._api(scope, hearing, answering)

    async def _wait(self, path: str) -> None:
        self.waiting[path] += 1
        try:
            while path in self.held:  # noqa: ASYNC110 - another thread changes it
                await asyncio.sleep(0.005)
        finally:
            self.waiting[path] -= 1


async def _nowhere(_: Message) -> None:
    """An answer that does not arrive."""


@pytest.fixture
def peer(tmp_path: Path, sqlite_template: bytes) -> Iterator[Peer]:
    """A UsageFlow server that listens, over a database of its own."""
    path = tmp_path / "peer.db"
    path.write_bytes(sqlite_template)
    database = Database.open(f"sqlite:///{path}")
    with database.transaction() as tx:
        organization = default_organization(tx)
        api_key = create_key(tx, organization, "edge", ["usage.write"]).secret
    peer = Peer(database, organization, api_key, free_port())
    peer.start()
    yield peer
    peer.stop()
    database.close()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Silent:
    """Accepts connections, reads what comes if it is told to, and never says a word."""

    def __init__(self, *, reads: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted: list[socket.socket] = []
        self.bytes_read = 0
        self._reads = reads
        self._stopping = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def settings(self) -> dict[str, Any]:
        """What an edge takes it for."""
        return {"server": f"http://127.0.0.1:{self.port}", "api_key": f"uf_live_{'0' * 48}"}

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.append(connection)
            if self._reads:
                reader = threading.Thread(target=self._read, args=(connection,), daemon=True)
                self._threads.append(reader)
                reader.start()

    def _read(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                self.bytes_read += len(data)

    def stop(self) -> None:
        """Close everything."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._listener.close()
        self._threads[0].join(PATIENCE_S)
        for connection in self.accepted:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(PATIENCE_S)
        for connection in self.accepted:
            connection.close()


@pytest.fixture
def silent() -> Iterator[Callable[..., Silent]]:
    """`silent(reads=True)`: a peer that accepts and never answers."""
    started: list[Silent] = []

    def start(*, reads: bool) -> Silent:
        started.append(Silent(reads=reads))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@dataclass
class Program:
    """A process of its own, and what it says; `{port}` in its command is where it listens."""

    process: subprocess.Popen[bytes]
    url: str
    out: bytes = b""
    err: bytes = b""

    def stop(self) -> None:
        """SIGTERM, and read what it said."""
        if self.process.poll() is None:
            self.process.terminate()
        self.out, self.err = self.process.communicate(timeout=PATIENCE_S)

    @property
    def peak_bytes(self) -> int:
        """The most memory it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """`program("uvicorn", ..., USAGEFLOW_SERVER=...)`: start `python -m uvicorn ...`; it listens.

    It runs in the test's directory, with nothing but these settings.
    """
    started: list[Program] = []

    def start(*command: str, **settings: str) -> Program:
        port = free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("USAGEFLOW_")}
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in command)],
            cwd=tmp_path,
            env=inherited | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(Program(process, f"http://127.0.0.1:{port}"))
        wait_for(lambda: process.poll() is not None or listens(port), "it listens")
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        return started[-1]

    yield start
    for each in started:
        each.stop()


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Kit:
    """What else the tests of this folder use."""

    policy: Callable[..., str] = policy
    wait_for: Callable[..., None] = wait_for
    read_spool: Callable[[Path], Iterator[bytes]] = read_spool
    events_path: str = EVENTS_PATH
    policies_path: str = POLICIES_PATH


@pytest.fixture
def kit() -> Kit:
    """See Kit."""
    return Kit()
