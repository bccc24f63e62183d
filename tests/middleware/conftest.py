"""A hand-driven ASGI server and a recorder whose disk obeys the test."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from usageflow._types import ASGIApp, Message, Scope
from usageflow.config import Settings
from usageflow.events import UsageEvent
from usageflow.middleware import FixedFeed, UsageFlowMiddleware
from usageflow.policies import PolicySet, parse_file
from usageflow.recorder import Hold, Recorder

CALLS = """
[[policy]]
name = "calls"
match = "GET /metered"
identify = [ { from = "header", name = "x-account" } ]
field = "account_id"
metric = "API_CALL"
"""


@dataclass
class ManualRecorder:
    """Records into a list; the disk is done when the test says so."""

    events: list[UsageEvent] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    healthy: bool = True
    at_once: bool = True
    started: int = 0
    closed: int = 0

    def start(self) -> None:
        """Count the starts."""
        self.started += 1

    def close(self, ship_s: float | None = None) -> None:
        """Count the closes."""
        self.closed += 1

    def record(
        self, events: Sequence[UsageEvent], loop: asyncio.AbstractEventLoop | None = None
    ) -> Hold | None:
        """See Recorder.record."""
        self.events.extend(events)
        if loop is None:
            return None
        hold = Hold(loop, 5)
        if self.at_once:
            hold.set_result(True)
        self.holds.append(hold)
        return hold


@dataclass
class Client:
    """The server's side of one ASGI connection: what it gives the app and what it got."""

    incoming: list[Message] = field(default_factory=list)
    outgoing: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        """The next message, then nothing for ever."""
        if self.incoming:
            return self.incoming.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        """Keep what the app sends."""
        self.outgoing.append(message)

    @property
    def body(self) -> bytes:
        """The response body so far."""
        return b"".join(message.get("body", b"") for message in self.outgoing)


def scope(
    method: str = "GET",
    path: str = "/metered",
    headers: Iterable[tuple[bytes, bytes]] = ((b"x-account", b"acct_1"),),
    **more: Any,
) -> Scope:
    """An HTTP scope as uvicorn builds it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        **more,
    }


def policy_set(toml: str) -> PolicySet:
    """The policies of a TOML text, all of which must be valid."""
    parsed = parse_file(toml, "test.toml")
    assert parsed.problems == ()
    return PolicySet.build(parsed.policies)


def wrap(
    app: ASGIApp, recorder: ManualRecorder, toml: str = CALLS, **options: Any
) -> UsageFlowMiddleware:
    """The middleware with fixed policies and a manual recorder around `app`."""
    return UsageFlowMiddleware(
        app,
        settings=Settings(**options),
        feed=FixedFeed(policy_set(toml)),
        recorder=cast("Recorder", recorder),
    )


def answering(*messages: Message) -> ASGIApp:
    """An app that sends these messages."""

    async def app(scope: Scope, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> Message:
    """A response start message."""
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(content: bytes = b"", *, more: bool = False) -> Message:
    """A response body message."""
    return {"type": "http.response.body", "body": content, "more_body": more}


@dataclass(frozen=True)
class Kit:
    """Everything above, for the tests."""

    ManualRecorder: type[ManualRecorder] = ManualRecorder
    Client: type[Client] = Client
    calls: str = CALLS
    scope: Callable[..., Scope] = scope
    wrap: Callable[..., UsageFlowMiddleware] = wrap
    answering: Callable[..., ASGIApp] = answering
    start: Callable[..., Message] = start
    body: Callable[..., Message] = body
    policy_set: Callable[[str], PolicySet] = policy_set


@pytest.fixture
def kit() -> Kit:
    """The tools of this folder."""
    return Kit()


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """A policy file with one policy."""
    path = tmp_path / "policies.toml"
    path.write_text(CALLS)
    return path
