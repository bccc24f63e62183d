"""Requests that are sent once, against real sockets."""

import base64
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from usageflow.forwarding import transport
from usageflow.forwarding.transport import Answer, Lost, Pool

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk, *, connections: int = 1) -> Iterator[int]:
    """The port of a server that has this conversation on each of its connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(connections):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def read_head(connection: socket.socket) -> bytes:
    """Everything up to the end of a request's head."""
    head = b""
    while b"\r\n\r\n" not in head and (chunk := connection.recv(65_536)):
        head += chunk
    return head


def saying(*parts: bytes) -> Talk:
    """A server that reads a head and says these parts."""

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        for part in parts:
            connection.sendall(part)

    return talk


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A pool that looks at no environment."""
    made = Pool(timeout_s=5, connections_max=2, environment=False)
    yield made
    made.close()
    made.close()


def test_an_answer_is_given_as_it_is(pool: Pool) -> None:
    """Status, headers without case, and body; an error is an answer like any other."""
    heads = []

    def talk(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 503 Away\r\nRetry-After: 7\r\ncontent-length: 2\r\n\r\nno")

    with listening(talk) as port:
        answer = pool.request("POST", f"http://127.0.0.1:{port}/x?y=z", {"x-key": "v"}, b"body")
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers.get("retry-after"), answer.body) == (503, "7", b"no")
    assert heads[0].startswith(b"POST /x?y=z HTTP/1.1\r\n")
    assert b"x-key: v\r\n" in heads[0]


def test_connections_are_kept(pool: Pool) -> None:
    """Two requests one after the other go over one connection."""

    def talk(connection: socket.socket) -> None:
        for _ in range(2):
            read_head(connection)
            connection.sendall(OK)

    with listening(talk) as port:
        for _ in range(2):
            answer = pool.request("GET", f"http://127.0.0.1:{port}/", {})
            assert isinstance(answer, Answer)


def test_a_redirect_is_an_answer(pool: Pool) -> None:
    """It is not followed: what was sent to one address is for no other."""
    redirect = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    with listening(saying(redirect)) as port:
        answer = pool.request("POST", f"http://127.0.0.1:{port}/", {}, b"")
    assert isinstance(answer, Answer)
    assert answer.status == 302


@pytest.mark.parametrize("host", ["127.0.0.1:1", f"{'x' * 64}.invalid"])
def test_without_a_connection_nothing_was_sent(pool: Pool, host: str) -> None:
    """A refused connection is certain, and so is a name that cannot be looked up."""
    lost = pool.request("POST", f"http://{host}/", {}, b"")
    assert isinstance(lost, Lost)
    assert not lost.sent
    assert lost.reason.startswith(f"{host.removesuffix(':1')}: ")


def test_a_connection_that_takes_too_long_sent_nothing() -> None:
    """A listener whose queue is full lets a connection wait."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(8):  # more than the kernel queues
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        pool = Pool(timeout_s=0.2, connections_max=1, environment=False)
        lost = pool.request("POST", f"http://127.0.0.1:{port}/", {}, b"")
    assert isinstance(lost, Lost)
    assert not lost.sent


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="closed"),
        pytest.param([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"], id="cut off"),
        pytest.param([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nha"], id="chunk"),
        pytest.param([b"no HTTP at all\r\n\r\n"], id="not HTTP"),
    ],
)
def test_half_an_answer_is_none(pool: Pool, parts: list[bytes]) -> None:
    """Once the request has left, whatever fails leaves its fate open; it is not sent again."""
    talks = []

    def talk(connection: socket.socket) -> None:
        talks.append(connection)
        saying(*parts)(connection)

    with listening(talk, connections=3) as port:
        lost = pool.request("GET", f"http://127.0.0.1:{port}/", {})
    assert isinstance(lost, Lost)
    assert lost.sent
    assert len(talks) == 1


def test_silence_ends_after_the_timeout() -> None:
    """A server that takes the request and says nothing leaves its fate open."""
    done = threading.Event()

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        done.wait(10)

    pool = Pool(timeout_s=0.1, connections_max=1, environment=False)
    with listening(talk) as port:
        lost = pool.request("POST", f"http://127.0.0.1:{port}/", {}, b"")
        done.set()
    assert isinstance(lost, Lost)
    assert lost.sent


def test_an_answer_in_drops_ends_as_well() -> None:
    """Bytes now and then are no progress: the whole answer has a time, too."""

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(1_000):
            try:
                connection.sendall(b".")
            except OSError:
                return
            time.sleep(0.02)

    pool = Pool(timeout_s=0.2, connections_max=1, environment=False)
    with listening(talk) as port:
        lost = pool.request("GET", f"http://127.0.0.1:{port}/", {})
    assert lost == Lost("an answer not complete after 0.2 s", sent=True)


def test_an_answer_without_end_is_cut_off(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body beyond the bound is a failure, not memory."""
    monkeypatch.setattr(transport, "ANSWER_BYTES_MAX", 100_000)

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(1_000):
            try:
                connection.sendall(b"." * 65_536)
            except OSError:
                return

    with listening(talk) as port:
        lost = pool.request("GET", f"http://127.0.0.1:{port}/", {})
    assert lost == Lost("an answer of more than 100000 bytes", sent=True)


def test_a_url_that_is_none_is_no_answer(pool: Pool) -> None:
    """A port that is no port cannot be connected to, and is said to be at fault."""
    assert isinstance(pool.request("GET", "http://127.0.0.1:99999/", {}), Lost)


def certificate(directory: Path) -> Path:
    """A PEM file with a key and a certificate for localhost that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "localhost.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def test_certificates_are_verified(tmp_path: Path) -> None:
    """One of an unknown authority ends it before a byte of the request has left."""
    pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    heads = []

    def talk(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                heads.append(read_head(secured))
                secured.sendall(OK)
        except ssl.SSLError:
            return

    with listening(talk, connections=2) as port:
        for ca_file in (None, str(pem)):
            pool = Pool(timeout_s=5, connections_max=1, environment=False, ca_file=ca_file)
            answer = pool.request("POST", f"https://localhost:{port}/", {}, b"")
            pool.close()
            if ca_file is None:
                assert isinstance(answer, Lost)
                assert not answer.sent
                assert "CERTIFICATE_VERIFY_FAILED" in answer.reason
    assert isinstance(answer, Answer)
    assert len(heads) == 1


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_of_the_environment_is_used(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS goes through its tunnel, with the proxy's user and password, as elsewhere."""
    heads = []

    def talk(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")

    pool = Pool(timeout_s=5, connections_max=1, environment=True)
    with listening(talk) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}us%65r:p%40ss@127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "")
        lost = pool.request("POST", "https://api.stripe.invalid/", {"authorization": "mine"}, b"")
    assert isinstance(lost, Lost)
    assert not lost.sent
    assert heads[0].startswith(b"CONNECT api.stripe.invalid:443 ")
    assert base64.b64encode(b"user:p@ss") in heads[0]
    assert b"mine" not in heads[0]


def test_a_proxy_that_is_not_there_was_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's own failure is before ours."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    pool = Pool(timeout_s=5, connections_max=1, environment=True)
    lost = pool.request("POST", "https://api.stripe.invalid/", {}, b"")
    assert isinstance(lost, Lost)
    assert not lost.sent


@pytest.mark.parametrize(
    ("environment", "exempt"), [(False, ""), (True, "127.0.0.1")], ids=["not asked", "exempt"]
)
def test_a_proxy_is_left_out(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, exempt: str, *, environment: bool
) -> None:
    """A pool without the environment, and a host that NO_PROXY names, go straight."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", exempt)
    monkeypatch.setenv("no_proxy", exempt)
    pool = Pool(timeout_s=5, connections_max=1, environment=environment)
    with listening(saying(OK)) as port:
        answer = pool.request("GET", f"http://127.0.0.1:{port}/", {})
    pool.close()
    assert isinstance(answer, Answer)
