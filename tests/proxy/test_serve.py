"""The proxy as one process: how it starts, reloads, and stops without failing a request."""

import asyncio
import http.client
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.proxy.listening import Listening
from usageflow.proxy.serve import run

Process = asyncio.subprocess.Process
Dial = Callable[[int], Awaitable[Any]]

PATIENCE_S = 20.0
DAY = timedelta(days=1)
MIB = 1_048_576
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
    """A proxy in a process of its own, what it listens on, and the lines of its log."""

    process: Process
    address: str
    log: list[str]

    @property
    def port(self) -> int:
        """Of its TCP address."""
        return int(self.address.rpartition(":")[2])

    async def ended(self) -> int:
        """Its status."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


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


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    """Run `usageflow proxy` to an upstream on a port; returns once it serves."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    started: list[Process] = []
    readers: list[asyncio.Task[None]] = []

    async def start(upstream_port: int, *options: str, **env: str) -> Running:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "usageflow", "proxy"),
            *("--upstream", f"http://127.0.0.1:{upstream_port}", "--listen", "127.0.0.1:0"),
            *("--policies", str(tmp_path / "policies.toml")),
            *("--spool-dir", str(tmp_path / "spool"), *options),
            stderr=subprocess.PIPE,
            env=os.environ | {"USAGEFLOW_CLIENT_LINGER_S": "0.2"} | env,  # clients here stay
        )
        started.append(process)
        assert process.stderr is not None
        log: list[str] = []
        readers.append(asyncio.get_running_loop().create_task(read_log(process.stderr, log)))
        await until(lambda: any("serving " in line for line in log) or readers[-1].done())
        served = re.search(r"serving (?:https?://)?(\S+)", "".join(log))
        assert served is not None, "".join(log)
        return Running(process, served[1], log)

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await asyncio.wait_for(asyncio.gather(*readers), PATIENCE_S)


async def answer_all(wire: Any) -> None:
    """An upstream that answers every request."""
    while True:
        await wire.head()
        await wire.send(OK)


def spooled(tmp_path: Path) -> int:
    """How many events are in the spool."""
    command = (sys.executable, "-m", "usageflow", "spool", str(tmp_path / "spool"), "--json")
    return len(subprocess.run(command, capture_output=True, check=True).stdout.splitlines())


class Load:
    """Clients that ask again and again, over the same connection while they may, or over new ones.

    The latter find out whether a connection that the kernel had made is dropped.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered = 0
        self.failed: list[str] = []

    async def run(self, request: bytes) -> None:
        """Send it until nobody listens any more."""
        while True:
            try:
                opening = asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = await asyncio.wait_for(opening, 0.9)
            except (OSError, TimeoutError):
                return  # nothing was sent
            try:
                while await self._ask(request, reader, writer):
                    pass
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                self.failed.append(repr(error))
            writer.close()

    async def _ask(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"ok"
        self.answered += 1
        return b"connection: close" not in head.lower()


@pytest.mark.anyio
async def test_a_stop_under_load_fails_no_request(
    upstream: Callable[..., Awaitable[int]], spawn: Spawn, tmp_path: Path
) -> None:
    """SIGTERM: every request that was sent is answered in full, its usage is on disk, status 0."""
    proxy = await spawn(await upstream(answer_all))
    load = Load(proxy.port)
    async with asyncio.TaskGroup() as clients:
        for _ in range(8):
            clients.create_task(load.run(GET))
            clients.create_task(
                load.run(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            )
        await until(lambda: load.answered > 200)
        proxy.process.terminate()
    assert await proxy.ended() == 0
    assert load.failed == []
    assert spooled(tmp_path) == load.answered


@pytest.mark.anyio
async def test_a_stop_waits_for_what_is_in_flight(
    upstream: Callable[..., Awaitable[int]], dial: Dial, spawn: Spawn
) -> None:
    """A slow request is answered after SIGTERM and told that its connection ends; no new ones."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(wire: Any) -> None:
        await wire.head()
        asked.set()
        await go.wait()
        await wire.send(OK)
        await wire.gone()

    proxy = await spawn(await upstream(slow))
    wire = await dial(proxy.port)
    await wire.send(GET)
    await asked.wait()
    proxy.process.terminate()
    await asyncio.sleep(0.5)
    with pytest.raises(ConnectionRefusedError):
        await dial(proxy.port)
    go.set()
    head = await wire.head()
    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head.lower()
    assert await wire.rest() == b"ok"
    assert await proxy.ended() == 0


