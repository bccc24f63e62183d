"""Key sets stay fresh without a request ever waiting, and survive what key servers do."""

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from usageflow.middleware.key_sets import SET_BYTES_MAX, JwksKeySets, fetch
from usageflow.policies.reason import Reason

KEYS = {kid: ec.generate_private_key(ec.SECP256R1()) for kid in "abc"}
ES256 = jwt.get_algorithm_by_name("ES256")


def jwks(*kids: str, **more: Any) -> bytes:
    """The public keys of these ids as a set."""
    members = [{**ES256.to_jwk(KEYS[kid].public_key(), True), "kid": kid} for kid in kids]
    return json.dumps({"keys": [*members, *more.values()]}).encode()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds, at most 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.005)


class KeyServer:
    """A key server on loopback: what it answers can be changed, what it was asked is counted."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.content = jwks("a")
        self.status = 200
        self.headers: dict[str, str] = {}
        self.drip_s = 0.0
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                server.gate.wait(10)
                server.answer(self)

            def log_message(self, *args: object) -> None:
                """Stay quiet."""

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        if context is not None:
            self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.httpd.server_port}/jwks.json?v=1"
        self.thread = threading.Thread(
            target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """The current answer, all at once or byte by byte."""
        handler.send_response(self.status)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        pieces = [self.content] if not self.drip_s else [bytes([byte]) for byte in self.content]
        try:
            for piece in pieces:
                handler.wfile.write(piece)
                time.sleep(self.drip_s)
        except OSError:
            return  # the edge has had enough

    def asked_since(self, times: int) -> bool:
        """Whether it was asked more often than this."""
        return len(self.asked) > times

    def close(self) -> None:
        """Stop."""
        self.gate.set()
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


@pytest.fixture
def server() -> Iterator[KeyServer]:
    """A key server with key a."""
    subject = KeyServer()
    yield subject
    subject.close()


@pytest.fixture
def key_sets() -> Iterator[Callable[..., JwksKeySets]]:
    """Make key sets; they are closed at the end."""
    made: list[JwksKeySets] = []

    def make(refresh_s: float = 300, cooldown_s: float = 300, timeout_s: float = 5) -> JwksKeySets:
        made.append(JwksKeySets(refresh_s, cooldown_s, timeout_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


def has(subject: JwksKeySets, url: str, kid: str | None) -> bool:
    """Whether this key is there."""
    return isinstance(subject.find(url, kid), jwt.PyJWK)


def test_keys_are_there_before_they_are_needed(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """A start may wait for them; the server is asked once, for exactly the URL, for JSON."""
    subject = key_sets()
    subject.prepare([server.url])
    assert subject.wait(5)
    found = subject.find(server.url, "a")
    assert isinstance(found, jwt.PyJWK)
    assert found.key_id == "a"
    assert has(subject, server.url, None), "the only key needs no id"
    subject.prepare([server.url])
    ((path, headers),) = server.asked
    assert path == "/jwks.json?v=1"
    assert headers["accept"] == "application/json"
    assert headers["user-agent"].startswith("usageflow/")


def test_a_request_never_waits_for_keys(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """The first one gets a reason at once, even from a set that nobody prepared."""
    server.gate.clear()
    subject = key_sets()
    began_s = time.monotonic()
    assert subject.find(server.url, "a") == Reason(f"the keys at {server.url} are not there yet")
    assert subject.generation(server.url) == 0
    assert not subject.wait(0.01)
    assert time.monotonic() - began_s < 1
    server.gate.set()
    wait_for(lambda: has(subject, server.url, "a"))


def test_a_thousand_requests_ask_the_server_once(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """Single flight: whoever asks while a fetch is under way shares it."""
    server.gate.clear()
    subject = key_sets()
    for _ in range(1_000):
        subject.find(server.url, "a")
    server.gate.set()
    assert subject.wait(5)
    assert len(server.asked) == 1


def test_keys_are_rotated(key_sets: Callable[..., JwksKeySets], server: KeyServer) -> None:
    """New ones come and old ones vanish with the next fetch; only then the generation changes."""
    subject = key_sets(refresh_s=0.02)
    subject.prepare([server.url])
    assert subject.wait(5)
    first = subject.generation(server.url)
    asked = len(server.asked)
    wait_for(lambda: len(server.asked) > asked + 2)
    assert subject.generation(server.url) == first
    server.content = jwks("b", "c")
    wait_for(lambda: has(subject, server.url, "b"))
    wait_for(lambda: subject.generation(server.url) != first)
    assert has(subject, server.url, "c")
    assert not has(subject, server.url, "a")
    assert subject.find(server.url, None) == Reason(
        f"the token names none of the several keys at {server.url}"
    )


def test_an_unknown_key_asks_for_a_fetch(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """A key that was just added is there at once: the cooldown is between such fetches only."""
    subject = key_sets(cooldown_s=300)
    subject.prepare([server.url])
    assert subject.wait(5)
    server.content = jwks("a", "b")
    unknown = Reason(f"the key that the token names is not among those at {server.url}")
    assert subject.find(server.url, "b") == unknown
    wait_for(lambda: has(subject, server.url, "b"))


def test_unknown_keys_do_not_flood_the_server(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """At most one fetch in the cooldown, whatever tokens are sent."""
    subject = key_sets(cooldown_s=0.2)
    subject.prepare([server.url])
    assert subject.wait(5)
    began_s = time.monotonic()
    while time.monotonic() - began_s < 0.5:
        subject.find(server.url, f"unknown-{time.monotonic()}")
        time.sleep(0.001)
    assert 3 <= len(server.asked) <= 3 + (time.monotonic() - began_s) / 0.2


def test_a_failing_server_leaves_the_keys_in_force(
    key_sets: Callable[..., JwksKeySets],
    server: KeyServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it fails and whatever it answers; each kind of failure is told once."""
    monkeypatch.setattr("usageflow.middleware.key_sets.BACKOFF_S_MIN", 0.01)
    subject = key_sets(refresh_s=0.02)
    subject.prepare([server.url])
    assert subject.wait(5)
    first = subject.generation(server.url)

    def told(complaint: str) -> bool:
        return complaint in caplog.text

    failures: list[tuple[int, bytes, dict[str, str], str]] = [
        (500, jwks("b"), {}, "the server answered 500"),
        (301, jwks("b"), {"location": "https://evil.example/"}, "the server answered 301"),
        (200, b"<html>", {}, "the answer is not JSON"),
        (200, b'{"keys": []}', {}, "the set has no usable key"),
        (200, b"x" * (SET_BYTES_MAX + 1), {}, f"the answer has more than {SET_BYTES_MAX} bytes"),
        (200, jwks("b")[:-5], {"content-length": "9999"}, "IncompleteRead"),
    ]
    for status, content, headers, complaint in failures:
        server.status, server.content, server.headers = status, content, headers
        wait_for(partial(told, complaint))
        wait_for(partial(server.asked_since, len(server.asked) + 2))
        assert caplog.text.count(complaint) == 1
        assert has(subject, server.url, "a")
        assert not has(subject, server.url, "b")
    assert subject.generation(server.url) == first
    server.status, server.content, server.headers = 200, jwks("b"), {}
    wait_for(lambda: has(subject, server.url, "b"))


