"""The rules of being well, and the questions that find out; asked of real servers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.proxy.health import HealthChecks, Standing
from usageflow.proxy.targets import Dialer, Target, look_up, parse_targets

Start = Callable[..., Awaitable[int]]
Ask = Callable[..., Awaitable[str | None]]


# The rules


def standing(**settings: Any) -> Standing:
    """A target of which nothing is known yet."""
    return Standing(Settings(**settings))


def test_failures_in_a_row() -> None:
    """So many failures without a success between them leave it out, fewer do not."""
    one = standing(upstream_failures_max=3)
    for _ in range(3):
        one.failed(0)
        one.failed(0)
        assert one.well
        assert not one.blameless
        one.succeeded()
        assert one.blameless
    for _ in range(3):
        one.failed(0)
    assert not one.well


def test_left_out_for_a_while() -> None:
    """It is due when its time is over; a failure begins the time anew, a success ends it."""
    one = standing(upstream_failures_max=1, upstream_failed_s=10)
    one.failed(100)
    assert (one.well, one.due(109.9), one.due(110)) == (False, False, True)
    one.leave_out(110)  # a request tries it now; no second one is sent along
    assert not one.due(110)
    one.failed(112)
    assert (one.due(121.9), one.due(122)) == (False, True)
    one.succeeded()
    assert (one.well, one.due(1000)) == (True, False)


def test_on_trial() -> None:
    """It is well until the next failure, however many were permitted before."""
    one = standing(upstream_failures_max=2, upstream_failed_s=10)
    one.failed(0)
    one.failed(0)
    one.on_trial()
    assert (one.well, one.blameless) == (True, False)
    one.failed(20)
    assert (one.well, one.due(29)) == (False, False)


def test_answers_in_a_row() -> None:
    """Only consecutive bad answers leave it out, only consecutive good ones bring it back."""
    one = standing(health_falls=2, health_rises=3)
    history = [False, True, False, False, True, True, False, True, True, True, True, False]
    seen = []
    for good in history:
        one.checked(good=good)
        seen.append(one.well)
    assert seen == [True] * 3 + [False] * 6 + [True] * 3


def test_both_must_be_content() -> None:
    """One that answers questions badly is not tried by requests, and the other way round."""
    one = standing(upstream_failures_max=1, upstream_failed_s=1, health_falls=1, health_rises=1)
    one.failed(0)
    one.checked(good=False)
    assert not one.due(10)
    one.succeeded()
    assert not one.well
    one.failed(0)
    one.checked(good=True)
    assert not one.well
    assert one.due(10)
    one.succeeded()
    assert one.well


@given(st.lists(st.sampled_from(["succeeded", "failed", "good", "bad"])))
def test_whatever_happened_before(history: list[str]) -> None:
    """A success and enough good answers bring it back; enough bad ones leave it out."""
    one = standing(upstream_failures_max=2, health_falls=3, health_rises=2)
    for event in history:
        match event:
            case "succeeded":
                one.succeeded()
            case "failed":
                one.failed(0)
            case _:
                one.checked(good=event == "good")
    one.succeeded()
    one.checked(good=True)
    one.checked(good=True)
    assert one.well
    for _ in range(3):
        assert one.well
        one.checked(good=False)
    assert not one.well


# The questions


def answering(data: bytes) -> Any:
    """A script that sends these bytes after a head, and closes."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(data)

    return script


def checks(item: str, tell: Callable[[Target, str | None], None], **settings: Any) -> HealthChecks:
    """The checks of one target."""
    chosen = Settings(upstream=item, **{"health_path": "/", **settings})
    dialers = [Dialer(target, timeout_s=5, resolve=look_up) for target in parse_targets(chosen)]
    return HealthChecks(chosen, dialers, tell)


