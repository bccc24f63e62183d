"""What may be an upstream, and the way to it: names, addresses, TLS, unix sockets, black holes."""

import asyncio
import datetime as dt
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from usageflow.config import Settings
from usageflow.errors import ConfigurationError, UpstreamUnreachable
from usageflow.proxy.targets import Dialer, Resolve, Target, look_up, parse_targets

Start = Callable[..., Awaitable[int]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


# What may be an upstream


def parse(upstream: str, **settings: Any) -> tuple[Target, ...]:
    """The targets of this setting."""
    return parse_targets(Settings(upstream=upstream, **settings))


@pytest.mark.parametrize(
    ("item", "host", "port", "authority", "name"),
    [
        ("http://api", "api", 80, b"api", "http://api"),
        ("http://api:80", "api", 80, b"api", "http://api"),
        ("http://API:9000/", "api", 9000, b"api:9000", "http://api:9000"),
        ("http://my_api:9000", "my_api", 9000, b"my_api:9000", "http://my_api:9000"),
        ("HTTPS://api.example.", "api.example.", 443, b"api.example.", "https://api.example."),
        ("https://api:80", "api", 80, b"api:80", "https://api:80"),
        ("http://[::1]:8000", "::1", 8000, b"[::1]:8000", "http://[::1]:8000"),
        (
            "http://b\u00fccher.at",
            "xn--bcher-kva.at",
            80,
            b"xn--bcher-kva.at",
            "http://xn--bcher-kva.at",
        ),
        ("unix:/run/api.sock", "", 0, b"localhost", "unix:/run/api.sock"),
    ],
)
def test_targets(item: str, host: str, port: int, authority: bytes, name: str) -> None:
    """Host, port and the names for others come from the item; default ports are not shown."""
    (target,) = parse(item)
    assert (target.host, target.port) == (host, port)
    assert (target.authority, target.name) == (authority, name)


def test_several_targets() -> None:
    """Items keep their order; TLS, and the name it verifies, are those of https items alone."""
    plain, secure, local = parse("http://a, https://b.example.:444 ,unix:/c")
    assert [plain.name, secure.name, local.name] == [
        "http://a",
        "https://b.example.:444",
        "unix:/c",
    ]
    assert (plain.tls, plain.server_name, local.tls, local.path) == (None, None, None, "/c")
    assert secure.tls is not None
    assert secure.tls.verify_mode is ssl.CERT_REQUIRED
    assert secure.tls.check_hostname
    assert secure.server_name == "b.example"
    assert parse("https://b", upstream_sni="other")[0].server_name == "other"


@pytest.mark.parametrize(
    "item",
    [
        "",
        "api:9000",
        "ftp://api",
        "http://",
        "http://api:port",
        "http://api:99999",
        "http://api:0",
        "http://api/base",
        "http://api?q",
        "http://user:secret@api",
        "http://[::1",
        "http://::1",
        "http://a b",
        "http://a\nb:x",
        "http://a..b",
        "http://" + 64 * "a",
        "http://a%20b",
        "http://[v1.x]",
        "unix:relative.sock",
        "unix:",
    ],
)
def test_what_cannot_be_an_upstream(item: str) -> None:
    """Anything else is refused with its text, also beside a good one."""
    with pytest.raises(ConfigurationError, match="upstream") as refused:
        parse(f"http://good,{item}")
    assert repr(item.replace("user:secret@", "***@")) in str(refused.value)


def test_none_and_twice() -> None:
    """No upstream at all, and one that is given twice in other words, are refused."""
    with pytest.raises(ConfigurationError, match="--upstream"):
        parse_targets(Settings())
    with pytest.raises(ConfigurationError, match="twice"):
        parse("http://a, http://b, http://A:80/")


# Certificates


class Authority:
    """Signs certificates and leaves them in PEM files, each with its key."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _called(name)
        self.file = folder / f"{name}.pem"
        certificate = self._signed(self._name, self._key, authority=True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def certificate(self, *names: str) -> tuple[Path, Path]:
        """A certificate for these DNS names and addresses, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(_called(names[0]), key, names, authority=False)
        cert_file = self._folder / f"{self.file.stem}-{names[0]}.pem"
        key_file = self._folder / f"{self.file.stem}-{names[0]}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert_file, key_file

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: Sequence[str] = ("none",),
        *,
        authority: bool,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        day = dt.timedelta(days=1)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=authority,
            crl_sign=authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=authority, path_length=None), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
            (x509.SubjectAlternativeName([_general(name) for name in names]), False),
            (usage, True),
        ]
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - day,
            not_valid_after=now + day,
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of this test."""
    return Authority(tmp_path, "authority")


def speaking_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_files_that_cannot_be_read(tmp_path: Path, authority: Authority) -> None:
    """A file that is missing, junk, or does not fit is told with the name of its setting."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    cert, key = map(str, authority.certificate("a"))
    _, other = map(str, authority.certificate("b"))
    for name, settings in [
        ("UPSTREAM_CA", {"upstream_ca": str(tmp_path / "none.pem")}),
        ("UPSTREAM_CA", {"upstream_ca": str(junk)}),
        ("UPSTREAM_CA", {"upstream_ca": str(tmp_path)}),
        ("UPSTREAM_CLIENT_CERT", {"upstream_client_cert": str(junk)}),
        ("UPSTREAM_CLIENT_CERT", {"upstream_client_cert": cert}),
        ("UPSTREAM_CLIENT_KEY", {"upstream_client_cert": cert, "upstream_client_key": other}),
        ("UPSTREAM_CLIENT_KEY", {"upstream_client_key": key}),
    ]:
        with pytest.raises(ConfigurationError, match=f"USAGEFLOW_{name}"):
            parse("https://a", **settings)
    assert parse("https://a", upstream_client_cert=cert, upstream_client_key=key)


