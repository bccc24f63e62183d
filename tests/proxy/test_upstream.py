"""The upstream's URL and the way to it, with and without TLS."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, UpstreamUnreachable
from usageflow.proxy.connection import UpstreamConnection
from usageflow.proxy.upstream import Upstream

Start = Callable[..., Awaitable[int]]


def lost(_connection: UpstreamConnection) -> None:
    """Nobody keeps these connections."""


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "tls"),
    [
        ("http://api", "api", 80, b"api", False),
        ("http://api:9000/", "api", 9000, b"api:9000", False),
        ("https://api.example.com", "api.example.com", 443, b"api.example.com", True),
        ("http://[::1]:8000", "::1", 8000, b"[::1]:8000", False),
        ("http://b\u00fccher.example", "b\u00fccher.example", 80, b"xn--bcher-kva.example", False),
    ],
)
def test_urls(
    url: str,
    host: str,
    port: int,
    authority: bytes,
    tls: bool,  # noqa: FBT001
) -> None:
    """Host, port and TLS come from the URL."""
    upstream = Upstream.parse(url)
    assert (upstream.host, upstream.port, upstream.authority) == (host, port, authority)
    assert (upstream.tls is not None) is tls


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api:9000",
        "ftp://api",
        "http://",
        "http://api:port",
        "http://api:99999",
        "http://api/base",
        "http://api?q",
        "http://user:secret@api",
        "http://[::1",
    ],
)
def test_urls_that_cannot_be_an_upstream(url: str) -> None:
    """Anything but scheme, host and port is refused, with what it should look like."""
    with pytest.raises(ConfigurationError, match="upstream"):
        Upstream.parse(url)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "both.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
        f" -keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem &&"
        f" cat {tmp_path}/key.pem {tmp_path}/cert.pem > {path}",
        shell=True,
        check=True,
        capture_output=True,
    )
    return path


@pytest.mark.anyio
async def test_tls(certificate: Path, upstream: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted certificate works, also while an upload is refused; any other is a 502."""

    async def script(wire: Any) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        await wire.gone()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    url = f"https://127.0.0.1:{await upstream(script, ssl=context)}"
    with pytest.raises(UpstreamUnreachable):
        await Upstream.parse(url).connect(lost, Settings())

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    connection = await Upstream.parse(url).connect(lost, Settings())
    head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    connection.start(head, to_head=False, body_follows=True, chunked=True)
    await connection.write_body(b"abc")
    assert (await connection.head()).status == 413
    assert await connection.read() == (b"no", False)
    assert not connection.reusable
    connection.close()


@pytest.mark.anyio
async def test_connect_timeout(upstream: Start) -> None:
    """A handshake that never ends is given up after the connect timeout, as a 502."""

    async def mute(wire: Any) -> None:
        await wire.gone()

    address = Upstream.parse(f"https://127.0.0.1:{await upstream(mute)}")
    with pytest.raises(UpstreamUnreachable, match="in time"):
        await address.connect(lost, Settings(upstream_connect_timeout_s=0.1))
    await asyncio.sleep(0)


@pytest.mark.anyio
async def test_unknown_name() -> None:
    """A name that does not resolve is a 502, not a crash."""
    with pytest.raises(UpstreamUnreachable):
        await Upstream.parse("http://nobody.invalid").connect(lost, Settings())
