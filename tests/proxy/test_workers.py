"""Several workers: real processes that are killed, reloaded, stopped and left alone."""

import asyncio
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import pytest

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.proxy.listening import Listening
from usageflow.proxy.workers import Workers

Process = asyncio.subprocess.Process
Dial = Callable[[int], Awaitable[Any]]
Upstream = Callable[..., Awaitable[int]]

PATIENCE_S = 20.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\nX-Account-Id: acct_1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POLICIES = """
[[policy]]
name = "calls"
match = "ANY /{rest:path}"
identify = [{ from = "header", name = "x-account-id" }]
field = "account_id"
metric = "API_CALL"
"""


class Running(NamedTuple):
    """A proxy of several processes, its port, and the lines of its log."""

    parent: Process
    port: int
    log: list[str]

    def workers(self) -> list[int]:
        """The processes that the parent has started."""
        pid = self.parent.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    async def ended(self) -> int:
        """The status of the parent."""
        return await asyncio.wait_for(self.parent.wait(), PATIENCE_S)


Spawn = Callable[..., Awaitable[Running]]


async def read_log(stream: asyncio.StreamReader, lines: list[str]) -> None:
    """Keep what it says, so that it never waits for a reader."""
    while line := await stream.readline():
        lines.append(line.decode())


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs, which may be nobody's child any more."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    """Run `usageflow proxy` with two workers to an upstream on a port; returns once they serve."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    started: list[Running] = []
    readers: list[asyncio.Task[None]] = []
    seen: set[int] = set()

    async def start(upstream_port: int, *options: str, **env: str) -> Running:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "usageflow", "proxy", "--workers", "2"),
            *("--upstream", f"http://127.0.0.1:{upstream_port}", "--listen", "127.0.0.1:0"),
            *("--policies", str(tmp_path / "policies.toml")),
            *("--spool-dir", str(tmp_path / "spool"), *options),
            stderr=subprocess.PIPE,
            env=os.environ | {"USAGEFLOW_CLIENT_LINGER_S": "0.2"} | env,  # clients here stay
        )
        log: list[str] = []
        started.append(Running(process, 0, log))
        assert process.stderr is not None
        readers.append(asyncio.get_running_loop().create_task(read_log(process.stderr, log)))
        await until(lambda: any("serving " in line for line in log) or readers[-1].done())
        served = re.search(r"serving http://127.0.0.1:(\d+)", "".join(log))
        assert served is not None, "".join(log)
        running = Running(process, int(served[1]), log)
        seen.update(running.workers())
        return running

    yield start
    for running in started:
        if running.parent.returncode is None:
            seen.update(running.workers())
            running.parent.kill()
        await running.parent.wait()
    for pid in filter(alive, seen):
        os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(asyncio.gather(*readers), PATIENCE_S)


async def answer_all(wire: Any) -> None:
    """An upstream that answers every request."""
    while True:
        await wire.head()
        await wire.send(OK)


async def ask(wire: Any) -> bool:
    """Whether a request on this connection is answered."""
    try:
        await wire.send(GET)
        assert (await wire.head()).startswith(b"HTTP/1.1 200")
        assert await wire.exactly(2) == b"ok"
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return True


def spooled(tmp_path: Path) -> int:
    """How many events are in the spool."""
    command = (sys.executable, "-m", "usageflow", "spool", str(tmp_path / "spool"), "--json")
    return len(subprocess.run(command, capture_output=True, check=True).stdout.splitlines())


