"""One POST, against real sockets: where it goes, how long it takes, what is kept of the answer."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from usageflow.webhooks import posting
from usageflow.webhooks.posting import Outcome, Poster, Resolve

BODY = b'{"amount":1.50}'


def known(*addresses: str) -> Resolve:
    """A name server that has these addresses for every name."""

    def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


@contextmanager
def saying(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that reads the head of one request and then talks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_request_arrives_as_it_is(poster: Poster, receiver: Any) -> None:
    """Path, query, headers, the Host of the URL, and the very bytes of the body."""
    receiver.reply = lambda _: (202, b"taken")
    outcome = poster.post(receiver.url + "?a=b", {"webhook-id": "evt_1"}, BODY)
    assert (outcome.status, outcome.error, outcome.answer) == (202, None, "taken")
    assert 0 <= outcome.duration_ms < 5_000
    (request,) = receiver.requests
    assert (request["path"], request["body"]) == ("/hook?a=b", BODY)
    assert request["headers"]["webhook-id"] == "evt_1"
    assert request["headers"]["host"] == receiver.url.split("/")[2]


def test_the_connection_goes_to_the_address_that_was_checked(
    trusting: ssl.SSLContext, tls_receiver: Any
) -> None:
    """Of a name that only our resolver knows; TLS is verified by that name, which Host has, too."""
    poster = Poster(private=True, tls=trusting, resolve=known("127.0.0.1"))
    outcome = poster.post(tls_receiver.url, {}, BODY)
    assert (outcome.status, outcome.error) == (200, None)
    assert tls_receiver.requests[0]["headers"]["host"].startswith("hooks.example:")


def test_the_certificate_is_verified(trusting: ssl.SSLContext, tls_receiver: Any) -> None:
    """One of another name, or of an unknown authority, ends it before a byte of the event."""
    resolve = known("127.0.0.1")
    wrong_name = tls_receiver.url.replace("hooks.example", "other.example")
    outcome = Poster(private=True, tls=trusting, resolve=resolve).post(wrong_name, {}, BODY)
    assert outcome.status is None
    assert "other.example" in str(outcome.error)
    unknown = Poster(private=True, tls=ssl.create_default_context(), resolve=resolve)
    outcome = unknown.post(tls_receiver.url, {}, BODY)
    assert "CERTIFICATE_VERIFY_FAILED" in str(outcome.error)
    assert tls_receiver.requests == []


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("::ffff:127.0.0.1",), ("169.254.169.254",), ()],
    ids=range(5),
)
def test_a_private_address_is_sent_nothing(
    trusting: ssl.SSLContext, receiver: Any, addresses: tuple[str, ...]
) -> None:
    """Not even one among public ones; the reason does not tell the address."""
    poster = Poster(private=False, tls=trusting, resolve=known(*addresses))
    outcome = poster.post(receiver.url.replace("127.0.0.1", "a.example"), {}, BODY)
    assert outcome.status is None
    assert outcome.error == (
        "a.example is not at a public address, so nothing was sent; the server's setting "
        "USAGEFLOW_WEBHOOKS_PRIVATE=on permits it"
    )
    assert receiver.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "0"])
def test_spellings_of_loopback(trusting: ssl.SSLContext, receiver: Any, host: str) -> None:
    """However it is written, the system's resolver tells where it would lead."""
    poster = Poster(private=False, tls=trusting)
    outcome = poster.post(receiver.url.replace("127.0.0.1", host), {}, BODY)
    assert outcome.status is None
    assert receiver.requests == []


def test_a_redirect_is_not_followed(poster: Poster, receiver: Any) -> None:
    """It would lead to an address that nobody checked."""
    receiver.reply = lambda _: (307, b"")
    outcome = poster.post(receiver.url, {}, BODY)
    assert outcome.status == 307
    assert outcome.error == "answered 307: redirects are not followed, give the final URL"
    assert len(receiver.requests) == 1


