"""The middleware: it holds the last message until its usage is durable, and is harmless."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from usageflow._types import Message, Receive, Scope, Send
from usageflow.config import Settings
from usageflow.errors import ConfigurationError, PolicyFileError
from usageflow.events import UsageEvent, decode
from usageflow.middleware import UsageFlowMiddleware
from usageflow.policies import PolicySet
from usageflow.recorder import read_spool


async def until_idle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def serve(app: UsageFlowMiddleware, client: Any, scope: Scope) -> list[UsageEvent]:
    """Run one connection to its end and return what was recorded."""
    asyncio.run(_call(app, scope, client))
    recorder: Any = app.meter.recorder
    return list(recorder.events)


async def _call(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], scope: Scope, client: Any
) -> None:
    await app(scope, client.receive, client.send)


CASES = {
    "final message": (["start", "a+", "b"], 2),
    "length": (["start2", "a+", "b+", "end"], 2),
    "204": (["start204", "end"], 0),
    "304": (["start304", "end"], 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_completing_message_waits_for_the_disk_and_nothing_else_does(
    kit: Any, case: str
) -> None:
    """All before passes at once; the one that completes the response passes when durable."""
    words, held = CASES[case]
    messages = [
        {
            "start": kit.start(),
            "start2": kit.start(200, (b"content-length", b"2")),
            "start204": kit.start(204),
            "start304": kit.start(304),
            "a+": kit.body(b"a", more=True),
            "b+": kit.body(b"b", more=True),
            "b": kit.body(b"b"),
            "end": kit.body(),
        }[word]
        for word in words
    ]
    toml = kit.calls + 'when = "response"\n'
    recorder, client = kit.ManualRecorder(at_once=False), kit.Client()
    app = kit.wrap(kit.answering(*messages), recorder, toml)

    async def scenario() -> None:
        task = asyncio.ensure_future(_call(app, kit.scope(), client))
        await until_idle()
        assert client.outgoing == messages[:held]
        assert len(recorder.events) == 1
        recorder.holds[0].set_result(True)
        await task
        assert client.outgoing == messages

    asyncio.run(scenario())


def test_a_head_response_is_held_at_its_start(kit: Any) -> None:
    """It has no body: the header block is the whole answer."""
    recorder, client = kit.ManualRecorder(at_once=False), kit.Client()
    app = kit.wrap(kit.answering(kit.start(200, (b"content-length", b"9")), kit.body()), recorder)

    async def scenario() -> None:
        task = asyncio.ensure_future(_call(app, kit.scope("HEAD"), client))
        await until_idle()
        assert client.outgoing == []
        recorder.holds[0].set_result(True)
        await task

    asyncio.run(scenario())
    assert len(client.outgoing) == 2


def test_relaxed_durability_records_without_waiting(kit: Any) -> None:
    """The event is queued; nobody waits for it."""
    recorder, client = kit.ManualRecorder(at_once=False), kit.Client()
    app = kit.wrap(kit.answering(kit.start(), kit.body()), recorder, durability="relaxed")
    (event,) = serve(app, client, kit.scope())
    assert event.identity.value == "acct_1"
    assert recorder.holds == []
    assert len(client.outgoing) == 2


def test_a_stalled_disk_lets_the_response_go(kit: Any) -> None:
    """A hold that ends with False is no error to the client."""
    recorder, client = kit.ManualRecorder(at_once=False), kit.Client()
    app = kit.wrap(kit.answering(kit.start(), kit.body(b"x")), recorder)

    async def scenario() -> None:
        task = asyncio.ensure_future(_call(app, kit.scope(), client))
        await until_idle()
        recorder.holds[0].set_result(False)
        await task

    asyncio.run(scenario())
    assert client.body == b"x"


def test_what_matches_no_policy_gets_the_servers_own_callables(kit: Any) -> None:
    """Untouched: neither wrapped nor slowed."""
    client = kit.Client()
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope, receive, send])

    subject = kit.wrap(app, kit.ManualRecorder())
    for scope in (kit.scope(path="/other"), kit.scope("POST"), {"type": "websocket"}):
        receive, send = client.receive, client.send
        asyncio.run(subject(scope, receive, send))
        assert seen == [scope, receive, send]
        seen.clear()
    assert subject.meter.recorder.events == []


def test_the_policy_sees_the_path_the_app_routes_on(kit: Any) -> None:
    """Under a root_path the app routes on the rest, and so do the policies."""
    app = kit.wrap(kit.answering(kit.start(), kit.body()), kit.ManualRecorder())
    serve(app, kit.Client(), kit.scope(path="/api/metered", root_path="/api"))
    serve(app, kit.Client(), kit.scope(path="/metered", root_path="/api"))
    serve(app, kit.Client(), kit.scope(path="/apimetered", root_path="/api"))
    assert [event.request_route for event in app.meter.recorder.events] == ["/metered"] * 2


def test_an_app_that_raises_is_not_billed_and_its_error_passes(kit: Any) -> None:
    """A 500 is no success."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("app")

    recorder = kit.ManualRecorder()
    with pytest.raises(ValueError, match="app"):
        asyncio.run(_call(kit.wrap(app, recorder), kit.scope(), kit.Client()))
    assert recorder.events == []