@pytest.mark.anyio
async def test_a_killed_worker_is_replaced_while_the_others_serve(
    upstream: Upstream, dial: Dial, spawn: Spawn, tmp_path: Path
) -> None:
    """Connections are spread; with -9 those of one are lost, and no new one is ever refused.

    No event is lost either, and the admin port's totals go on where they were.
    """
    with Listening.bind("127.0.0.1:0") as free:
        admin_port = free.address.port
    proxy = await spawn(await upstream(answer_all), "--admin-listen", f"127.0.0.1:{admin_port}")

    async def counted(requests: int) -> bool:
        await asyncio.sleep(0.4)  # workers tell their figures a few times a second
        wire = await dial(admin_port)
        await wire.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        return b'requests_total{status="2xx"} %d\n' % requests in await wire.rest()

    wires = [await dial(proxy.port) for _ in range(24)]
    assert all([await ask(wire) for wire in wires])
    assert await counted(24)
    first, second = proxy.workers()
    os.kill(first, signal.SIGKILL)
    kept = sum([await ask(wire) for wire in wires])
    assert 0 < kept < 24
    new = [await dial(proxy.port) for _ in range(24)]
    assert all([await ask(wire) for wire in new])
    assert second in proxy.workers()
    assert len(proxy.workers()) == 2
    assert f"(process {first}) ended with status -9" in "".join(proxy.log)
    assert await counted(48 + kept)
    proxy.parent.terminate()
    assert await proxy.ended() == 0
    assert spooled(tmp_path) == 48 + kept


@pytest.mark.anyio
async def test_a_stop_waits_for_all_workers(
    upstream: Upstream, dial: Dial, spawn: Spawn, tmp_path: Path
) -> None:
    """Each answers what it has, writes its usage, and ends; nobody can connect meanwhile."""
    go = asyncio.Event()
    asked: list[None] = []

    async def slow(wire: Any) -> None:
        await wire.head()
        asked.append(None)
        await go.wait()
        await wire.send(OK)

    proxy = await spawn(await upstream(slow))
    wires = [await dial(proxy.port) for _ in range(12)]
    for wire in wires:
        await wire.send(GET)
    await until(lambda: len(asked) == len(wires))
    workers = proxy.workers()
    proxy.parent.terminate()
    await asyncio.sleep(0.5)
    with pytest.raises(ConnectionRefusedError):
        await dial(proxy.port)
    go.set()
    for wire in wires:
        assert (await wire.head()).startswith(b"HTTP/1.1 200")
    assert await proxy.ended() == 0
    assert not any(map(alive, workers))
    assert spooled(tmp_path) == len(wires)
    log = "".join(proxy.log)
    assert "stopping: 2 workers, at most 15 s\n" in log
    assert len(re.findall(r"stopping: \d+ connections, at most 10 s\n", log)) == 2
    assert len(re.findall(r"stopped: it took [\d.]+ s\n", log)) == 2
    assert log.endswith("stopped: all workers have ended\n")


@pytest.mark.anyio
async def test_usage_that_no_disk_took_is_a_bad_end_of_all(
    upstream: Upstream, dial: Dial, spawn: Spawn
) -> None:
    """The worker that served a request while its disk was full tells it, and all end with 1."""
    proxy = await spawn(await upstream(answer_all))
    for pid in proxy.workers():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
    wire = await dial(proxy.port)
    await wire.send(GET)
    assert (await wire.head()).startswith(b"HTTP/1.1 200")
    proxy.parent.terminate()
    assert await proxy.ended() == 1
    await until(lambda: "all workers have ended" in "".join(proxy.log))
    assert "".join(proxy.log).count("1 events could not be written and are lost") == 1
    # Not just any: where coverage is measured, it cannot write its own file either.
    assert not re.search(r"usageflow/(cli|middleware|proxy|recorder)/", "".join(proxy.log))


