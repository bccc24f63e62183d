"""The certificate of the listening side: what is loaded, and what a reload does to it."""

import asyncio
import logging
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from usageflow.errors import ConfigurationError
from usageflow.proxy.certificates import Certificates

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Make = Callable[..., tuple[str, str]]


def write_pair(folder: Path, name: str, password: bytes | None = None) -> tuple[str, str]:
    """A self-signed certificate of that common name, and its key, as two PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    secrecy: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        secrecy = serialization.BestAvailableEncryption(password)
    cert_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secrecy)
    )
    return str(cert_file), str(key_file)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that the proxy runs on in production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def pair(tmp_path: Path) -> Make:
    """Write a pair of PEM files of a name."""

    def make(name: str, password: bytes | None = None) -> tuple[str, str]:
        return write_pair(tmp_path, name, password)

    return make


@pytest.fixture
def certificates(pair: Make) -> Certificates:
    """Those of a pair named `first`."""
    return Certificates(*pair("first"))


@asynccontextmanager
async def served(certificates: Certificates) -> AsyncIterator[int]:
    """An echo server with these certificates; its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificates.context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def connect(port: int, **options: Any) -> Stream:
    """A connection of a client that believes every certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in options.items():
        setattr(context, name, value)
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")


def name_of(stream: Stream) -> str:
    """The common name of the certificate that the client was shown."""
    shown = stream[1].get_extra_info("ssl_object").getpeercert(binary_form=True)
    (attribute,) = x509.load_der_x509_certificate(shown).subject
    return str(attribute.value)


async def echoed(stream: Stream) -> bool:
    """Whether the connection carries bytes both ways."""
    reader, writer = stream
    writer.write(b"hello")
    return await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"


@pytest.mark.anyio
async def test_a_reload_is_for_new_connections(
    certificates: Certificates, pair: Make, tmp_path: Path
) -> None:
    """A connection keeps what it began with, also when the next one is shown the new pair."""
    async with served(certificates) as port:
        old = await connect(port)
        for new_file, file in zip(pair("second"), ("first.crt", "first.key"), strict=True):
            shutil.copy(new_file, tmp_path / file)
        certificates.reload()
        new = await connect(port)
        assert (name_of(old), name_of(new)) == ("first", "second")
        for stream in (old, new):
            assert await echoed(stream)
            stream[1].close()


@pytest.mark.anyio
async def test_only_http_1_1_and_modern_tls_are_spoken(certificates: Certificates) -> None:
    """Of h2 and http/1.1 the latter is chosen, before and after a reload; TLS 1.1 is refused."""
    async with served(certificates) as port:
        for _ in range(2):
            _, writer = await connect(port)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            writer.close()
            certificates.reload()
        writer = (await connect(port, maximum_version=ssl.TLSVersion.TLSv1_2))[1]
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.close()
    assert certificates.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert certificates.context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.anyio
async def test_a_bad_pair_leaves_the_former_in_use(
    certificates: Certificates, pair: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate whose key is not there yet is told by name; handshakes go on as before."""
    cert, _ = pair("second")
    async with served(certificates) as port:
        shutil.copy(cert, tmp_path / "first.crt")
        certificates.reload()
        stream = await connect(port)
        assert name_of(stream) == "first"
        stream[1].close()
    assert f"{tmp_path}/first.key does not belong to the certificate {tmp_path}/first.crt" in (
        caplog.text
    )


def test_a_change_of_the_files_is_noticed(
    certificates: Certificates, pair: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`poll` reloads once for each change, whether a file is rewritten or replaced."""
    caplog.set_level(logging.INFO)
    certificates.poll()
    assert caplog.messages == []
    cert, key = pair("second")
    Path(cert).replace(tmp_path / "first.crt")
    certificates.poll()
    certificates.poll()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    Path(key).replace(tmp_path / "first.key")
    certificates.poll()
    certificates.poll()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_files_that_are_away_for_a_while_are_told_once(
    certificates: Certificates, pair: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And loaded when they are back, even if they are the same."""
    caplog.set_level(logging.INFO)
    (tmp_path / "first.key").rename(tmp_path / "away")
    certificates.poll()
    certificates.poll()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "first.key" in caplog.text
    (tmp_path / "away").rename(tmp_path / "first.key")
    certificates.poll()
    assert caplog.records[-1].levelname == "INFO"


def test_one_file_may_hold_both(pair: Make, tmp_path: Path) -> None:
    """As some certificate tools write it."""
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(path).read_text() for path in pair("first")))
    assert Certificates(str(both)).context is not None


def test_what_cannot_be_used_is_told_at_start(pair: Make, tmp_path: Path) -> None:
    """Each with the name of the file at fault; an encrypted key never asks on the terminal."""
    cert, key = pair("first")
    other, locked = pair("locked", b"secret")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for files, words in {
        (str(tmp_path / "none"), key): "cannot be read: .*/none",
        (str(tmp_path), key): "cannot be read",
        (str(nonsense), key): "nonsense and .*first.key",
        (cert, str(nonsense)): "first.crt and .*nonsense",
        (cert, None): "first.crt and .*first.crt",
        (other, locked): "locked.key is encrypted",
        (other, key): "first.key does not belong to the certificate .*locked.crt",
    }.items():
        with pytest.raises(ConfigurationError, match=words):
            Certificates(*files)