def test_a_key_with_a_password(authority: Authority) -> None:
    """It is refused; the terminal is not asked for the password."""
    cert, key = authority.certificate("a")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigurationError, match="without a password"):
        parse("https://a", upstream_client_cert=str(cert), upstream_client_key=str(key))


# The way there


class Noted(asyncio.Protocol):
    """Remembers its transport and whether it was lost."""

    lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """No connection."""
        self.lost = True


def dialer(item: str, *, resolve: Resolve = look_up, timeout_s: float = 5.0, **tls: Any) -> Dialer:
    """The way to one target."""
    (target,) = parse(item, **tls)
    return Dialer(target, timeout_s=timeout_s, resolve=resolve)


class Names:
    """A resolver that answers what it is told to."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] | OSError = addresses
        self.asked = 0

    async def __call__(self, name: str) -> Sequence[str]:
        """The addresses, after a while."""
        assert name == "api.test"
        self.asked += 1
        await asyncio.sleep(0)
        if isinstance(self.addresses, OSError):
            raise self.addresses
        return self.addresses


async def silent(wire: Any) -> None:
    """Take what comes."""
    await wire.gone()


@pytest.fixture
def mute() -> Iterator[int]:
    """A port on 127.0.0.2 that takes no more connections and refuses none."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(4):  # they fill its queue
            client = open_sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.2", port))
        yield port


async def reached(way: Dialer) -> str:
    """Dial and hang up; the address that was reached."""
    transport, protocol, address = await way.dial(Noted)
    assert protocol.transport is transport
    transport.abort()
    return address


@pytest.mark.anyio
async def test_a_unix_socket(tmp_path: Path, stack: AsyncExitStack) -> None:
    """A path is dialled as it is; it has no name that could change."""
    path = tmp_path / "api.sock"
    way = dialer(f"unix:{path}")
    assert not way.named
    with pytest.raises(UpstreamUnreachable):
        await way.dial(Noted)
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), path)
    stack.callback(server.close)
    assert await reached(way) == str(path)


@pytest.mark.anyio
async def test_refusals_are_logged_once(upstream: Start, caplog: pytest.LogCaptureFixture) -> None:
    """One warning with target and cause when it begins, one line when it is over."""
    caplog.set_level(logging.INFO)
    port = await upstream(silent)
    names = Names("127.0.0.9")
    way = dialer(f"http://api.test:{port}", resolve=names)
    for _ in range(3):
        with pytest.raises(UpstreamUnreachable, match="does not accept"):
            await way.dial(Noted)
    names.addresses = ["127.0.0.1"]
    assert await way.refresh() == {"127.0.0.9"}
    await reached(way)
    await reached(way)
    began, ended = caplog.messages
    assert began.startswith(f"http://api.test:{port}: no connection: ")
    assert "refused" in began.lower()
    assert ended == f"http://api.test:{port}: connected again"


@pytest.mark.anyio
async def test_all_addresses_are_tried_in_turn(upstream: Start, stack: AsyncExitStack) -> None:
    """Each connection begins with another address, and goes on when one refuses."""
    port = await upstream(silent)
    both = Names("127.0.0.1", "127.0.0.2")
    second = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.2", port)
    stack.callback(second.close)
    way = dialer(f"http://api.test:{port}", resolve=both)
    assert [await reached(way) for _ in range(3)] == ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    second.close()
    await second.wait_closed()
    assert [await reached(way) for _ in range(3)] == 3 * ["127.0.0.1"]
    assert both.asked == 1


@pytest.mark.anyio
async def test_a_black_hole(mute: int, caplog: pytest.LogCaptureFixture) -> None:
    """An address that never answers is given up after the timeout; the log says so."""
    way = dialer(f"http://127.0.0.2:{mute}", timeout_s=0.1)
    with pytest.raises(UpstreamUnreachable, match="in time"):
        await way.dial(Noted)
    assert caplog.messages == [f"http://127.0.0.2:{mute}: no connection: no answer within 0.1 s"]