@pytest.mark.anyio
async def test_workers_end_with_their_parent(upstream: Upstream, dial: Dial, spawn: Spawn) -> None:
    """A parent killed with -9: they notice, answer what they have, and end."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(wire: Any) -> None:
        await wire.head()
        asked.set()
        await go.wait()
        await wire.send(OK)

    proxy = await spawn(await upstream(slow))
    workers = proxy.workers()
    wire = await dial(proxy.port)
    await wire.send(GET)
    await asked.wait()
    proxy.parent.kill()
    await until(lambda: sum(map(alive, workers)) == 1)
    go.set()
    assert (await wire.head()).startswith(b"HTTP/1.1 200")
    await until(lambda: not any(map(alive, workers)))


@pytest.mark.anyio
async def test_a_second_signal_ends_all_at_once(
    upstream: Upstream, dial: Dial, spawn: Spawn
) -> None:
    """The parent ends by it and leaves nobody behind."""
    asked = asyncio.Event()

    async def silent(wire: Any) -> None:
        await wire.head()
        asked.set()
        await wire.gone()

    proxy = await spawn(await upstream(silent))
    workers = proxy.workers()
    wire = await dial(proxy.port)
    await wire.send(GET)
    await asked.wait()
    proxy.parent.terminate()
    await asyncio.sleep(0.3)
    proxy.parent.terminate()
    assert await proxy.ended() == -signal.SIGTERM
    await until(lambda: not any(map(alive, workers)))


@pytest.mark.anyio
async def test_all_reload_and_one_that_cannot_start_is_tried_again(
    upstream: Upstream, dial: Dial, spawn: Spawn, tmp_path: Path
) -> None:
    """SIGHUP reaches each; a successor that finds bad policies is told of until they are good."""
    proxy = await spawn(await upstream(answer_all), USAGEFLOW_POLICY_POLL_S="1000")
    policies = tmp_path / "policies.toml"
    policies.write_text(POLICIES.replace("API_CALL", "OTHER_CALL"))
    proxy.parent.send_signal(signal.SIGHUP)
    await until(lambda: "".join(proxy.log).count("policies in force") == 4)
    policies.write_text("[[policy")
    os.kill(proxy.workers()[0], signal.SIGKILL)
    await until(lambda: "cannot serve: " in "".join(proxy.log))
    policies.write_text(POLICIES)
    await until(lambda: "".join(proxy.log).count("policies in force") == 5)
    wires = [await dial(proxy.port) for _ in range(12)]
    assert all([await ask(wire) for wire in wires])


SETTINGS = Settings(upstream="http://127.0.0.1:9", workers=2, drain_timeout_s=0.1)
DEAF = "import socket, time; socket.socket(fileno=0).sendall(b'{}\\n'); time.sleep(60)"
"""A worker that says that it serves, and hears nothing."""
SLOW = "import sys; sys.stdin.read()"
"""A worker that is told to stop before it serves."""


@pytest.fixture
def together() -> Iterator[Callable[[str], Workers]]:
    """Workers whose processes are a Python program."""
    with Listening.bind("127.0.0.1:0", 2) as listening, TemporaryFile() as figures:
        os.set_inheritable(figures.fileno(), True)

        def make(*command: str) -> Workers:
            return Workers(SETTINGS, listening, figures.fileno(), command)

        yield make


@pytest.mark.anyio
async def test_a_worker_that_does_not_end_is_killed(
    together: Callable[..., Workers],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After `drain_timeout_s` and a grace; its events are on disk, and the next start has them."""
    monkeypatch.setattr("usageflow.proxy.workers.GRACE_S", 0.1)
    caplog.set_level(logging.INFO)
    workers = together(sys.executable, "-c", DEAF)
    running = asyncio.get_running_loop().create_task(workers.run())
    await until(lambda: "serving http://" in caplog.text)
    workers.stop()
    await asyncio.wait_for(running, PATIENCE_S)
    assert caplog.text.count("is killed") == 2


@pytest.mark.anyio
async def test_a_stop_does_not_wait_for_a_start(
    together: Callable[..., Workers], caplog: pytest.LogCaptureFixture
) -> None:
    """The first worker is told to stop before it serves, and the second is not started."""
    caplog.set_level(logging.INFO)
    workers = together(sys.executable, "-c", SLOW)
    running = asyncio.get_running_loop().create_task(workers.run())
    await asyncio.sleep(0.1)
    workers.reload()
    workers.stop()
    await asyncio.wait_for(running, PATIENCE_S)
    assert [message.split(":")[0] for message in caplog.messages] == ["stopping", "stopped"]


@pytest.mark.anyio
async def test_a_process_that_cannot_be_started_is_told(
    together: Callable[..., Workers],
) -> None:
    """As what cannot be served is: by one message."""
    with pytest.raises(ConfigurationError, match="no process for it"):
        await together("/none").run()
    with pytest.raises(ConfigurationError, match="its log says why"):
        await together(sys.executable, "-c", "raise SystemExit(3)").run()
