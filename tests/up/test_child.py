"""A child: started, kept running, stopped."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from usageflow.errors import UsageFlowError
from usageflow.up import child as module
from usageflow.up.child import Child, Program, accepts, reachable

MakeProgram = Callable[..., Program]


async def notes(folder: Path, count: int) -> list[str]:
    """What the children noted, once there are so many lines."""
    async with asyncio.timeout(30):
        while True:
            file = folder / "notes"
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) >= count:
                return lines
            await asyncio.sleep(0.02)


def pid(child: Child) -> int:
    """Of the process that runs."""
    assert child._process is not None
    return child._process.pid


def test_it_is_started_once_it_listens_and_stops(folder: Path, program: MakeProgram) -> None:
    """In its environment, with what is added; afterwards nobody listens."""

    async def talk() -> None:
        made = program("one")
        child = Child(made)
        await child.start({"USAGEFLOW_API_KEY": "uf"})
        assert await accepts(made.listen)
        child.signal(signal.SIGHUP)
        assert await notes(folder, 2) == ["one started uf", "one reloads"]
        await child.stop()
        assert not await accepts(made.listen)
        child.signal(signal.SIGHUP)  # of no effect
        await child.stop()
        assert (await notes(folder, 3))[2:] == ["one ended"]

    asyncio.run(talk())


def test_ctrl_c_is_not_for_the_child(program: MakeProgram) -> None:
    """It reaches a whole process group; the child has its own and is stopped in order."""

    async def talk() -> None:
        child = Child(program("one"))
        await child.start()
        assert os.getpgid(pid(child)) != os.getpgid(0)
        await child.stop()

    asyncio.run(talk())


def test_one_that_ends_at_once_is_an_error(program: MakeProgram) -> None:
    """Its own message is on the same standard error; waiting for its port would be in vain."""

    async def talk() -> None:
        child = Child(program("server", code="raise SystemExit(1)"))
        with pytest.raises(UsageFlowError, match="the server did not start; it says why above"):
            await child.start()
        await child.stop()

    asyncio.run(talk())


def test_one_that_never_listens_is_given_up(
    program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded, and it can be stopped."""
    monkeypatch.setattr(module, "START_S_MAX", 0.2)

    async def talk() -> None:
        child = Child(program("proxy", code="import time; time.sleep(60)"))
        with pytest.raises(UsageFlowError, match="the proxy does not listen on"):
            await child.start()
        await child.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid(child), 0)

    asyncio.run(talk())


def test_one_that_does_not_end_is_killed(
    program: MakeProgram, caplog: pytest.LogCaptureFixture
) -> None:
    """After its own time, and the log says so."""

    async def talk() -> None:
        made = program("proxy", "stubborn", stop_s_max=0.1)
        child = Child(made)
        await child.start()
        await child.stop()
        assert not await accepts(made.listen)

    asyncio.run(talk())
    assert caplog.messages == ["the proxy did not end within 0 s and is killed"]


def test_one_that_crashes_is_started_again_and_again(
    folder: Path,
    program: MakeProgram,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the same environment, after pauses that double; a steady run begins with the first."""
    monkeypatch.setattr(module, "RESTART_S", 0.01)
    monkeypatch.setattr(module, "RESTART_S_MAX", 0.04)

    async def talk() -> None:
        child = Child(program("one"))
        await child.start({"USAGEFLOW_API_KEY": "uf"})
        keeping = asyncio.ensure_future(child.keep())
        for count in range(1, 5):
            assert await notes(folder, count) == ["one started uf"] * count
            os.kill(pid(child), signal.SIGKILL)
        await notes(folder, 5)
        monkeypatch.setattr(module, "STEADY_S", 0.0)
        os.kill(pid(child), signal.SIGKILL)
        await notes(folder, 6)
        keeping.cancel()
        await child.stop()

    with caplog.at_level(logging.ERROR):
        pauses: list[object] = []
        monkeypatch.setattr(
            module.log, "error", lambda _, *what: pauses.append((what[1], what[-1]))
        )
        asyncio.run(talk())
    assert pauses == [("signal 9", s) for s in (0.01, 0.02, 0.04, 0.04, 0.01)]


def test_a_start_that_fails_for_a_while_is_tried_again(
    folder: Path,
    program: MakeProgram,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No memory or no processes: the other child goes on meanwhile, and so does this one then."""
    monkeypatch.setattr(module, "RESTART_S", 0.01)
    spawn = asyncio.create_subprocess_exec

    async def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn)
        raise BlockingIOError("Resource temporarily unavailable")

    async def talk() -> None:
        child = Child(program("one"))
        await child.start()
        monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
        keeping = asyncio.ensure_future(child.keep())
        os.kill(pid(child), signal.SIGKILL)
        await notes(folder, 2)
        keeping.cancel()
        await child.stop()

    asyncio.run(talk())
    assert "cannot start the one: Resource temporarily unavailable" in caplog.messages


def test_unix_sockets_and_wildcards(tmp_path: Path) -> None:
    """Where a proxy may listen, and how this machine reaches it."""
    path = tmp_path / "a.sock"
    assert not asyncio.run(accepts(f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert asyncio.run(accepts(f"unix:{path}"))
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        assert asyncio.run(accepts(f"0.0.0.0:{everywhere.getsockname()[1]}"))
    assert [reachable(host) for host in ("::", "10.0.0.1")] == ["::1", "10.0.0.1"]