def is_ready(port: int) -> bool:
    """What the admin port says."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with closing(asking):
        asking.request("GET", "/readyz")
        return asking.getresponse().status == 200


@pytest.mark.anyio
async def test_the_only_upstream_fails_for_a_while(
    upstream: Callable[..., Awaitable[int]], dial: Dial, spawn: Spawn
) -> None:
    """The proxy is not ready, and the log says why; nobody asks it, and yet it is ready again."""
    answering = False

    async def moody(wire: Any) -> None:
        await wire.head()
        if answering:
            await wire.send(OK)

    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        admin = free.getsockname()[1]
    proxy = await spawn(
        await upstream(moody),
        *("--admin-listen", f"127.0.0.1:{admin}"),
        USAGEFLOW_UPSTREAM_FAILED_S="2",
    )
    ready = partial(asyncio.to_thread, partial(is_ready, admin))
    for _ in range(3):
        wire = await dial(proxy.port)
        await wire.send(GET)
        assert (await wire.head()).startswith(b"HTTP/1.1 502")
    async with asyncio.timeout(PATIENCE_S):
        while await ready():
            pass
        while not await ready():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)
    answering = True
    wire = await dial(proxy.port)
    await wire.send(GET)
    assert (await wire.head()).startswith(b"HTTP/1.1 200")
    await until(lambda: "answers again" in "".join(proxy.log))
    log = [line.rstrip().rpartition("http://")[2].partition(": ")[2] for line in proxy.log]
    for line in (
        "fails: The upstream broke the connection before its answer was complete.",
        "not well: failures in a row: 3",
        "well again",
        "answers again",
    ):
        assert log.count(line) == 1, line


@pytest.mark.anyio
async def test_usage_that_no_disk_took_is_a_bad_end(
    upstream: Callable[..., Awaitable[int]], dial: Dial, spawn: Spawn
) -> None:
    """The disk is full to the end: the request is served, one line tells the loss, and status 1."""
    proxy = await spawn(await upstream(answer_all))
    resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    wire = await dial(proxy.port)
    await wire.send(GET)
    assert (await wire.head()).startswith(b"HTTP/1.1 200")
    proxy.process.terminate()
    assert await proxy.ended() == 1
    await until(lambda: "stopped: " in "".join(proxy.log))
    told = [line for line in proxy.log if "could not be written and are lost" in line]
    assert len(told) == 1
    # Not just any: where coverage is measured, it cannot write its own file either.
    assert not re.search(r"usageflow/(cli|middleware|proxy|recorder)/", "".join(proxy.log))


@pytest.mark.anyio
async def test_a_second_signal_ends_it_at_once(
    upstream: Callable[..., Awaitable[int]], dial: Dial, spawn: Spawn
) -> None:
    """Whoever asks twice does not want to wait: it ends by that signal."""
    asked = asyncio.Event()

    async def silent(wire: Any) -> None:
        await wire.head()
        asked.set()
        await wire.gone()

    proxy = await spawn(await upstream(silent))
    wire = await dial(proxy.port)
    await wire.send(GET)
    await asked.wait()
    proxy.process.terminate()
    await asyncio.sleep(0.3)
    assert proxy.process.returncode is None
    proxy.process.send_signal(signal.SIGINT)
    assert await proxy.ended() == -signal.SIGINT


@pytest.mark.anyio
async def test_a_stop_does_not_wait_for_ever(
    upstream: Callable[..., Awaitable[int]], dial: Dial, spawn: Spawn
) -> None:
    """What does not end within `drain_timeout_s` is cut, which the log tells."""

    async def endless(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await wire.gone()

    proxy = await spawn(await upstream(endless), USAGEFLOW_DRAIN_TIMEOUT_S="0.5")
    wire = await dial(proxy.port)
    await wire.send(GET)
    await wire.head()
    proxy.process.terminate()
    assert await proxy.ended() == 0
    assert not (await wire.rest()).endswith(b"0\r\n\r\n")
    log = "".join(proxy.log)
    stopping, cut, stopped = map(log.index, ("stopping: 1 conn", "is cut", "stopped: it took "))
    assert stopping < cut < stopped
    assert "stopping: 1 connections, at most 0.5 s\n" in log


def write_pair(folder: Path, name: str) -> None:
    """A self-signed certificate of that common name in `cert.pem`, its key in `key.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
    builder = builder.not_valid_before(now - DAY).not_valid_after(now + DAY)
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *private))


async def dial_tls(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A connection that believes every certificate, and the name that it was shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    (attribute,) = x509.load_der_x509_certificate(shown).subject
    return reader, writer, str(attribute.value)


@pytest.mark.anyio
async def test_a_reload_changes_policies_and_certificate_and_drops_nothing(
    upstream: Callable[..., Awaitable[int]], spawn: Spawn, tmp_path: Path
) -> None:
    """SIGHUP in the middle of a download: it ends whole; what comes next is served the new way."""
    go = asyncio.Event()

    async def download(wire: Any) -> None:
        while True:
            if b"/file" not in await wire.head():
                await wire.send(OK)
                continue
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            await go.wait()
            await wire.send(b"half")

    write_pair(tmp_path, "old")
    proxy = await spawn(
        await upstream(download),
        *("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")),
        USAGEFLOW_POLICY_POLL_S="1000",
    )
    reader, writer, name = await dial_tls(proxy.port)
    assert name == "old"
    writer.write(GET.replace(b"/", b"/file", 1))
    await reader.readuntil(b"half")
    write_pair(tmp_path, "new")
    (tmp_path / "policies.toml").write_text(POLICIES.replace("ANY /{rest:path}", "ANY /file"))
    proxy.process.send_signal(signal.SIGHUP)
    await until(lambda: "certificate" in "".join(proxy.log))
    await until(lambda: "".join(proxy.log).count("policies in force") > 1)
    _, other, name = await dial_tls(proxy.port)
    assert name == "new"
    other.close()
    go.set()
    assert await reader.readexactly(4) == b"half"
    writer.write(GET)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await reader.readexactly(2) == b"ok"
    writer.close()
    proxy.process.terminate()
    assert await proxy.ended() == 0
    assert spooled(tmp_path) == 1  # the download; the second request came after its policy went


@pytest.mark.anyio
async def test_new_certificate_files_are_noticed(
    upstream: Callable[..., Awaitable[int]], spawn: Spawn, tmp_path: Path
) -> None:
    """Without a signal, as tools that renew certificates do not know us."""
    write_pair(tmp_path, "old")
    proxy = await spawn(
        await upstream(answer_all),
        *("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")),
        USAGEFLOW_TLS_POLL_S="0.1",
    )
    write_pair(tmp_path, "new")
    await until(lambda: "cert.pem loaded" in "".join(proxy.log))
    _, writer, name = await dial_tls(proxy.port)
    assert name == "new"
    writer.close()


@pytest.mark.anyio
async def test_it_listens_on_a_unix_socket(
    upstream: Callable[..., Awaitable[int]], spawn: Spawn, tmp_path: Path
) -> None:
    """The file of a killed one is taken over, and gone after an orderly stop."""
    port = await upstream(answer_all)
    path = tmp_path / "api.sock"
    killed = await spawn(port, "--listen", f"unix:{path}")
    killed.process.kill()
    await killed.ended()
    assert path.exists()
    proxy = await spawn(port, "--listen", f"unix:{path}")
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(GET)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    proxy.process.terminate()
    await until(lambda: not path.exists())
    assert await proxy.ended() == 0
    writer.close()


@pytest.mark.anyio
async def test_the_admin_port_answers_from_the_start_to_the_end(
    upstream: Callable[..., Awaitable[int]], dial: Dial, spawn: Spawn
) -> None:
    """Ready while it serves, not while it drains; alive all the time; figures of what it did."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(wire: Any) -> None:
        await wire.head()
        asked.set()
        await go.wait()
        await wire.send(OK)

    with Listening.bind("127.0.0.1:0") as free:
        admin_port = free.address.port

    async def ask(path: bytes) -> bytes:
        wire = await dial(admin_port)
        await wire.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        answer: bytes = await wire.rest()
        return answer

    proxy = await spawn(await upstream(slow), "--admin-listen", f"127.0.0.1:{admin_port}")
    assert b" 200 " in await ask(b"/readyz")
    wire = await dial(proxy.port)
    await wire.send(GET)
    await asked.wait()
    await asyncio.sleep(0.3)
    assert b"usageflow_proxy_requests_in_flight 1" in await ask(b"/metrics")
    proxy.process.terminate()
    await asyncio.sleep(0.4)
    assert b"stopping" in await ask(b"/readyz")
    assert b" 200 " in await ask(b"/healthz")
    go.set()
    assert await proxy.ended() == 0


def test_who_comes_second_is_told(tmp_path: Path) -> None:
    """Two that start at the same moment may both bind; the one that listens later says why not."""
    (tmp_path / "policies.toml").write_text(POLICIES)
    with Listening.bind("127.0.0.1:0") as first:
        settings = Settings(
            upstream="http://127.0.0.1:9",
            listen=str(first.address),
            policies=str(tmp_path / "policies.toml"),
            spool_dir=str(tmp_path / "spool"),
        )
        bound = Listening.bind

        def bind(text: str, workers: int = 1) -> Listening:
            listening = bound(text, workers)
            first.sockets[0].listen()
            return listening

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Listening, "bind", bind)
            with pytest.raises(ConfigurationError, match=f"cannot listen on {first.address}: "):
                run(settings)


def peak_bytes(process: Process) -> int:
    """The most memory that the process ever held."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.anyio
async def test_streams_of_any_size_need_little_memory(
    upstream: Callable[..., Awaitable[int]], dial: Dial, spawn: Spawn
) -> None:
    """100 MiB down and 100 MiB up, each to a slow reader, add at most 16 MiB."""
    part = bytes(MIB)

    async def both_ways(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MIB))
        for _ in range(100):
            await wire.send(part)
        assert (await wire.head()).startswith(b"POST")
        await asyncio.sleep(0.2)
        for _ in range(100):
            await wire.exactly(MIB)
        await wire.send(OK)

    proxy = await spawn(await upstream(both_ways, limit=MIB))
    before = peak_bytes(proxy.process)
    down = await dial(proxy.port)
    await down.send(GET)
    await down.head()
    await asyncio.sleep(0.2)
    for _ in range(100):
        await down.exactly(MIB)
    up = await dial(proxy.port)
    await up.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (100 * MIB))
    for _ in range(100):
        await up.send(part)
    assert b"200 OK" in await up.head()
    assert peak_bytes(proxy.process) - before <= 16 * MIB