def test_no_proxy_is_asked(poster: Poster, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name anew."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    assert poster.post(receiver.url, {}, BODY).status == 200


def test_the_next_address_is_tried(trusting: ssl.SSLContext, receiver: Any) -> None:
    """If the first takes no connection."""
    poster = Poster(private=True, tls=trusting, resolve=known("127.0.0.2", "127.0.0.1"))
    url = receiver.url.replace("127.0.0.1", "a.example")
    assert poster.post(url, {}, BODY).status == 200


def test_of_the_answer_the_beginning_is_kept(poster: Poster, receiver: Any) -> None:
    """As text that both databases can store, however long and whatever bytes it is."""
    receiver.reply = lambda _: (500, b"\x00\x1b[2J\xff\n" + b"x" * 1_000_000)
    outcome = poster.post(receiver.url, {}, BODY)
    assert (outcome.status, outcome.error) == (500, "answered 500")
    assert outcome.answer == "\ufffd\ufffd[2J\ufffd\n" + "x" * (1_000 - 7)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://x/", "the URL must begin with https:// or http://"),
        (f"http://{'x' * 64}.invalid/", f"{'x' * 64}.invalid cannot be looked up: "),
        ("http://127.0.0.1:1/", "[Errno 111] Connection refused"),
    ],
    ids=["no URL", "no such name", "refused"],
)
def test_what_cannot_be_reached(poster: Poster, url: str, error: str) -> None:
    """The reason is in words."""
    outcome = poster.post(url, {}, BODY)
    assert outcome.status is None
    assert str(outcome.error).startswith(error)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "Server disconnected without sending a response."),
        (b"no HTTP at all\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "Receive buffer too long"),
    ],
    ids=["closed", "not HTTP", "endless head"],
)
def test_what_is_no_answer(poster: Poster, said: bytes, error: str) -> None:
    """Half an answer, or none, is no success; nothing is raised."""
    with saying(lambda connection: connection.sendall(said)) as url:
        outcome = poster.post(url, {}, BODY)
    assert outcome.status is None
    assert error in str(outcome.error)


def drop_by_drop(begin: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    """A server that says a little now and then, for minutes."""

    def talk(connection: socket.socket) -> None:
        try:
            connection.sendall(begin)
            for _ in range(5_000):
                connection.sendall(drop)
                time.sleep(0.02)
        except OSError:
            return

    return talk


def test_a_head_in_drops_ends(trusting: ssl.SSLContext) -> None:
    """Each byte is in time, the whole is not."""
    poster = Poster(private=True, tls=trusting, total_s=0.3)
    with saying(drop_by_drop(b"HTTP/1.1 200 OK\r\nx: ", b"y")) as url:
        outcome = poster.post(url, {}, BODY)
    assert (outcome.status, outcome.error) == (None, "no answer in time")


def test_of_an_answer_in_drops_the_status_counts(trusting: ssl.SSLContext) -> None:
    """And what came of the rest is kept."""
    poster = Poster(private=True, tls=trusting, total_s=0.3)
    with saying(drop_by_drop(b"HTTP/1.1 200 OK\r\n\r\n", b"y")) as url:
        outcome = poster.post(url, {}, BODY)
    assert (outcome.status, outcome.error) == (200, None)
    assert set(outcome.answer) == {"y"}


def test_a_tls_server_that_is_silent_ends(trusting: ssl.SSLContext) -> None:
    """The handshake is within the time, too."""
    poster = Poster(private=True, tls=trusting, total_s=0.3)
    with saying(lambda _: time.sleep(0.6)) as url:
        outcome = poster.post(url.replace("http:", "https:"), {}, BODY)
    assert (outcome.status, outcome.error) == (None, "no connection in time")


def test_looking_up_takes_of_the_time(trusting: ssl.SSLContext, receiver: Any) -> None:
    """When the name was slow there is none left, and nothing is sent: the lease may be over."""
    times = iter([0.0, 100.0, 100.0, 100.0])
    poster = Poster(private=True, tls=trusting, clock=lambda: next(times))
    outcome = poster.post(receiver.url, {}, BODY)
    assert outcome == Outcome(None, "no answer in time", "", 100_000)
    assert receiver.requests == []


def test_an_error_is_short(poster: Poster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a name server or a certificate has in it."""

    def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError("\x00" + "x" * 5_000)

    outcome = Poster(private=True, tls=poster.tls, resolve=resolve).post("http://a/", {}, b"")
    assert outcome.error is not None
    assert outcome.error.startswith("a cannot be looked up: \ufffdxx")
    assert len(outcome.error) == posting.ERROR_CHARS_MAX