def test_a_500_that_the_policy_counts_is_durable_before_the_server_sends_it(kit: Any) -> None:
    """The error leaves the middleware only after the disk has its event."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("app")

    recorder = kit.ManualRecorder(at_once=False)
    subject = kit.wrap(app, recorder, kit.calls + 'when = "response"\n')

    async def scenario() -> None:
        task = asyncio.ensure_future(_call(subject, kit.scope(), kit.Client()))
        await until_idle()
        assert not task.done()
        recorder.holds[0].set_result(True)
        with pytest.raises(ValueError, match="app"):
            await task

    asyncio.run(scenario())
    assert recorder.events[0].request_status == 500


def test_an_app_that_raises_mid_stream_follows_on_abort(kit: Any) -> None:
    """`measured` counts what was delivered and says that it is incomplete."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(kit.start())
        await send(kit.body(b"x", more=True))
        raise ValueError("app")

    recorder = kit.ManualRecorder()
    with pytest.raises(ValueError, match="app"):
        asyncio.run(_call(kit.wrap(app, recorder), kit.scope(), kit.Client()))
    (event,) = recorder.events
    assert (event.state, event.quantity) == ("counted", 1)
    assert "ValueError" in event.reason


def test_an_error_after_the_response_settles_nothing_again(kit: Any) -> None:
    """A background task that fails after the end must not bill twice."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(kit.start())
        await send(kit.body(b"x"))
        raise ValueError("background")

    recorder = kit.ManualRecorder()
    with pytest.raises(ValueError, match="background"):
        asyncio.run(_call(kit.wrap(app, recorder), kit.scope(), kit.Client()))
    assert len(recorder.events) == 1


def test_a_client_that_leaves_mid_stream_is_recorded_as_such(kit: Any) -> None:
    """The app sees the disconnect and ends; the event carries the reason."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(kit.start())
        await send(kit.body(b"x", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass

    recorder, client = kit.ManualRecorder(at_once=False), kit.Client()
    client.incoming = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    asyncio.run(_call(kit.wrap(app, recorder), kit.scope(), client))
    (event,) = recorder.events
    assert event.state == "counted"
    assert "the client disconnected" in event.reason


def test_a_closed_policy_refuses_while_the_disk_fails(kit: Any) -> None:
    """503 with Retry-After before the app is called; an open one serves."""
    called: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope["path"])
        await send(kit.start())
        await send(kit.body())

    recorder, client = kit.ManualRecorder(healthy=False), kit.Client()
    closed = kit.wrap(app, recorder, kit.calls + 'on_ledger_failure = "closed"\n')
    asyncio.run(_call(closed, kit.scope(), client))
    assert client.outgoing[0]["status"] == 503
    assert (b"retry-after", b"5") in client.outgoing[0]["headers"]
    assert b"metering_unavailable" in client.body
    assert called == []
    asyncio.run(_call(kit.wrap(app, recorder), kit.scope(), client))
    assert called == ["/metered"]


def test_a_failing_recorder_is_logged_once_and_harms_nobody(
    kit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Our own bugs never reach the app or the client."""

    class Broken(kit.ManualRecorder):  # type: ignore[misc]
        def record(self, events: object, loop: object = None) -> None:
            raise RuntimeError("bug")

    app = kit.wrap(kit.answering(kit.start(), kit.body(b"x")), Broken())
    for _ in range(3):
        client = kit.Client()
        asyncio.run(_call(app, kit.scope(), client))
        assert client.body == b"x"
    assert caplog.text.count("metering failed in record") == 1


def test_a_failing_match_is_harmless_too(kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The request passes unmetered and the log says so."""
    app = kit.wrap(kit.answering(kit.start(), kit.body(b"x")), kit.ManualRecorder())
    app.meter.feed.current = None
    client = kit.Client()
    asyncio.run(_call(app, kit.scope(), client))
    assert client.body == b"x"
    assert "metering failed in match" in caplog.text


class _LateFeed:
    """A feed whose policies come when the test says so."""

    def __init__(self, policies: PolicySet) -> None:
        self.current = PolicySet.EMPTY
        self.loaded = False
        self.policies = policies
        self.started = 0

    def start(self) -> None:
        self.started += 1

    def wait_for_keys(self, timeout_s: float) -> None:
        """No keys."""

    def refresh(self) -> None:
        """Nothing comes sooner."""

    def close(self) -> None:
        pass

    def load(self) -> None:
        self.current, self.loaded = self.policies, True


def test_the_first_request_waits_for_the_first_policies(kit: Any) -> None:
    """No open window at start: the request is metered as soon as the policies are there."""
    feed = _LateFeed(kit.policy_set(kit.calls))
    recorder = kit.ManualRecorder()
    app = UsageFlowMiddleware(
        kit.answering(kit.start(), kit.body()), settings=Settings(), feed=feed, recorder=recorder
    )

    async def scenario() -> None:
        task = asyncio.ensure_future(_call(app, kit.scope(), kit.Client()))
        await asyncio.sleep(0.01)
        assert not task.done()
        feed.load()
        await task

    asyncio.run(scenario())
    assert feed.started
    assert len(recorder.events) == 1


def test_requests_before_any_policy_leave_a_row(kit: Any) -> None:
    """After the wait they are served unmetered, counted, and told once policies are there."""
    feed = _LateFeed(kit.policy_set(kit.calls))
    recorder = kit.ManualRecorder()
    app = UsageFlowMiddleware(
        kit.answering(kit.start(), kit.body()),
        settings=Settings(policy_wait_s=0.01),
        feed=feed,
        recorder=recorder,
    )
    for _ in range(3):
        asyncio.run(_call(app, kit.scope(), kit.Client()))
    assert recorder.events == []
    feed.load()
    asyncio.run(_call(app, kit.scope(), kit.Client()))
    gap, counted = recorder.events
    assert (gap.state, gap.quantity, counted.state) == ("gap", 3, "counted")


def test_requests_before_any_policy_leave_a_row_at_the_stop_too(kit: Any) -> None:
    """Also when policies never came."""
    recorder = kit.ManualRecorder()
    app = UsageFlowMiddleware(
        kit.answering(kit.start(), kit.body()),
        settings=Settings(policy_wait_s=0.01),
        feed=_LateFeed(PolicySet.EMPTY),
        recorder=recorder,
    )
    asyncio.run(_call(app, kit.scope(), kit.Client()))
    app.close()
    assert [event.state for event in recorder.events] == ["gap"]


def test_headers_given_as_an_iterator_reach_the_client(kit: Any) -> None:
    """ASGI allows any iterable; looking at it must not use it up."""
    message = kit.start()
    message["headers"] = iter([(b"set-cookie", b"a=1"), (b"content-length", b"0")])
    client = kit.Client()
    app = kit.wrap(kit.answering(message, kit.body()), kit.ManualRecorder())
    asyncio.run(_call(app, kit.scope(), client))
    assert list(client.outgoing[0]["headers"]) == [
        (b"set-cookie", b"a=1"),
        (b"content-length", b"0"),
    ]


def lifespan_app(log: list[str], state: dict[str, object]) -> Any:
    """An app with a lifespan of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"].update(state)
        assert (await receive())["type"] == "lifespan.startup"
        log.append("startup")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        log.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    return app


def test_the_apps_own_lifespan_is_left_alone_and_the_spool_is_drained(kit: Any) -> None:
    """The drain comes after the app's shutdown and before the server hears that it is complete."""
    log: list[str] = []

    class Logging(kit.ManualRecorder):  # type: ignore[misc]
        def close(self, ship_s: float | None = None) -> None:
            log.append("drained")

    recorder, client = Logging(), kit.Client()
    client.incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    scope: Message = {"type": "lifespan", "state": {}}
    asyncio.run(_call(kit.wrap(lifespan_app(log, {"db": 1}), recorder), scope, client))
    assert log == ["startup", "shutdown", "drained"]
    assert recorder.started == 1
    assert scope["state"] == {"db": 1}
    assert [message["type"] for message in client.outgoing] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_the_options_build_what_they_name(policy_file: Path, tmp_path: Path, kit: Any) -> None:
    """Three lines: policies from a file, events in the spool directory."""
    app = UsageFlowMiddleware(
        kit.answering(kit.start(), kit.body()),
        policies=policy_file,
        spool_dir=tmp_path / "spool",
    )
    asyncio.run(_call(app, kit.scope(), kit.Client()))
    asyncio.run(app.aclose())
    (line,) = read_spool(tmp_path / "spool")
    assert decode(line).policy == "calls"


def test_the_environment_says_what_the_call_does_not(
    policy_file: Path, tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """USAGEFLOW_POLICIES, USAGEFLOW_SPOOL_DIR, USAGEFLOW_DURABILITY."""
    monkeypatch.setenv("USAGEFLOW_POLICIES", str(policy_file))
    monkeypatch.setenv("USAGEFLOW_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("USAGEFLOW_DURABILITY", "relaxed")
    app = UsageFlowMiddleware(kit.answering(kit.start(), kit.body()))
    asyncio.run(_call(app, kit.scope(), kit.Client()))
    app.close()
    assert len(list(read_spool(tmp_path / "spool"))) == 1


def test_no_policies_at_all_is_told_at_start(kit: Any) -> None:
    """With the two ways to mend it."""
    with pytest.raises(ConfigurationError, match="no policies: set server and api_key"):
        UsageFlowMiddleware(kit.answering())


def test_a_malformed_policy_file_is_told_at_start(tmp_path: Path, kit: Any) -> None:
    """With file, line and column."""
    path = tmp_path / "policies.toml"
    path.write_text("[[policy]\n")
    with pytest.raises(PolicyFileError, match=r"policies\.toml:1"):
        UsageFlowMiddleware(kit.answering(), policies=path)
