"""One app, with the middleware around it and without, under both of uvicorn's HTTP protocols.

Every request is sent to both over real sockets. The app answers with a digest of what it saw, so
that equal answers mean an equal request as well.
"""

import asyncio
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from usageflow import UsageFlowMiddleware
from usageflow._types import Receive, Scope, Send
from usageflow.events import UsageEvent, decode
from usageflow.recorder import read_spool

SECRET = "s" * 32
POLICY = """
[[policy]]
name = "{name}"
match = "{match}"
identify = [ {source} ]
field = "account_id"
metric = "CALL"
quantity = {quantity}
when = "request"
"""
HEADER = '{ from = "header", name = "x-account" }'
SOURCES = {
    "header": ("ANY /header", HEADER),
    "query": ("ANY /query", '{ from = "query", name = "account" }'),
    "path": ("ANY /path/:account", '{ from = "path", name = "account" }'),
    "body": ("ANY /body", '{ from = "body", path = "account" }'),
    "cookie": ("ANY /cookie", '{ from = "cookie", name = "account" }'),
    "token": ("ANY /token", '{ from = "jwt", claim = "sub", secret = "env:BAD_INPUT_SECRET" }'),
    "key": (
        "ANY /key",
        f'{{ from = "api_key", header = "x-api-key", owners = {{ "{"a" * 64}" = "acct_1" }} }}',
    ),
    "hashed": (
        "ANY /hashed",
        '{ from = "api_key", header = "x-api-key", secret = "env:BAD_INPUT_SECRET" }',
    ),
    "state": ("ANY /state", '{ from = "metadata", name = "tenant" }'),
    "table": (
        "ANY /table",
        '{ from = "metadata", header = "x-account", table = { "acct_1" = "one" } }',
    ),
}
QUANTITIES = {
    "asked": "request.body.n",
    "answered": "response.body.n",
    "searched": "sum(response.body.items[].n)",
    "parameters": "length(keys(request.query))",
    "headers": "length(keys(request.headers))",
    "sized": "add(request.bytes, response.bytes)",
}
POLICIES = "".join(
    [
        *(
            POLICY.format(name=name, match=match, source=source, quantity=1)
            for name, (match, source) in SOURCES.items()
        ),
        *(
            POLICY.format(name=name, match=f"ANY /{name}", source=HEADER, quantity=f'"{text}"')
            for name, text in QUANTITIES.items()
        ),
    ]
)
PATIENCE_S = 30.0
READ_BYTES = 1 << 20
ACCOUNT = (b"x-account", b"acct_1")
Answer = tuple[list[tuple[bytes, bytes]], Callable[[], Iterable[bytes]]]
"""Headers, and a function that gives the chunks."""


class App:
    """Reads all of a request and answers with a digest of it, or with what is set for its path."""

    def __init__(self) -> None:
        self.answers: dict[
            str, tuple[list[tuple[bytes, bytes]], Callable[[], Iterable[bytes]]]
        ] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        seen = hashlib.sha256()
        for part in (scope["method"].encode(), scope["raw_path"], scope["query_string"]):
            seen.update(part + b"\0")
        for name, value in scope["headers"]:
            seen.update(name + b":" + value + b"\0")
        start = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            seen.update(message.get("body", b""))
            start = start or message.get("body", b"")[:20_000]
            if not message.get("more_body", False):
                break
        if scope["path"] == "/state":
            scope["state"] = {"tenant": json.loads(start)}
        digest = json.dumps({"n": 1, "seen": seen.hexdigest()}).encode()
        headers, chunks = self.answers.get(scope["path"], ([], lambda: [digest]))
        headers = [(b"x-seen", seen.hexdigest().encode()), *headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})