def test_a_server_that_is_down_is_asked_less_and_less(
    key_sets: Callable[..., JwksKeySets], server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pauses that double; a start does not wait for a second try."""
    monkeypatch.setattr("usageflow.middleware.key_sets.BACKOFF_S_MIN", 0.05)
    server.status = 503
    subject = key_sets()
    began_s = time.monotonic()
    subject.prepare([server.url])
    assert not subject.wait(5)
    wait_for(lambda: len(server.asked) == 4)
    assert time.monotonic() - began_s >= (0.05 + 0.1 + 0.2) * 0.9
    server.status = 200
    wait_for(lambda: has(subject, server.url, "a"))


def test_one_broken_server_does_not_take_the_others(
    key_sets: Callable[..., JwksKeySets], server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens at the first URL."""
    subject = key_sets()
    subject.prepare(["http://127.0.0.1:1/jwks.json", server.url])
    assert not subject.wait(5)
    assert has(subject, server.url, "a")
    assert "the keys at http://127.0.0.1:1/jwks.json are not refreshed: " in caplog.text


def test_a_server_that_drips_is_left(server: KeyServer) -> None:
    """Every byte is in time, the whole is not."""
    server.drip_s = 0.02
    began_s = time.monotonic()
    with pytest.raises(TimeoutError, match="takes too long"):
        fetch(server.url, timeout_s=0.2)
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    ("scheme", "beginning"),
    [("http", b"HTTP/1.1 200 OK\r\nx: "), ("http", b""), ("https", b"\x16\x03\x03\x40\x00\x02")],
)
def test_a_server_that_drips_before_the_body_is_left(scheme: str, beginning: bytes) -> None:
    """In the head of its answer and in the handshake, too."""
    left = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):  # the edge has had enough
            connection.recv(10_000)
            connection.sendall(beginning)
            while not left.wait(0.02):
                connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip)
        thread.start()
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match="takes too long"):
            fetch(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/jwks.json", timeout_s=0.2)
        assert time.monotonic() - began_s < 2
        left.set()
        thread.join()


def test_a_server_that_is_silent_is_left(server: KeyServer) -> None:
    """After the timeout."""
    server.gate.clear()
    with pytest.raises(TimeoutError):
        fetch(server.url, timeout_s=0.05)


def test_a_bad_key_is_told_once(
    key_sets: Callable[..., JwksKeySets], server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """And the good ones of its set are in force."""
    server.content = jwks("a", bad={"kty": "oct", "k": "c2VjcmV0"})
    subject = key_sets(refresh_s=0.02)
    subject.prepare([server.url])
    assert subject.wait(5)
    wait_for(lambda: len(server.asked) > 3)
    assert has(subject, server.url, "a")
    assert caplog.text.count("is passed over: number 2: it is a secret") == 1
    assert "c2VjcmV0" not in caplog.text


def test_only_the_keys_of_the_policies_are_kept(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """What no policy names any more is not fetched again; the others are not even interrupted."""
    other = KeyServer()
    subject = key_sets(refresh_s=0.02)
    subject.prepare([server.url, other.url])
    assert subject.wait(5)
    generation = subject.generation(server.url)
    subject.retain([server.url])
    time.sleep(0.1)
    asked, asked_other = len(server.asked), len(other.asked)
    wait_for(lambda: len(server.asked) > asked + 3)
    assert len(other.asked) == asked_other
    assert subject.generation(server.url) == generation
    assert subject.find(other.url, "a") == Reason(f"the keys at {other.url} are not there yet")
    wait_for(lambda: has(subject, other.url, "a"))
    assert subject.generation(other.url) > generation, "what its old keys verified is forgotten"
    other.close()


def test_a_set_that_is_dropped_serves_old_requests(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """It is not fetched anew for them, and it stays fresh for those that go on asking."""
    subject = key_sets(refresh_s=0.2)
    subject.prepare([server.url])
    assert subject.wait(5)
    generation = subject.generation(server.url)
    subject.retain([])
    for _ in range(100):
        assert has(subject, server.url, "a")
    assert len(server.asked) == 1
    began_s = time.monotonic()
    while len(server.asked) < 3:
        assert has(subject, server.url, "a")
        assert subject.generation(server.url) == generation
        assert time.monotonic() - began_s < 10
        time.sleep(0.01)
    assert time.monotonic() - began_s >= 0.3
    wait_for(lambda: server.url not in subject._sets)
    assert len(server.asked) <= 4, "one more for who asked just before"


def test_a_set_that_is_named_again_is_there_at_once(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """Policies were replaced and put back: nothing is fetched, and nothing is lost later."""
    subject = key_sets(refresh_s=0.1)
    subject.prepare([server.url])
    assert subject.wait(5)
    subject.retain([])
    subject.prepare([server.url])
    assert len(server.asked) == 1
    wait_for(partial(server.asked_since, 3))
    assert has(subject, server.url, "a")


def test_a_set_that_nobody_names_is_fetched_only_while_it_is_asked_for(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """A request of policies that are long gone does not keep it for ever."""
    subject = key_sets(refresh_s=0.02)
    subject.find(server.url, "a")
    wait_for(lambda: server.url not in subject._sets)
    asked = len(server.asked)
    time.sleep(0.1)
    assert (asked, len(server.asked)) == (1, 1)


def test_a_start_does_not_wait_for_what_is_dropped(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """Even before it was ever fetched."""
    subject = key_sets()
    subject.close()
    subject.prepare([server.url])
    subject.retain([])
    waiting = threading.Timer(0.1, subject.start)
    waiting.start()
    began_s = time.monotonic()
    assert subject.wait(5)
    assert time.monotonic() - began_s < 3
    assert server.asked == []
    waiting.join()


def test_a_bug_does_not_end_the_thread(
    key_sets: Callable[..., JwksKeySets],
    server: KeyServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told with its trace, and the keys come once it is gone."""
    monkeypatch.setattr("usageflow.middleware.key_sets.BACKOFF_S_MIN", 0.01)
    with monkeypatch.context() as patched:

        def buggy(*_: object) -> bytes:
            raise KeyError("bug")

        patched.setattr("usageflow.middleware.key_sets.fetch", buggy)
        subject = key_sets()
        subject.prepare([server.url])
        assert not subject.wait(5)
    wait_for(lambda: has(subject, server.url, "a"))
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_after_closing_nothing_is_fetched(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """The keys stay; `start` goes on."""
    subject = key_sets(refresh_s=0.02)
    subject.prepare([server.url])
    assert subject.wait(5)
    subject.close()
    subject.close()
    asked = len(server.asked)
    assert has(subject, server.url, "a")
    assert not has(subject, f"{server.url}&other", "a")
    time.sleep(0.1)
    assert len(server.asked) == asked
    subject.start()
    subject.start()
    wait_for(lambda: len(server.asked) > asked)


def test_without_key_servers_there_is_no_thread(key_sets: Callable[..., JwksKeySets]) -> None:
    """Most apps have none."""
    subject = key_sets()
    before = threading.active_count()
    subject.start()
    subject.prepare([])
    assert subject.wait(5)
    assert threading.active_count() == before


def test_closing_does_not_wait_for_a_slow_server(
    key_sets: Callable[..., JwksKeySets], server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is a daemon and ends by itself."""
    monkeypatch.setattr("usageflow.middleware.key_sets.CLOSE_S_MAX", 0.05)
    server.gate.clear()
    subject = key_sets()
    subject.prepare([server.url])
    wait_for(lambda: server.asked)
    began_s = time.monotonic()
    subject.close()
    assert time.monotonic() - began_s < 1


def test_a_forked_child_has_keys_and_refreshes_them(
    key_sets: Callable[..., JwksKeySets], server: KeyServer
) -> None:
    """The parent's keys at once; its own thread with the first need."""
    subject = key_sets(refresh_s=0.05)
    subject.prepare([server.url])
    assert subject.wait(5)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        at_once = has(subject, server.url, "a")
        os.write(write, b"1" if at_once else b"0")
        deadline = time.monotonic() + 5
        while not has(subject, server.url, "b") and time.monotonic() < deadline:
            time.sleep(0.01)
        os.write(write, b"1" if has(subject, server.url, "b") else b"0")
        os._exit(0)
    assert os.read(read, 1) == b"1"
    server.content = jwks("b")
    assert os.read(read, 1) == b"1"
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, which no authority has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return path


def test_a_key_server_must_prove_who_it_is(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate is verified with the authorities that the machine trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = KeyServer(context)
    try:
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch(server.url, timeout_s=5)
        assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(server.url, timeout_s=5) == jwks("a")
    finally:
        server.close()