@pytest.mark.anyio
async def test_a_black_hole_among_others(mute: int, stack: AsyncExitStack) -> None:
    """It gets its share of the time, so that the address behind it can be reached."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", mute)
    stack.callback(server.close)
    way = dialer(f"http://api.test:{mute}", resolve=Names("127.0.0.2", "127.0.0.1"), timeout_s=0.2)
    assert await reached(way) == "127.0.0.1"


@pytest.mark.anyio
async def test_a_resolver_that_never_answers() -> None:
    """Looking up a name is part of the time to connect."""

    async def never(_name: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    with pytest.raises(UpstreamUnreachable, match="in time"):
        await dialer("http://api.test", resolve=never, timeout_s=0.05).dial(Noted)


@pytest.mark.anyio
async def test_a_name_is_asked_for_once(upstream: Start) -> None:
    """Many connections at the start share one look-up; one that failed is made anew."""
    names = Names("127.0.0.1")
    names.addresses = OSError("no such name")
    way = dialer(f"http://api.test:{await upstream(silent)}", resolve=names)
    with pytest.raises(UpstreamUnreachable):
        await way.dial(Noted)
    names.addresses = ["127.0.0.1"]
    assert await asyncio.gather(*(reached(way) for _ in range(5))) == 5 * ["127.0.0.1"]
    assert names.asked == 2


@pytest.mark.anyio
async def test_a_refresh_that_fails(upstream: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The last addresses stay in force, and that is logged once."""
    names = Names("127.0.0.1")
    way = dialer(f"http://api.test:{await upstream(silent)}", resolve=names)
    assert way.named
    await reached(way)
    names.addresses = OSError("server failure")
    assert not await way.refresh()
    assert not await way.refresh()
    assert await reached(way) == "127.0.0.1"
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "its name is not resolved: server failure"
    ]
    names.addresses = ["127.0.0.1", "127.0.0.3"]
    assert not await way.refresh()
    names.addresses = ["127.0.0.3"]
    assert await way.refresh() == {"127.0.0.1"}


@pytest.mark.anyio
async def test_the_systems_resolver() -> None:
    """A name of this machine has its address once; no name has none."""
    addresses = await look_up("localhost")
    assert set(addresses) & {"127.0.0.1", "::1"}
    assert len(addresses) == len(set(addresses))
    with pytest.raises(OSError, match=r".+"):
        await look_up("nobody.invalid")


# TLS


@pytest.mark.anyio
async def test_tls(upstream: Start, authority: Authority, tmp_path: Path) -> None:
    """A certificate of the given authority for the very name is taken; any other is not."""
    port = await upstream(silent, ssl=speaking_tls(authority.certificate("api.test", "127.0.0.1")))
    names = Names("127.0.0.1")
    ca = str(authority.file)
    transport, _, _ = await dialer(f"https://127.0.0.1:{port}", upstream_ca=ca).dial(Noted)
    tls = transport.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == "http/1.1"
    assert tls.version() in ("TLSv1.2", "TLSv1.3")
    transport.abort()
    await reached(dialer(f"https://api.test:{port}", resolve=names, upstream_ca=ca))
    other = str(Authority(tmp_path, "other").file)
    refused: list[dict[str, Any]] = [
        {"upstream_ca": other},
        {},
        {"upstream_ca": ca, "upstream_sni": "web.test"},
    ]
    for wrong in refused:
        with pytest.raises(UpstreamUnreachable, match="does not accept"):
            await dialer(f"https://127.0.0.1:{port}", **wrong).dial(Noted)


@pytest.mark.anyio
async def test_sni(upstream: Start, authority: Authority) -> None:
    """The server is asked for, and verified by, the given name instead of that of the URL."""
    asked: list[str] = []
    context = speaking_tls(authority.certificate("api.test"))
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    port = await upstream(silent, ssl=context)
    way = dialer(
        f"https://127.0.0.1:{port}", upstream_ca=str(authority.file), upstream_sni="api.test"
    )
    await reached(way)
    assert asked == ["api.test"]


@pytest.mark.anyio
async def test_a_client_certificate(upstream: Start, authority: Authority) -> None:
    """A server that wants one gets it; without it there is no connection."""
    context = speaking_tls(authority.certificate("127.0.0.1"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 tells only after the handshake
    item = f"https://127.0.0.1:{await upstream(silent, ssl=context)}"
    cert, key = map(str, authority.certificate("proxy"))
    ca = str(authority.file)
    way = dialer(item, upstream_ca=ca, upstream_client_cert=cert, upstream_client_key=key)
    await reached(way)
    with pytest.raises(UpstreamUnreachable):
        await dialer(item, upstream_ca=ca).dial(Noted)


@pytest.mark.anyio
async def test_a_handshake_that_never_ends(upstream: Start) -> None:
    """It is given up after the same timeout."""
    way = dialer(f"https://127.0.0.1:{await upstream(silent)}", timeout_s=0.1)
    with pytest.raises(UpstreamUnreachable, match="in time"):
        await way.dial(Noted)