@pytest.fixture
def ask(stack: AsyncExitStack) -> Ask:
    """The first verdict about a target."""

    async def first(item: str, **settings: Any) -> str | None:
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[str | None] = loop.create_future()
        asking = loop.create_task(
            checks(item, lambda _, complaint: verdict.set_result(complaint), **settings).run()
        )
        stack.callback(asking.cancel)
        return await verdict

    return first


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
        (b"HTTP/1.0 204 \r\n\r\n" + 100_000 * b"x", None),
        (b"HTTP/1.1 302 Found\r\n\r\n", None),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answer 'HTTP/1.1 404'"),
        (b"HTTP/1.1 503 Wait\r\n\r\n", "answer 'HTTP/1.1 503'"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "answer 'HTTP/2.0 200'"),
        (b"SSH-2.0\r\n\xff and more", "answer 'SSH-2.0\\r\\n\u00ff a'"),
        (b"HTTP/1.1 20", "answer 'HTTP/1.1 20'"),
        (b"", "answer ''"),
    ],
)
async def test_verdicts(answer: bytes, complaint: str | None, upstream: Start, ask: Ask) -> None:
    """2xx and 3xx are good; everything else is told as it came, made harmless for a log."""
    assert await ask(f"http://127.0.0.1:{await upstream(answering(answer))}") == complaint


@pytest.mark.anyio
async def test_no_connection_and_no_answer(upstream: Start, ask: Ask) -> None:
    """A target that refuses, or is silent for too long, is not well."""

    async def silent(wire: Any) -> None:
        await wire.gone()

    port = await upstream(silent)
    assert await ask(f"http://127.0.0.9:{port}") == "no connection"
    verdict = await ask(f"http://127.0.0.1:{port}", health_timeout_s=0.05)
    assert verdict == "no answer within 0.05 s"


@pytest.mark.anyio
async def test_the_question(upstream: Start, ask: Ask) -> None:
    """A GET of the path, to the target's own name or the one that is set for all requests."""
    heads: list[bytes] = []

    async def listen(wire: Any) -> None:
        heads.append(await wire.head())
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")

    item = f"http://127.0.0.1:{await upstream(listen)}"
    await ask(item, health_path="/up?full=1")
    await ask(item, upstream_host="upstream")
    await ask(item, upstream_host="api.example")
    assert heads[0].startswith(b"GET /up?full=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert heads[1].startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:")
    assert heads[2].startswith(b"GET / HTTP/1.1\r\nHost: api.example\r\n")
    assert all(b"\r\nConnection: close\r\n" in head for head in heads)


@pytest.mark.anyio
async def test_a_unix_socket(ask: Ask, tmp_path: Path, stack: AsyncExitStack) -> None:
    """A target behind a unix socket is asked there."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"\r\nHost: localhost\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    stack.callback((await asyncio.start_unix_server(serve, tmp_path / "api.sock")).close)
    assert await ask(f"unix:{tmp_path}/api.sock") is None


@pytest.mark.anyio
async def test_again_and_again(upstream: Start) -> None:
    """All targets are asked at each interval; a mute one does not keep the others from it."""

    async def silent(wire: Any) -> None:
        await wire.gone()

    good = f"http://127.0.0.1:{await upstream(answering(b'HTTP/1.1 200 OK'))}"
    mute = f"http://127.0.0.1:{await upstream(silent)}"
    verdicts: list[tuple[str, str | None]] = []
    enough = asyncio.Event()

    def tell(target: Target, complaint: str | None) -> None:
        verdicts.append((target.name, complaint))
        if len(verdicts) == 4:
            enough.set()

    asking = asyncio.get_running_loop().create_task(
        checks(f"{mute},{good}", tell, health_interval_s=0.01, health_timeout_s=0.05).run()
    )
    await enough.wait()
    asking.cancel()
    assert verdicts == 2 * [(good, None), (mute, "no answer within 0.05 s")]


@pytest.mark.parametrize("path", ["health", "/a b", "/\r\nX: y", "/\u00fc", "http://a/"])
def test_paths_that_are_none(path: str) -> None:
    """What could not stand in a request line is refused at the start."""
    with pytest.raises(ConfigurationError, match="USAGEFLOW_HEALTH_PATH"):
        checks("http://a", lambda _target, _complaint: None, health_path=path)