class Site:
    """The app with and without the middleware, both served by uvicorn on one event loop."""

    def __init__(self, http: Any, directory: Path) -> None:
        self.app = App()
        self.spool = directory / "spool"
        (directory / "policies.toml").write_text(POLICIES)
        self.metered = UsageFlowMiddleware(
            self.app, policies=directory / "policies.toml", spool_dir=self.spool
        )
        self._known: set[str] = set()
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.plain_port, self.metered_port = (
            listener.getsockname()[1] for listener in self._listeners
        )
        self._servers = [
            uvicorn.Server(
                uvicorn.Config(
                    app,
                    http=http,
                    ws="none",
                    lifespan="off",
                    log_config=None,
                    date_header=False,
                    h11_max_incomplete_event_size=READ_BYTES,
                )
            )
            for app in (self.app, self.metered)
        ]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()

    async def _serve(self) -> None:
        await asyncio.gather(
            *(
                server.serve([listener])
                for server, listener in zip(self._servers, self._listeners, strict=True)
            )
        )

    def ask(
        self,
        target: bytes | str,
        *headers: tuple[bytes, bytes],
        body: bytes = b"",
        length: int | None = None,
        events: int = 1,
        leave: bool = False,
    ) -> tuple[bytes, list[UsageEvent]]:
        """What the metered app answers to this request, and the events that it leaves.

        The app alone answers the same. `length` may be a lie; who leaves ends its side at once.
        """
        sent = [request(target, *headers, length=len(body) if length is None else length), body]
        alone = talk(self.plain_port, sent, leave=leave)
        answer = talk(self.metered_port, sent, leave=leave)
        assert answer == alone
        return answer, self.events(events)

    def answers(
        self,
        *chunks: bytes,
        headers: Iterable[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),),
        path: str = "/answered",
    ) -> tuple[bytes, UsageEvent]:
        """What the client gets of an answer of these chunks, and its event."""
        self.app.answers[path] = (list(headers), lambda: chunks)
        answer, (event,) = self.ask(path, ACCOUNT)
        return answer, event

    def events(self, wanted: int) -> list[UsageEvent]:
        """The next events on disk; as many as are wanted, and no more."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = [decode(line) for line in read_spool(self.spool)] if self.spool.is_dir() else []
            new = [event for event in found if event.id not in self._known]
            if len(new) >= wanted:
                break
            assert time.monotonic() < deadline, "the event never came"
            time.sleep(0.005)
        assert len(new) == wanted
        self._known.update(event.id for event in new)
        return new

    def close(self) -> None:
        """Stop both."""
        for server in self._servers:
            server.should_exit = True
        self._thread.join(PATIENCE_S)
        self.metered.close()


def talk(port: int, request: Iterable[bytes], *, leave: bool = False) -> bytes:
    """All bytes that come back until the server closes; one that leaves ends its side at once."""
    received = []
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as wire,
        suppress(ConnectionError),  # a server may refuse before all was sent
    ):
        for part in request:
            wire.sendall(part)
        if leave:
            wire.shutdown(socket.SHUT_WR)
        while chunk := wire.recv(READ_BYTES):
            received.append(chunk)
    return b"".join(received)


def request(target: bytes | str, *headers: tuple[bytes, bytes], length: int) -> bytes:
    """The head of a request; its body follows."""
    lines = [b"host: api", b"connection: close", b"content-length: %d" % length]
    lines += [name + b": " + value for name, value in headers]
    path = target.encode() if isinstance(target, str) else target
    return b"POST " + path + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.fixture(scope="session", params=["h11", "httptools"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Both apps under one of uvicorn's protocols."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAD_INPUT_SECRET", SECRET)
        subject = Site(request.param, tmp_path_factory.mktemp("site"))
    yield subject
    subject.close()


@pytest.fixture(scope="session")
def head() -> Callable[..., bytes]:
    """Makes heads of requests."""
    return request


@pytest.fixture(scope="session")
def tables() -> dict[str, str]:
    """The policy of each identity source."""
    return {
        name: POLICY.format(name=name, match=match, source=source, quantity=1)
        for name, (match, source) in SOURCES.items()
    }
