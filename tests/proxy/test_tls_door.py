"""Where TLS clients come in: what is admitted, and what becomes of handshakes that fail."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from usageflow.proxy import tls_door
from usageflow.proxy.gateway import Gateway
from usageflow.proxy.tls_door import TlsDoor

pytestmark = pytest.mark.anyio

Start = Callable[..., Awaitable[int]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
Open = Callable[..., Awaitable[tuple[Gateway, tuple[str, int]]]]


async def answering(wire: Any) -> None:
    """Answer every request."""
    while True:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """A server's context, with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=1),
    )
    both = tmp_path / "both.pem"
    both.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(both)
    return made


class Listener(socket.socket):
    """A listening socket on a free port, whose next accept can be made to fail."""

    failure: OSError | None = None

    def accept(self) -> Any:
        """As ever, or the failure, once."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return super().accept()


@pytest.fixture
def listener() -> Listener:
    """Closed by the door."""
    made = Listener(socket.AF_INET)
    made.bind(("127.0.0.1", 0))
    made.listen(64)
    return made


@pytest.fixture
def door(  # noqa: PLR0917 - pytest gives them by name
    stack: AsyncExitStack,
    gateway: Callable[..., Awaitable[Gateway]],
    upstream: Start,
    context: ssl.SSLContext,
    listener: Listener,
    tmp_path: Path,
) -> Open:
    """Open a door of a gateway with these settings; gives both and the address."""

    async def start(handshake_s: float = 5.0, **settings: Any) -> tuple[Gateway, tuple[str, int]]:
        made = await gateway(await upstream(answering), spool_dir=str(tmp_path), **settings)
        opened = TlsDoor(made, listener, context, handshake_s=handshake_s)
        stack.callback(opened.close)
        address: tuple[str, int] = listener.getsockname()
        return made, address

    return start


async def ask(address: tuple[str, int]) -> bytes:
    """One request over TLS: all of the answer."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(*address, ssl=trusting)
    writer.write(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(-1), 10)
    writer.close()
    return answer


async def test_a_tls_client_is_served(door: Open, eventually: Eventually) -> None:
    """It is a secure connection to everybody, and nothing is left of it."""
    gateway, address = await door()
    assert (await ask(address)).endswith(b"\r\n\r\nok")
    await eventually(lambda: gateway.drained)
    assert gateway.figures.connections_accepted == 1
    assert gateway.figures.handshakes_failed == 0


async def test_limits_hold_before_the_handshake(door: Open, eventually: Eventually) -> None:
    """Who never begins it takes a place, and gives it up in time; who is too many has none."""
    gateway, address = await door(handshake_s=0.3, connections_max=2)
    silent = [await asyncio.open_connection(*address) for _ in range(5)]
    await eventually(lambda: gateway.figures.connections_refused == 3)
    ended = [await asyncio.wait_for(reader.read(1), 10) for reader, _ in silent]
    assert ended == [b""] * 5
    assert gateway.figures.handshakes_failed == 2
    assert (await ask(address)).endswith(b"ok")
    for _, writer in silent:
        writer.close()


async def test_what_is_no_tls_is_told_now_and_then(
    door: Open, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    """All are counted, one of many is logged, and the next client is served."""
    caplog.set_level(logging.WARNING, "usageflow.proxy")
    gateway, address = await door()
    for number in range(1, 4):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: gateway.figures.handshakes_failed == number)  # noqa: B023
        assert not (await asyncio.wait_for(reader.read(-1), 10)).startswith(b"HTTP")
        writer.close()
    assert caplog.text.count("the TLS handshake of 127.0.0.1 failed") == 1
    assert (await ask(address)).endswith(b"ok")


async def test_without_a_file_left_it_waits(
    door: Open,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says so and tries again, instead of spinning."""
    monkeypatch.setattr(tls_door, "BREATH_S", 0.05)
    _, address = await door()
    listener.failure = OSError(errno.EMFILE, "Too many open files")
    assert (await ask(address)).endswith(b"ok")
    assert "no connection is accepted for 0.05 s" in caplog.text


async def test_the_end_of_the_proxy_ends_handshakes(
    door: Open, gateway: Any, eventually: Eventually
) -> None:
    """Nobody waits for a client that says nothing."""
    made, address = await door()
    reader, writer = await asyncio.open_connection(*address)
    await eventually(lambda: made._admitted == 1)
    await made.aclose()
    assert await asyncio.wait_for(reader.read(1), 10) == b""
    assert made._admitted == 0
    writer.close()
